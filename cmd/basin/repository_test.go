package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// smallSource is a cluster of one file.
type smallSource struct {
	at   wal.LSN
	text string
	done bool
}

func (s *smallSource) Begin(context.Context) (backup.Start, error) {
	return backup.Start{
		Position: wal.Position{LSN: s.at, Timeline: 3}, ServerVersion: 180006, SegmentSize: wal.DefaultSegmentSize,
		Tablespaces: []backup.Tablespace{{OID: 77, Location: "/srv/fast"}},
	}, nil
}

func (s *smallSource) Next(context.Context) (backup.Member, io.Reader, error) {
	if s.done {
		return backup.Member{}, nil, io.EOF
	}
	s.done = true
	return backup.Member{Path: "global/pg_control", Kind: backup.File, Size: int64(len(s.text)), Mode: 0o600}, strings.NewReader(s.text), nil
}

func (s *smallSource) End(context.Context) (wal.Position, error) {
	return wal.Position{LSN: s.at + 0x100, Timeline: 3}, nil
}

func (s *smallSource) Close() error { return nil }

// firstBackup is when the first backup of newRepository began.
var firstBackup = time.Date(2026, 11, 26, 20, 5, 0, 0, time.UTC)

// takeBackup puts a backup of a small cluster into a repository, as if it were so many hours later.
func takeBackup(t *testing.T, r *repo.Repository, name string, systemID uint64, hours int, o repo.SinkOptions) repo.Commit {
	t.Helper()
	c, err := r.Cluster(name, systemID)
	if err != nil {
		t.Fatal(err)
	}
	o.Now = func() time.Time { return firstBackup.Add(time.Duration(hours) * time.Hour) }
	sink := c.NewSink(o)
	err = backup.Copy(t.Context(), sink, &smallSource{at: wal.LSN(0x1000028 + hours<<24), text: fmt.Sprint("control ", hours)}, backup.Options{})
	if closed := sink.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatal(err)
	}
	return *sink.Written()
}

// newRepository makes a repository with two backups of the cluster shop, and one of its predecessor.
func newRepository(t *testing.T) (location string, ids []string) {
	t.Helper()
	clearEnvironment(t)
	t.Setenv("BASIN_CONFIG", os.DevNull)
	location = filepath.Join(t.TempDir(), "repository")
	if _, err := callBasin(t, "init", location); err != nil {
		t.Fatal(err)
	}
	r, err := openRepository(t.Context(), repositoryOptions{Location: location})
	if err != nil {
		t.Fatal(err)
	}
	old := takeBackup(t, r, "shop", 99, 0, repo.SinkOptions{Label: "before the upgrade"})
	full := takeBackup(t, r, "shop", 7, 1, repo.SinkOptions{})
	next := takeBackup(t, r, "shop", 7, 2, repo.SinkOptions{Label: "evil\x1b[2J", Parent: &full})
	return location, []string{old.ID, full.ID, next.ID}
}

// callBasin does what a command line says, and returns what it printed.
func callBasin(t *testing.T, args ...string) (string, error) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stdout bytes.Buffer
	err = dispatch(t.Context(), append([]string{"basin"}, args...), &stdout, newReport("basin", file, func(string) (string, bool) { return "", false }))
	said, readErr := os.ReadFile(file.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return stdout.String() + string(said), err
}

func TestList(t *testing.T) {
	location, ids := newRepository(t)
	got, err := callBasin(t, "list", "--repository="+location)
	if err != nil {
		t.Fatal(err)
	}
	stored := regexp.MustCompile(` +[0-9.]+ (B|KiB)( +3 |$|\n)`) // depends on how zstd does
	got = stored.ReplaceAllString(regexp.MustCompile(`for which .* were`).ReplaceAllString(got, "for which S were"), "  S$2")
	want := fmt.Sprintf(`cluster shop, system identifier 7
ID                         BEGAN (UTC)          KIND         SIZE  STORED   TIMELINE  START      STOP       LABEL
%[2]s  2026-11-26 21:05:00  full         9 B  S  3         0/2000028  0/2000128  
%[3]s  2026-11-26 22:05:00  incremental  9 B  S  3         0/3000028  0/3000128  evil?[2J
2 backups, for which S were stored
restorable on timeline 3: nothing
cannot be restored: timeline 3: it is not known where it comes from, as 00000003.history is missing

cluster shop, system identifier 99
ID                         BEGAN (UTC)          KIND  SIZE  STORED   TIMELINE  START      STOP       LABEL
%[1]s  2026-11-26 20:05:00  full  9 B  S  3         0/1000028  0/1000128  before the upgrade
1 backup, for which S were stored
restorable on timeline 3: nothing
cannot be restored: timeline 3: it is not known where it comes from, as 00000003.history is missing
`, ids[0], ids[1], ids[2])
	if blanks := regexp.MustCompile(` +`); blanks.ReplaceAllString(got, " ") != blanks.ReplaceAllString(want, " ") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got, err = callBasin(t, "list", "--repository="+location, "--cluster=shop", "--system-id=99")
	if err != nil || strings.Contains(got, ids[1]) || !strings.Contains(got, ids[0]) {
		t.Errorf("of one: %s, %v", got, err)
	}
	if _, err := callBasin(t, "list", "--repository="+location, "--cluster=blog"); err == nil || !strings.Contains(usererr.Hint(err), "shop/7, shop/99") {
		t.Errorf("of none: %v, hint %q", err, usererr.Hint(err))
	}
}

