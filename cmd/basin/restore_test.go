package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// TestTargetTimes reads times as people write them.
func TestTargetTimes(t *testing.T) {
	fixed := time.FixedZone("", 2*60*60)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		text string
		zone *time.Location
		want string   // in UTC; empty for what is refused
		says []string // in the error or its hint
	}{
		{"2026-11-26 14:30:00+01", fixed, "2026-11-26 13:30:00 UTC", nil},
		{"2026-11-26 14:30:00.123456+01", fixed, "2026-11-26 13:30:00.123456 UTC", nil},
		{"2026-11-26 14:30:00+05:30", fixed, "2026-11-26 09:00:00 UTC", nil},
		{"2026-11-26 14:30:00 +0530", fixed, "2026-11-26 09:00:00 UTC", nil},
		{"2026-11-26 14:30+01", fixed, "2026-11-26 13:30:00 UTC", nil},
		{"2026-11-26T14:30:00Z", fixed, "2026-11-26 14:30:00 UTC", nil},
		{"2026-11-26 14:30:00 UTC", fixed, "2026-11-26 14:30:00 UTC", nil},
		{"2026-11-26 14:30 UTC", fixed, "2026-11-26 14:30:00 UTC", nil},
		{"2026-11-26 14:30:00", fixed, "2026-11-26 12:30:00 UTC", nil}, // the host's zone
		{"2026-11-26 14:30", fixed, "2026-11-26 12:30:00 UTC", nil},
		{" 2026-11-26 14:30\n", fixed, "2026-11-26 12:30:00 UTC", nil},
		{"2026-11-26 14:30:00 XYZ", fixed, "", []string{"invalid time"}}, // which zone that is nobody knows
		{"yesterday", fixed, "", []string{"invalid time"}},
		{"", fixed, "", []string{"invalid time"}},

		{"2026-07-01 14:30 Europe/Berlin", fixed, "2026-07-01 12:30:00 UTC", nil},
		{"2026-12-01 14:30:00.5 America/Argentina/Ushuaia", fixed, "2026-12-01 17:30:00.5 UTC", nil},
		{"2026-12-01 14:30 Europe/Atlantis", fixed, "", []string{`no time zone "Europe/Atlantis"`}},
		{"2026-12-01 14:30 ../etc/passwd", fixed, "", []string{"no time zone"}},
		// Clocks are set back at 03:00, and forward at 02:00.
		{"2026-10-25 01:59:59 Europe/Berlin", fixed, "2026-10-24 23:59:59 UTC", nil},
		{"2026-10-25 02:30 Europe/Berlin", fixed, "", []string{"twice", "02:30:00+02:00 is 2026-10-25 00:30:00 UTC", "02:30:00+01:00 is 2026-10-25 01:30:00 UTC"}},
		{"2026-10-25 02:30", berlin, "", []string{"twice"}},
		{"2026-10-25 02:30 CET", berlin, "2026-10-25 01:30:00 UTC", nil},
		{"2026-10-25 02:30 CEST", berlin, "2026-10-25 00:30:00 UTC", nil},
		{"2026-10-25 02:30:00+02", berlin, "2026-10-25 00:30:00 UTC", nil},
		{"2026-10-25 03:00", berlin, "2026-10-25 02:00:00 UTC", nil},
		{"2026-03-29 02:30", berlin, "", []string{"never showed", "02:30:00+01:00 is 2026-03-29 01:30:00 UTC", "02:30:00+02:00 is 2026-03-29 00:30:00 UTC"}},
		{"2026-03-29 03:00", berlin, "2026-03-29 01:00:00 UTC", nil},
		{"2011-12-30 12:00 Pacific/Apia", fixed, "", []string{"never showed"}}, // a whole day
	} {
		got, err := parseTimeIn(test.text, test.zone, "")
		if (err != nil) != (test.want == "") || err == nil && stamp(got) != test.want {
			t.Errorf("%q is %s, error %v; want %q", test.text, stamp(got), err, test.want)
		}
		for _, says := range test.says {
			if err != nil && !strings.Contains(err.Error()+usererr.Hint(err), says) {
				t.Errorf("%q: %v, hint %q; want %q", test.text, err, usererr.Hint(err), says)
			}
		}
	}
	// A host whose zone is not known is taken for one in UTC.
	if _, err := parseTimeIn("2026-11-26 14:30", time.UTC, "Europe/Atlantis"); err == nil || !strings.Contains(err.Error(), "TZ is") {
		t.Errorf("of a zone that there is not: %v", err)
	}
	if _, err := parseTimeIn("2026-11-26 14:30+01", time.UTC, "Europe/Atlantis"); err != nil {
		t.Error(err)
	}
}

