package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"basin/internal/checkup"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

func TestParseLimit(t *testing.T) {
	for value, want := range map[string]limit{
		"26h":     {26 * time.Hour, 52 * time.Hour},
		"90m:4h":  {90 * time.Minute, 4 * time.Hour},
		"7d":      {7 * 24 * time.Hour, 14 * 24 * time.Hour},
		"1w:1w":   {7 * 24 * time.Hour, 7 * 24 * time.Hour},
		"off":     {},
		"":        {-1, 0},
		"26":      {-1, 0},
		"2h:1h":   {-1, 0},
		"1h:":     {-1, 0},
		"0m":      {-1, 0},
		"1h:off":  {-1, 0},
		"1h:2h:3": {-1, 0},
	} {
		got, err := parseLimit(value)
		if (err != nil) != (want.Warning < 0) || err == nil && got != want {
			t.Errorf("%q is %v, error %v", value, got, err)
		}
	}
}

func TestStates(t *testing.T) {
	l := limit{time.Hour, 2 * time.Hour}
	for age, want := range map[time.Duration]state{time.Hour: stateOK, 61 * time.Minute: stateWarning, 121 * time.Minute: stateCritical} {
		if got := l.judge(age); got != want {
			t.Errorf("%v is %v", age, got)
		}
	}
	if got := (limit{}).judge(1 << 62); got != stateOK {
		t.Errorf("without a limit: %v", got)
	}
	order := []state{stateOK, stateUnknown, stateWarning, stateCritical}
	for i, a := range order {
		for j, b := range order {
			if got := a.worse(b); got != order[max(i, j)] {
				t.Errorf("of %v and %v the worse is %v", a, b, got)
			}
		}
	}
	for age, want := range map[time.Duration]string{0: "0 s", 90 * time.Second: "1 min 30 s", 49 * time.Hour: "2 d 1 h", 24 * time.Hour: "1 d", -time.Minute: "in 1 min"} {
		if got := ageText(age); got != want {
			t.Errorf("%v is %q", age, got)
		}
	}
}

// statusOfRepository returns what status prints, and its exit status.
func statusOfRepository(t *testing.T, args ...string) (string, int) {
	t.Helper()
	said, err := callBasin(t, append([]string{"status"}, args...)...)
	if errors.As(err, new(reported)) {
		err = exitStatus{nil, statusOf(err)}
	}
	return said, statusOf(err)
}

// TestStatusWithoutLog is of backups that cannot be restored, since their log is missing, of one name that two clusters have had.
func TestStatusWithoutLog(t *testing.T) {
	location, ids := newRepository(t)
	said, exit := statusOfRepository(t, "--repository="+location)
	first, _, _ := strings.Cut(said, "\n")
	if exit != 2 || !strings.HasPrefix(first, "BASIN CRITICAL - shop: backup "+ids[2]+" cannot be restored: ") || strings.Contains(said, ids[0]) {
		t.Errorf("%d: %s", exit, said)
	}
	if strings.Count(first, "|") != 1 || !strings.Contains(first, " | clusters=1 critical=1 warning=0 unknown=0 'shop backup age'=") {
		t.Errorf("the first line is %s", first)
	}
	if said, exit := statusOfRepository(t, "--repository="+location, "--system-id=99", "--cluster=shop"); exit != 2 || !strings.Contains(said, ids[0]) {
		t.Errorf("of the older: %d: %s", exit, said)
	}
}

