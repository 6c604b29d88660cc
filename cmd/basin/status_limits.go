package main

import (
	"fmt"
	"strings"
	"time"

	"basin/internal/getopt"
	"basin/internal/usererr"
)

// limit is how old something may be: past Warning is a warning, past Critical is critical. Zero is
// however old.
type limit struct{ Warning, Critical time.Duration }

// limitOption takes AGE, AGE:AGE or off.
func limitOption(long string, field *limit) getopt.Option {
	return getopt.Option{Long: long, Value: func(value string) (err error) {
		*field, err = parseLimit(value)
		return err
	}}
}

// parseLimit reads a limit: the age past which there is a warning, and that past which it is critical, which is twice
// as much unless it is said.
func parseLimit(value string) (l limit, err error) {
	if value == "off" {
		return limit{}, nil
	}
	warning, critical, isPair := strings.Cut(value, ":")
	if l.Warning, err = parseShortAge(warning); err != nil {
		return limit{}, err
	}
	l.Critical = 2 * l.Warning
	if isPair {
		if l.Critical, err = parseShortAge(critical); err != nil {
			return limit{}, err
		}
	}
	if l.Critical < l.Warning {
		return limit{}, usererr.Hinted("Say the age for a warning first: 26h:50h.", "invalid limit \"%s\": it is critical before it is a warning", value)
	}
	return l, nil
}

// parseShortAge is parseAge with minutes.
func parseShortAge(value string) (time.Duration, error) {
	if number, isMinutes := strings.CutSuffix(value, "m"); isMinutes {
		n, err := parseInt(number, "minutes", 1, 1<<30)
		return time.Duration(n) * time.Minute, err
	}
	age, err := parseAge(value)
	if err != nil {
		return 0, usererr.Hinted("Say it in minutes, hours, days or weeks: 90m, 26h, 7d, 4w; or off.", "invalid time \"%s\"", value)
	}
	return age, nil
}

// state is what monitoring systems know of something. Its number is the exit status of a plugin of Nagios.
type state int

// The states.
const (
	stateOK state = iota
	stateWarning
	stateCritical
	stateUnknown
)

// String returns the state as Nagios writes it.
func (s state) String() string { return [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}[s] }

// MarshalText returns what String does.
func (s state) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *state) UnmarshalText(text []byte) error {
	for *s = stateOK; *s <= stateUnknown; *s++ {
		if s.String() == string(text) {
			return nil
		}
	}
	return fmt.Errorf("%q is no state", text)
}

// weight orders states: what is not known is worse than what is right, and no better than what is known to be wrong.
func (s state) weight() int { return [...]int{0, 2, 3, 1}[s] }

// worse returns the worse of two states.
func (s state) worse(other state) state {
	if other.weight() > s.weight() {
		return other
	}
	return s
}

// judge returns what is to be said of an age.
func (l limit) judge(age time.Duration) state {
	switch {
	case l.Critical > 0 && age > l.Critical:
		return stateCritical
	case l.Warning > 0 && age > l.Warning:
		return stateWarning
	}
	return stateOK
}

// ageText returns an age for people: the two largest units.
func ageText(age time.Duration) string {
	if age < 0 {
		return "in " + ageText(-age)
	}
	units := []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}}
	for i, u := range units {
		if age < u.size {
			continue
		}
		text := fmt.Sprintf("%d %s", age/u.size, u.name)
		if i+1 < len(units) && age%u.size >= units[i+1].size {
			text += fmt.Sprintf(" %d %s", age%u.size/units[i+1].size, units[i+1].name)
		}
		return text
	}
	return "0 s"
}