// TestZonesAreBuiltIn finds a zone on a host that has none.
func TestZonesAreBuiltIn(t *testing.T) {
	t.Setenv("ZONEINFO", os.DevNull)
	for _, name := range []string{"Europe/Berlin", "Asia/Kolkata"} {
		if _, err := time.LoadLocation(name); err != nil {
			t.Error(err)
		}
	}
}

// TestSpace adds up what is needed of a file system.
func TestSpace(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	needs := addSpace(nil, filepath.Join(dir, "not", "there"), 100, false)
	needs = addSpace(needs, dir, 200, true)
	if len(needs) != 1 || needs[0].need != 300 || needs[0].there < 1<<20 || needs[0].free == 0 || !needs[0].fits() {
		t.Fatalf("%+v", needs)
	}
	needs[0].need = needs[0].there + needs[0].free + 1
	run := &restoreRun{}
	err := run.checkSpace(&restorePlan{space: needs})
	if err == nil || !strings.Contains(err.Error(), "too small") || !strings.Contains(usererr.Hint(err), "--no-space-check") {
		t.Errorf("%v, hint %q", err, usererr.Hint(err))
	}
	run.o.NoSpaceCheck = true
	if err := run.checkSpace(&restorePlan{space: needs}); err != nil {
		t.Error(err)
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
// TestTargetsBeforeAPosition tells which targets recovery reaches first.
func TestTargetsBeforeAPosition(t *testing.T) {
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	later := wal.Transactions{Count: 1, Earliest: noon.Add(time.Second)}
	for _, test := range []struct {
		plan restorePlan
		want bool
	}{
		{restorePlan{}, false},
		{restorePlan{target: recoveryTarget{kind: "lsn", lsn: 99}, stops: 99}, true},
		{restorePlan{target: recoveryTarget{kind: "lsn", lsn: 100}, stops: 100}, false},
		{restorePlan{target: recoveryTarget{kind: "time", time: noon}}, true},
		{restorePlan{target: recoveryTarget{kind: "time", time: noon.Add(time.Minute)}}, false},
		{restorePlan{target: recoveryTarget{kind: "immediate"}}, true},
		{restorePlan{commit: repo.Commit{Stop: wal.Position{LSN: 101}}, target: recoveryTarget{kind: "immediate"}}, false},
		{restorePlan{target: recoveryTarget{kind: "name", name: "x"}}, false},
		{restorePlan{target: recoveryTarget{kind: "name", name: "x"}, stops: 99}, true},
		{restorePlan{target: recoveryTarget{kind: "xid", xid: 7}, stops: 101}, false},
	} {
		if got := test.plan.isBefore(100, later); got != test.want {
			t.Errorf("%s: %t", test.plan.target, got)
		}
	}
	if strings.Contains(recoveryTarget{}.String(), "0") {
		t.Error("no target has a number")
	}
}

// TestBackupToRestore names one as show and forget take it.
func TestBackupToRestore(t *testing.T) {
	location, ids := newRepository(t)
	_, c, err := openCluster(t.Context(), repositoryOptions{Location: location, SystemID: 7})
	if err == nil {
		err = c.PushLog(t.Context(), wal.HistoryName(3), []byte("1\t0/1000000\tbefore\n"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		ids[1]: "log that backup " + ids[1], ids[1][:12]: "log that backup " + ids[1], "latest": "log that backup " + ids[2],
		"2026": `2 backups of cluster shop/7 begin with "2026"`, "2025": `no backup "2025"`,
	} {
		_, err := callBasin(t, "restore", "--repository="+location, "--system-id=7", "-D", filepath.Join(t.TempDir(), "data"), "--dry-run", "-b", name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