// TestStatusOfNextCluster is of a cluster after pg_upgrade, of which log came and no backup was taken yet: the backups
// of what it was before keep nobody from knowing.
func TestStatusOfNextCluster(t *testing.T) {
	location, ids := newRepository(t)
	name := filepath.Join(location, "shop", "11", "wal", "00000001", "00000000", "000000010000000000000001")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("log"), 0o600); err != nil {
		t.Fatal(err)
	}
	said, exit := statusOfRepository(t, "--repository="+location)
	if exit != 2 || !strings.Contains(said, "there is no good backup of system identifier 11") || !strings.Contains(said, ids[2]) {
		t.Errorf("when log came: %d: %s", exit, said)
	}
	before := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := os.Chtimes(name, before, before); err != nil {
		t.Fatal(err)
	}
	if said, _ := statusOfRepository(t, "--repository="+location); strings.Contains(said, "there is no good backup") || !strings.Contains(said, ids[2]) {
		t.Errorf("when none came since: %s", said)
	}
	repository, err := openRepository(t.Context(), repositoryOptions{Location: location})
	if err != nil {
		t.Fatal(err)
	}
	names, err := repository.Clusters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint64{7, 11, 99} {
		r := statusReport{Time: time.Now()}
		o := statusOptions{Jobs: 1, server: &checkup.Server{SystemID: id, Timeline: 1}}
		if err := r.readClusters(t.Context(), repository, names, &o); err != nil {
			t.Fatal(err)
		}
		if len(r.Clusters) != 1 || r.Clusters[0].name.SystemID != id {
			t.Errorf("of the server of %d: %+v", id, r.Clusters)
		}
	}
}