// The names in JSON are what programs rely on.
func TestListJSON(t *testing.T) {
	location, ids := newRepository(t)
	text, err := callBasin(t, "list", "--repository="+location, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Repository string
		Clusters   []struct {
			Cluster, SystemID string
			Backups           []map[string]any
		}
		Problems []string
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Repository) != 32 || len(got.Clusters) != 2 || got.Problems == nil || got.Clusters[1].SystemID != "99" || len(got.Clusters[0].Backups) != 2 {
		t.Fatalf("got %s", text)
	}
	one := got.Clusters[0].Backups[1]
	if stored, ok := one["stored"].(float64); !ok || stored <= 0 {
		t.Errorf("stored is %v", one["stored"])
	}
	one["stored"] = 1
	content, err := json.Marshal(one)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"began":"2026-11-26T22:05:00Z","cluster":"shop","damaged":false,"ended":"2026-11-26T22:05:00Z",`+
		`"files":1,"fullScan":"2026-11-26T22:05:00Z","id":"%s","kind":"incremental","label":"evil\u001b[2J","parent":"%s",`+
		`"segmentSize":16777216,"serverVersion":180006,"size":9,"start":"0/3000028","stop":"0/3000128","stored":1,"systemID":"7",`+
		`"tablespaces":[{"location":"/srv/fast","oid":77}],"timeline":3}`, ids[2], ids[1])
	if string(content) != want {
		t.Errorf("got\n%s\nwant\n%s", content, want)
	}
	shown, err := callBasin(t, "show", "--repository="+location, "--json", "--system-id=7", "latest")
	if err != nil {
		t.Fatal(err)
	}
	var again map[string]any
	if err := json.Unmarshal([]byte(shown), &again); err != nil || again["id"] != ids[2] || len(again) != len(one)+1 || again["problem"] == nil {
		t.Errorf("shown is %s, %v", shown, err)
	}
}

func TestShow(t *testing.T) {
	location, ids := newRepository(t)
	for _, test := range []struct {
		reason string
		args   []string
		want   []string // what is printed, or said
		fails  bool
	}{
		{"the newest of the cluster with the newest backup", []string{"latest"}, []string{
			"there are 2 clusters of the name shop", "--system-id=7", ids[2], "PostgreSQL 18.6", "evil?[2J", ids[1] + ", which is not needed to restore it", "77, at /srv/fast",
		}, false},
		{"of the other", []string{"--system-id=99", "latest"}, []string{ids[0], "before the upgrade"}, false},
		{"by its name", []string{"--cluster=shop", ids[1]}, []string{ids[1], "full"}, false},
		{"by its beginning", []string{"20261126T21"}, []string{ids[1]}, false},
		{"by too little", []string{"20261126"}, []string{`2 backups of cluster shop/7 begin with "20261126"`}, true},
		{"by nothing", []string{""}, []string{`no backup ""`}, true},
		{"by another", []string{"2025"}, []string{`no backup "2025"`}, true},
		{"with a slash", []string{"../x"}, []string{`no backup "../x"`}, true},
		{"of another cluster", []string{"--cluster=blog", "latest"}, []string{"no cluster blog"}, true},
	} {
		t.Run(test.reason, func(t *testing.T) {
			got, err := callBasin(t, append([]string{"show", "--repository=" + location}, test.args...)...)
			if (err != nil) != test.fails {
				t.Errorf("got %v", err)
			}
			if err != nil {
				got += err.Error()
			}
			for _, want := range test.want {
				if !strings.Contains(got, want) {
					t.Errorf("got\n%s\nwithout %q", got, want)
				}
			}
		})
	}
}

// The others are listed when one cannot be read, and it is said which.
func TestListWithDamage(t *testing.T) {
	location, ids := newRepository(t)
	path := filepath.Join(location, "shop", "7", "backups", ids[1], "commit")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := callBasin(t, "list", "--repository="+location)
	if err == nil || !strings.Contains(err.Error(), ids[1]) || !strings.Contains(got, ids[0]) || !strings.Contains(got, ids[2]) {
		t.Errorf("got %s, %v", got, err)
	}
	got, err = callBasin(t, "list", "--json", "--repository="+location)
	var l listing
	if decodeErr := json.Unmarshal([]byte(got), &l); decodeErr != nil || err == nil || len(l.Problems) != 1 || !strings.Contains(l.Problems[0], ids[1]) {
		t.Errorf("got %s, %v, %v", got, err, decodeErr)
	}
	if got, err := callBasin(t, "show", "--repository="+location, "--system-id=7", "latest"); err == nil {
		t.Errorf("the newest is not known, but shown is %s", got)
	}
}

func TestLatestIsNotDamaged(t *testing.T) {
	location, ids := newRepository(t)
	r, err := openRepository(t.Context(), repositoryOptions{Location: location})
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Cluster("shop", 7)
	if err != nil {
		t.Fatal(err)
	}
	sink := c.NewSink(repo.SinkOptions{Now: func() time.Time { return firstBackup.Add(9 * time.Hour) }})
	defer sink.Close()
	source := &smallSource{at: 0x9000028, text: "damaged"}
	start, _ := source.Begin(t.Context())
	member, content, _ := source.Next(t.Context())
	if err := sink.Begin(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	if err := sink.Put(t.Context(), member, content); err != nil {
		t.Fatal(err)
	}
	if err := sink.Salvage(t.Context(), wal.Position{LSN: 0x2000000, Timeline: 1}); err != nil {
		t.Fatal(err)
	}
	if k, err := findBackup(t.Context(), c, "latest"); err != nil || k.ID != ids[2] {
		t.Errorf("the latest is %s, %v", k.ID, err)
	}
	got, err := callBasin(t, "list", "--repository="+location)
	if err != nil || !strings.Contains(got, "full, damaged") {
		t.Errorf("got %s, %v", got, err)
	}
	got, err = callBasin(t, "show", "--repository="+location, "--system-id=7", sink.Written().ID)
	if err != nil || !strings.Contains(got, "DAMAGED") {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestOtherNames keeps something of a cluster that the repository knows as shop, and reads what is there under two names.
func TestOtherNames(t *testing.T) {
	location, _ := newRepository(t)
	var said []string
	open := func(cluster string, id uint64) (string, error) {
		said = nil
		o := repositoryOptions{Location: location, Cluster: cluster, Say: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }}
		_, c, err := openClusterToKeep(t.Context(), o, id)
		if err != nil {
			return "", err
		}
		return c.Name().String(), nil
	}
	if name, err := open("", 7); err == nil || !strings.Contains(err.Error(), "shop") {
		t.Errorf("without a name it is kept as %s: %v", name, err)
	}
	for _, test := range []struct {
		cluster string
		id      uint64
		want    string
		says    int
	}{{"", 5, "main/5", 0}, {"shop", 7, "shop/7", 0}, {"main", 7, "main/7", 1}} {
		if name, err := open(test.cluster, test.id); err != nil || name != test.want || len(said) != test.says {
			t.Errorf("%q of %d is %s and says %q: %v", test.cluster, test.id, name, said, err)
		}
	}
	r, err := openRepository(t.Context(), repositoryOptions{Location: location})
	if err != nil {
		t.Fatal(err)
	}
	takeBackup(t, r, "main", 7, 3, repo.SinkOptions{})
	if name, err := open("", 7); err != nil || name != "main/7" || len(said) != 1 || !strings.Contains(said[0], "as shop too") {
		t.Errorf("once it is there under both it is %s and says %q: %v", name, said, err)
	}
	if out, err := callBasin(t, "list", "--repository="+location); err != nil || !strings.Contains(out, "main") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestPin pins a backup for ever, until a day is over, and no more.
func TestPin(t *testing.T) {
	location, ids := newRepository(t)
	t.Setenv("TZ", "UTC")
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, "it is kept until basin pin --remove"},
		{[]string{"--until=2099-12-31"}, "it is kept until 2099-12-31 23:59:59"},
		{[]string{"--until=2099-12-31 12:00Z"}, "it is kept until 2099-12-31 12:00:00"},
		{[]string{"--remove"}, "rules say how long it is kept"},
	} {
		got, err := callBasin(t, append(append([]string{"pin", "--repository=" + location, "--system-id=7"}, test.args...), ids[1])...)
		if err != nil || !strings.Contains(got, "backup "+ids[1]+": "+test.says) {
			t.Errorf("%q: %s, %v", test.args, got, err)
		}
	}
	if got, err := callBasin(t, "pin", "--repository="+location, "--system-id=7", "--until=1999-12-31", ids[1]); err == nil {
		t.Errorf("a day that has passed: %s", got)
	}
}
