package main

import (
	"strings"
	"testing"
	"time"

	"basin/internal/wal"
)

// TestTargetTimes reads times as people write them.
func TestTargetTimes(t *testing.T) {
	zone := time.FixedZone("", 2*60*60)
	for _, test := range []struct {
		text, want string // in UTC; empty for what is no time
	}{
		{"2026-11-26 14:30:00+01", "2026-11-26 13:30:00 UTC"},
		{"2026-11-26 14:30:00.123456+01", "2026-11-26 13:30:00.123456 UTC"},
		{"2026-11-26 14:30:00+05:30", "2026-11-26 09:00:00 UTC"},
		{"2026-11-26T14:30:00Z", "2026-11-26 14:30:00 UTC"},
		{"2026-11-26 14:30:00 UTC", "2026-11-26 14:30:00 UTC"},
		{"2026-11-26 14:30:00", "2026-11-26 12:30:00 UTC"}, // the host's zone
		{"2026-11-26 14:30", "2026-11-26 12:30:00 UTC"},
		{"2026-11-26 14:30:00 XYZ", ""}, // which zone that is nobody knows
		{"yesterday", ""},
		{"", ""},
	} {
		got, err := parseTargetTime(test.text, zone)
		if (err != nil) != (test.want == "") || err == nil && stamp(got) != test.want {
			t.Errorf("%q is %s, error %v; want %q", test.text, stamp(got), err, test.want)
		}
	}
}

// TestTargetsSayWhatTheyAre shows targets as the plan does.
func TestTargetsSayWhatTheyAre(t *testing.T) {
	for _, test := range []struct {
		target recoveryTarget
		want   string
	}{
		{recoveryTarget{}, "the end of the log"},
		{recoveryTarget{kind: "lsn", lsn: 0x1A000028, exclusive: true}, "0/1A000028, which is left out"},
		{recoveryTarget{kind: "xid", xid: 777}, "transaction 777"},
		{recoveryTarget{kind: "name", name: "before"}, `restore point "before"`},
		{recoveryTarget{kind: "immediate"}, "as soon as the cluster is consistent"},
		{recoveryTarget{kind: "time", time: time.Date(2026, 11, 26, 14, 0, 0, 500000000, time.FixedZone("", 3600))}, "2026-11-26 13:00:00.5 UTC (2026-11-26 14:00:00.5+01:00)"},
	} {
		if got := test.target.String(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

// TestShellWords quotes what a shell would take for something else.
func TestShellWords(t *testing.T) {
	for word, want := range map[string]string{
		"/srv/backup": "/srv/backup", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "100%": "'100%'",
	} {
		if got := shellWord(word); got != want {
			t.Errorf("%q is %s, want %s", word, got, want)
		}
	}
}

// TestTargetsBeforeAPosition tells which targets recovery reaches first.
func TestTargetsBeforeAPosition(t *testing.T) {
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	later := wal.Transactions{Count: 1, Earliest: noon.Add(time.Second)}
	for _, test := range []struct {
		target recoveryTarget
		want   bool
	}{
		{recoveryTarget{}, false},
		{recoveryTarget{kind: "lsn", lsn: 99}, true},
		{recoveryTarget{kind: "lsn", lsn: 100}, false},
		{recoveryTarget{kind: "time", time: noon}, true},
		{recoveryTarget{kind: "time", time: noon.Add(time.Minute)}, false},
		{recoveryTarget{kind: "immediate"}, true},
		{recoveryTarget{kind: "name", name: "x"}, false},
	} {
		if got := test.target.isBefore(100, later); got != test.want {
			t.Errorf("%s: %t", test.target, got)
		}
	}
	if strings.Contains(recoveryTarget{}.String(), "0") {
		t.Error("no target has a number")
	}
}