// TestStatusAfterPrune has damage be found in log that no backup needs: once it was pruned there is none any more.
func TestStatusAfterPrune(t *testing.T) {
	location, _ := newRepository(t)
	pushSegments(t, clusterOfShop(t, location, 7), 1, 2, 3)
	name := "shop/7/wal/00000003/00000000/000000030000000000000001"
	if err := os.WriteFile(filepath.Join(location, name), []byte("no log"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := callBasin(t, "verify", "--repository="+location, "--system-id=7"); err == nil {
		t.Fatal("no damage was found")
	}
	metrics := filepath.Join(t.TempDir(), "basin.prom")
	for _, content := range []string{"", "no log, either", strings.Repeat("x", 100)} { // what is more damaged is not what was written anew
		if err := os.WriteFile(filepath.Join(location, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if said, _ := statusOfRepository(t, "--repository="+location); !strings.Contains(said, name) {
			t.Errorf("when it is %q: %s", content, said)
		}
	}
	for _, isThere := range []bool{true, false} {
		said, _ := statusOfRepository(t, "--repository="+location, "--prometheus="+metrics)
		content, err := os.ReadFile(metrics)
		if err != nil || strings.Contains(said, name) != isThere || strings.Contains(string(content), "basin_verify_damaged_objects{cluster=\"shop\",system_identifier=\"7\"} 0\n") == isThere {
			t.Errorf("the file is there %v: %s\n%s, %v", isThere, said, content, err)
		}
		if _, err := callBasin(t, "prune", "--repository="+location, "--system-id=7"); err != nil {
			t.Fatal(err)
		}
	}
}

// What keeps it from knowing is unknown, in the first line, and told to Prometheus.
func TestStatusUnknown(t *testing.T) {
	location, ids := newRepository(t)
	metrics := filepath.Join(t.TempDir(), "basin.prom")
	said, exit := statusOfRepository(t, "--repository="+location+"/none", "--prometheus="+metrics)
	if exit != 3 || !strings.HasPrefix(said, "BASIN UNKNOWN - ") || !strings.Contains(said, "basin init makes a repository") {
		t.Errorf("%d: %s", exit, said)
	}
	if content, err := os.ReadFile(metrics); err != nil || !strings.Contains(string(content), "basin_repository_readable 0\n") {
		t.Errorf("metrics are %s, error %v", content, err)
	}
	if said, exit := statusOfRepository(t, "--repository="+location, "--cluster=blog"); exit != 3 || !strings.HasPrefix(said, "BASIN UNKNOWN - there is no cluster blog") {
		t.Errorf("of no cluster: %d: %s", exit, said)
	}
	if _, err := callBasin(t, "status", "--max-backup-age=soon"); statusOf(err) != 3 || !strings.Contains(usererr.Hint(err), "26h") {
		t.Errorf("of no limit: %v", err)
	}
	path := filepath.Join(location, "shop", "7", "backups", ids[2], "commit")
	if err := os.WriteFile(path, []byte("no commit"), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, exit := statusOfRepository(t, "--repository="+location); exit != 2 || !strings.Contains(said, "WARNING: backup "+ids[2]) || !strings.Contains(said, "CRITICAL: backup "+ids[1]) {
		t.Errorf("with one that cannot be read: %d: %s", exit, said)
	}
}

// Of many clusters the worst is told first, and values for graphs only in sum.
func TestStatusOfMany(t *testing.T) {
	var r statusReport
	for i := range 12 {
		s := newStatus(repo.ClusterName{Name: "c" + string(rune('a'+i)), SystemID: 1})
		switch i {
		case 3:
			s.problem(stateWarning, "old")
		case 7:
			s.problem(stateWarning, "old")
			s.problem(stateCritical, "a | bar\n\tand a line\n")
		}
		r.Clusters = append(r.Clusters, s)
		r.State = r.State.worse(s.State)
	}
	lines := strings.Split(string(r.lines()), "\n")
	if want := "BASIN CRITICAL - ch: a / bar; and a line; of 12 clusters 1 critical, 1 warning, 0 unknown | clusters=12 critical=1 warning=1 unknown=0"; lines[0] != want {
		t.Errorf("got  %s\nwant %s", lines[0], want)
	}
	unknown := statusReport{State: stateUnknown, Problem: "connection to server failed: No such file or directory\n\tIs the server running?", hint: "Look."}
	if got, want := string(unknown.lines()), "BASIN UNKNOWN - connection to server failed: No such file or directory; Is the server running?\nLook.\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !strings.HasPrefix(lines[1], "CRITICAL ch: ") || !strings.HasPrefix(lines[4], "WARNING cd: ") || !strings.HasPrefix(lines[6], "OK ca: ") {
		t.Errorf("got %q", lines)
	}
}

// TestStatusWithoutServer asks a server that is not there, and one that never answers: what the repository has is told all the same.
func TestStatusWithoutServer(t *testing.T) {
	location, ids := newRepository(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0") // which accepts, and no more
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for server, want := range map[string]string{
		"host=" + t.TempDir(): "UNKNOWN: the server: connection to server on socket ",
		"host=127.0.0.1 port=" + strconv.Itoa(mute.Addr().(*net.TCPAddr).Port): "UNKNOWN: the server: it has not answered in 5s",
	} {
		metrics := filepath.Join(t.TempDir(), "basin.prom")
		said, exit := statusOfRepository(t, "--repository="+location, "-d", server+" user=x", "--timeout=15", "--prometheus="+metrics)
		first, rest, _ := strings.Cut(said, "\n")
		if exit != 2 || !strings.HasPrefix(first, "BASIN CRITICAL - shop: backup "+ids[2]) || !strings.Contains(rest, want) {
			t.Errorf("%s: %d: %s", server, exit, said)
		}
		if content, err := os.ReadFile(metrics); err != nil || !strings.Contains(string(content), "basin_repository_readable 1\n") || !strings.Contains(string(content), "basin_cluster_state{") {
			t.Errorf("%s: %v, %s", server, err, content)
		}
	}
	r := statusReport{ServerProblem: "the server: it is not there", State: stateUnknown, Clusters: []clusterStatus{newStatus(repo.ClusterName{Name: "a", SystemID: 1})}}
	if got, _, _ := strings.Cut(string(r.lines()), " | "); got != "BASIN UNKNOWN - the server: it is not there" {
		t.Errorf("the first line is %s", got)
	}
}

// TestStatusOfSpace has a repository in a file system with more and less space than is wanted.
func TestStatusOfSpace(t *testing.T) {
	location, _ := newRepository(t)
	const said = "are free where the repository is"
	for _, test := range []struct {
		limit string
		state string // empty for none
	}{{"off", ""}, {"100:0", "WARNING: "}, {"100%:100%", "CRITICAL: "}} {
		got, exit := statusOfRepository(t, "--repository="+location, "--min-free="+test.limit)
		if exit != 2 || test.state == "" && strings.Contains(got, said) || !strings.Contains(got, test.state) || test.state != "" && !strings.Contains(got, said) {
			t.Errorf("%s: %d: %s", test.limit, exit, got)
		}
	}
	r := statusReport{Space: &spaceStatus{State: stateCritical, Free: 44 << 10, Size: 60 << 20}, State: stateCritical, Clusters: []clusterStatus{newStatus(repo.ClusterName{Name: "a", SystemID: 1})}}
	if got, _, _ := strings.Cut(string(r.lines()), " | "); got != "BASIN CRITICAL - 44 KiB of 60 MiB are free where the repository is: basin forget and basin prune free what is not needed" {
		t.Errorf("the first line is %s", got)
	}
	r.Problem, r.Clusters = "nothing is known", nil
	if got := string(r.lines()); !strings.HasPrefix(got, "BASIN CRITICAL - nothing is known\n") || !strings.Contains(got, "CRITICAL: 44 KiB of 60 MiB are free") {
		t.Errorf("if nothing else is known it is %s", got)
	}
	for value, want := range map[string]shareLimit{"off": {}, "10": {10, 2}, "10%": {10, 2}, "20%:3%": {20, 3}, "5:0": {5, 0}} {
		if got, err := parseShareLimit(value); err != nil || got != want {
			t.Errorf("%s is %+v, %v", value, got, err)
		}
	}
	for _, value := range []string{"", "2:3", "101", "a", "5:", "-1"} {
		if got, err := parseShareLimit(value); err == nil {
			t.Errorf("%q is %+v", value, got)
		}
	}
}

func TestCheckWithoutServer(t *testing.T) {
	location, _ := newRepository(t)
	got, err := callBasin(t, "check", "--repository="+location, "--repository-only")
	for _, want := range []string{"✓ repository", "✓ encryption", "✓ store ", "✓ store's clock", "✗ cluster shop", "cannot be restored"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if statusOf(err) != exitFailure {
		t.Errorf("error %v", err)
	}
	got, err = callBasin(t, "check", "--repository="+location, "-h", filepath.Join(location, "nowhere"))
	if statusOf(err) != exitFailure || !strings.Contains(got, "✗ connection") || !strings.Contains(got, "✗ replication") || !strings.Contains(got, "✓ store ") {
		t.Errorf("without a server: %v\n%s", err, got)
	}
	if _, err := callBasin(t, "check", "--repository-only", "-d", "x=y"); err == nil {
		t.Error("a server, and none")
	}
}

// TestMonitoringHelp holds the help of commands to their options.
func TestMonitoringHelp(t *testing.T) {
	var c checkOptions
	var s statusOptions
	var r restoredOptions
	options := map[string][]string{}
	for _, o := range checkTable(&c) {
		options["check"] = append(options["check"], o.Long)
	}
	for _, o := range statusTable(&s) {
		options["status"] = append(options["status"], o.Long)
	}
	for _, o := range restoredTable(&r) {
		options["restored"] = append(options["restored"], o.Long)
	}
	for name, longs := range options {
		help, err := callBasin(t, name, "--help")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(help, "\n") {
			if len([]rune(line)) > 95 || strings.Contains(line, "%!") {
				t.Errorf("%s, %d columns: %s", name, len(line), line)
			}
		}
		for _, long := range longs {
			if !strings.Contains(help, "--"+long) {
				t.Errorf("%s does not tell of --%s", name, long)
			}
		}
	}
}

func TestParseSettings(t *testing.T) {
	got := parseSettings("# a comment = 'x'\nrecovery_target_name = 'it''s'\nPort = 5432 # yes\nrestore_command = 'a \\\\ b %f \"%p\"'\nrecovery_target_name = 'last' \nbroken\nopen = 'x")
	for name, want := range map[string]string{"recovery_target_name": "last", "port": "5432", "restore_command": `a \ b %f "%p"`, "open": "x"} {
		if got[name] != want {
			t.Errorf("%s is %q", name, got[name])
		}
	}
	if len(got) != 4 {
		t.Errorf("got %q", got)
	}
}

// TestRecoveryEnd is of what histories say.
func TestRecoveryEnd(t *testing.T) {
	history := "1\t0/3000000\tbefore 2026-11-26 20:00:00+00\n2\t0/5000098\tafter LSN 0/5000060\n"
	for _, test := range []struct {
		reason   string
		settings map[string]string
		history  string
		reached  bool
		why      string
	}{
		{"the position came", map[string]string{"recovery_target_lsn": "0/5000060", "recovery_target_timeline": "2"}, history, true, "after LSN"},
		{"another did not", map[string]string{"recovery_target_lsn": "0/6000000", "recovery_target_timeline": "2"}, history, false, "before its target"},
		{"excluded, it ends where the record begins", map[string]string{"recovery_target_lsn": "0/50000B0", "recovery_target_timeline": "2", "recovery_target_inclusive": "off"}, history, true, ""},
		{"the log ended before the time, before 13", map[string]string{"recovery_target_time": "2026", "recovery_target_timeline": "1"}, "1\t0/3000000\tno recovery target specified\n", false, "was opened"},
		{"a consistent cluster was wanted", map[string]string{"recovery_target": "immediate", "recovery_target_timeline": "1"}, "1\t0/3000000\treached consistency\n", true, "recovery ended as soon as the cluster was consistent"},
		{"the end of the log was wanted", map[string]string{"recovery_target_timeline": "1"}, "1\t0/3000000\tno recovery target specified\n", true, "end of the log"},
		{"an older fork is not this recovery's", map[string]string{"recovery_target_lsn": "0/100", "recovery_target_timeline": "3"}, history, false, "no history"},
		{"started without recovery", map[string]string{"recovery_target_name": "x", "recovery_target_timeline": "1"}, "", false, "no history"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			test.settings["restore_command"] = "basin wal get"
			d := &restoredDir{path: t.TempDir(), settings: test.settings, history: test.history, isBegun: true}
			target, ok := d.target()
			if !ok {
				t.Fatal("no target")
			}
			var r restoredReport
			r.stopped(d, target)
			if r.Reached != test.reached || !strings.Contains(r.Why, test.why) || !r.isFinal {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestRestoredNowhere tells a directory that is not there from one that was not finished.
func TestRestoredNowhere(t *testing.T) {
	dir := t.TempDir()
	for path, wants := range map[string][2]string{dir: {"is not a whole data directory", "it was broken off."}, filepath.Join(dir, "none"): {"there is no directory", "basin restore was given."}} {
		_, err := callBasin(t, "restored", path)
		if err == nil || !strings.Contains(err.Error(), wants[0]) || !strings.HasSuffix(usererr.Hint(err), wants[1]) {
			t.Errorf("%v, hint %q; want %q", err, usererr.Hint(err), wants)
		}
	}
}

// TestRecoveryPointOfServer has a server with no more log than the repository: all is there if that is of its timeline.
func TestRecoveryPointOfServer(t *testing.T) {
	now := time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC)
	ended := now.Add(-5 * time.Hour)
	for timeline, want := range map[wal.Timeline]time.Time{1: now, 2: ended} {
		o := defaultStatus()
		o.server = &checkup.Server{SystemID: 7, Timeline: timeline, LSN: 0x5000000}
		s := newStatus(repo.ClusterName{Name: "main", SystemID: 7})
		s.point(&repo.Commit{Ended: ended}, repo.RecoveryPoint{Reach: repo.Reach{Timeline: 1, End: 0x6000000}}, &o, now)
		if got := s.RecoveryPoint.Time; !got.Equal(want) {
			t.Errorf("the server is on timeline %d: the recovery point is of %v, want %v", timeline, got, want)
		}
	}
}

// TestPausedBeforeTheEnd is of recovery to the end of the log, where it does not pause by itself.
func TestPausedBeforeTheEnd(t *testing.T) {
	var r restoredReport
	d := &restoredDir{signal: "recovery.signal"}
	if err := r.running(d, restoredTarget{}, &restoredServer{inRecovery: true, paused: true, lsn: 0x5000000}); err != nil || r.Reached || !r.isFinal {
		t.Errorf("%+v, error %v", r, err)
	}
}
