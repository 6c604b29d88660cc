package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // for hosts that have no database of zones: 0.4 MB

	"basin/internal/usererr"
)

// Times of day as people write them. Those that end with a zone come first.
var (
	zonedLayouts = []string{
		time.RFC3339Nano,
		"2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z0700",
		"2006-01-02 15:04:05.999999999 Z07:00", "2006-01-02 15:04:05.999999999 Z07", "2006-01-02 15:04:05.999999999 Z0700",
		"2006-01-02 15:04Z07:00", "2006-01-02 15:04Z07", "2006-01-02 15:04 Z07:00", "2006-01-02 15:04 Z07",
	}
	letterLayouts = []string{"2006-01-02 15:04:05.999999999 MST", "2006-01-02 15:04 MST"}
	localLayouts  = []string{"2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04"}
)

// parseTargetTime reads a time as a user gives it. Without a zone it is in this host's.
func parseTargetTime(value string) (time.Time, error) {
	return parseTimeIn(value, time.Local, os.Getenv("TZ"))
}

// parseTimeIn reads a time. Without a zone it is in zone, which was chosen by a name; empty is none. A
// time of day that there are two of on that day, or none, as clocks were changed, is refused.
func parseTimeIn(value string, zone *time.Location, chosen string) (time.Time, error) {
	value = strings.TrimSpace(value)
	if t, err := parseLayouts(zonedLayouts, value, zone); err == nil {
		return t, nil
	}
	local, name := value, ""
	if at := strings.LastIndexByte(value, ' '); at > 0 && strings.Contains(value[at:], "/") {
		local, name = strings.TrimSpace(value[:at]), value[at+1:]
	}
	wall, err := parseLayouts(localLayouts, local, time.UTC)
	switch {
	case err != nil && name == "":
		if t, err := parseLayouts(letterLayouts, value, zone); err == nil {
			// Letters name no zone for certain, but for these and those of the host's.
			if name, offset := t.Zone(); name == "UTC" || name == "GMT" || offset != 0 {
				return t, nil
			}
		}
		fallthrough
	case err != nil:
		return time.Time{}, usererr.Hinted("Say it as \"2026-11-26 14:30:00+01\" or \"2026-11-26 14:30 Europe/Berlin\". Without a zone it is in this host's.",
			"invalid time \"%s\"", value)
	case name != "":
		if zone, err = time.LoadLocation(name); err != nil {
			return time.Time{}, usererr.Hinted("Say the distance to UTC instead, as in \"2026-11-26 14:30:00+01\".", "there is no time zone \"%s\"", name)
		}
	case chosen != "":
		if _, err := time.LoadLocation(strings.TrimPrefix(chosen, ":")); err != nil && !strings.HasPrefix(strings.TrimPrefix(chosen, ":"), "/") {
			// It would be taken for UTC, and nobody would be told.
			return time.Time{}, usererr.Hinted("Say the distance to UTC, as in \"2026-11-26 14:30:00+01\".",
				"it is not known which time \"%s\" is: the environment's TZ is \"%s\", and there is no such time zone", value, chosen)
		}
	}
	return onlyTime(wall, zone, value)
}

// parseLayouts reads a time in the first layout that fits.
func parseLayouts(layouts []string, value string, zone *time.Location) (t time.Time, err error) {
	for _, layout := range layouts {
		if t, err = time.ParseInLocation(layout, value, zone); err == nil {
			return t, nil
		}
	}
	return t, err
}

// onlyTime returns when clocks in a zone show a time of day, which is given as if it were UTC.
func onlyTime(wall time.Time, zone *time.Location, value string) (time.Time, error) {
	// Wherever a clock is changed by more than a day is none of the zones that are.
	var offsets []int
	for _, hours := range []time.Duration{-48, 0, 48} {
		if _, offset := wall.Add(hours * time.Hour).In(zone).Zone(); !slices.Contains(offsets, offset) {
			offsets = append(offsets, offset)
		}
	}
	var right, readings []string
	var found time.Time
	for _, offset := range offsets {
		t := wall.Add(-time.Duration(offset) * time.Second).In(zone)
		readings = append(readings, fmt.Sprintf("%s is %s", wall.Format("2006-01-02 15:04:05.999999999")+zoneOf(offset), stamp(t)))
		if _, real := t.Zone(); real == offset {
			right = append(right, readings[len(readings)-1])
			found = t
		}
	}
	hint := "Say which is meant, with the distance to UTC: "
	switch {
	case len(right) == 1:
		return found, nil
	case len(right) > 1:
		return found, usererr.Hinted(hint+strings.Join(right, ", ")+".", "clocks were set back in %v then, and showed \"%s\" twice", zone, value)
	}
	return found, usererr.Hinted(hint+strings.Join(readings, ", ")+".", "clocks were set forward in %v then, and never showed \"%s\"", zone, value)
}

// zoneOf returns a distance to UTC in seconds as times have it.
func zoneOf(offset int) string {
	return time.Unix(0, 0).In(time.FixedZone("", offset)).Format("-07:00")
}
