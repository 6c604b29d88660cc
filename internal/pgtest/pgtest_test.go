package pgtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEveryMajorStartsAndSurvivesKill(t *testing.T) {
	for _, major := range Majors() {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := Start(t, Config{Major: major, Checksums: true})
			if got := s.Query(t, "SHOW server_version"); !strings.HasPrefix(got+" ", Version(t, major)+" ") {
				t.Errorf("server %s, installed %s", got, Version(t, major))
			}
			if got := s.Query(t, "SHOW data_checksums"); got != "on" {
				t.Errorf("data_checksums = %s", got)
			}
			s.Exec(t, "CREATE TABLE kept AS SELECT g FROM generate_series(1, 1000) g")
			s.Kill(t)
			s.Start(t)
			CheckIndexes(t, s)
			if got := Sums(t, s)["postgres.public.kept"]; !strings.HasPrefix(got, "1000 rows, ") {
				t.Errorf("after the kill: %q", got)
			}
			other := Start(t, Config{Major: major, Checksums: true})
			const identity = "SELECT system_identifier FROM pg_control_system()"
			if s.Query(t, identity) == other.Query(t, identity) {
				t.Error("two clusters have one system identifier")
			}
		})
	}
}

func TestStandbyAndCopyHoldTheSameRows(t *testing.T) {
	for _, major := range []int{10, 12, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := Start(t, Config{Major: major})
			Fill(t, s, 1)
			CheckIndexes(t, s)
			load := StartLoad(t.Context(), t, s, 2)
			standby := s.Standby(t, nil)
			load.Stop(t)
			s.WaitReplay(t, standby)
			want := Sums(t, s)
			if diff := cmp.Diff(want, Sums(t, standby)); diff != "" {
				t.Errorf("standby (-server +standby):\n%s", diff)
			}
			CheckIndexes(t, standby)

			s.Stop(t, Fast)
			dir := filepath.Join(t.TempDir(), "copy")
			if out, err := exec.Command("cp", "-a", s.DataDir, dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			c := StartDir(t, major, dir, nil)
			if diff := cmp.Diff(want, Sums(t, c)); diff != "" {
				t.Errorf("copy (-server +copy):\n%s", diff)
			}
			c.Exec(t, "UPDATE blobs SET content = content || 'x' WHERE id = 1")
			if got := Sums(t, c); got["postgres.public.blobs"] == want["postgres.public.blobs"] {
				t.Error("a changed row has left the sum as it was")
			}
		})
	}
}

func TestLoadLosesNothingWhenKilled(t *testing.T) {
	s := Start(t, Config{})
	load := StartLoad(t.Context(), t, s, 3)
	wait(t, "load", func() bool { return load.Committed() > 100 })
	s.Kill(t)
	committed := load.Stop(t)
	s.Start(t)
	for client, n := range committed {
		got, err := strconv.ParseInt(s.Query(t, fmt.Sprintf("SELECT count(*) FROM load_log WHERE client = %d", client)), 10, 64)
		if err != nil || got < n || got > n+1 {
			t.Errorf("client %d: %d transactions are there, %d were committed (%v)", client, got, n, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, major := range []int{11, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := Start(t, Config{
				Major:            major,
				WALSegmentSizeMB: 1,
				GroupAccess:      true,
				TLS:              true,
				Conf:             map[string]string{"fsync": "on", "cluster_name": "it's"},
				HBA:              []string{"hostnossl all all all reject"},
			})
			dir := s.Tablespace(t, "apart")
			Fill(t, s, 1, "apart")
			for setting, want := range map[string]string{
				"wal_segment_size":      "1MB",
				"data_directory_mode":   "0750",
				"fsync":                 "on",
				"cluster_name":          "it's",
				"data_checksums":        "off",
				"ssl":                   "on",
				"port":                  strconv.Itoa(s.Port),
				"default_tablespace":    "",
				"max_replication_slots": "10",
			} {
				if got := s.Query(t, "SHOW "+setting); got != want {
					t.Errorf("%s = %q, not %q", setting, got, want)
				}
			}
			if versions, _ := fs.Glob(os.DirFS(dir), "PG_*"); len(versions) != 1 {
				t.Errorf("tablespace holds %q", versions)
			}
			if got := Sums(t, s)["postgres.public.placed_1"]; !strings.HasPrefix(got, "1000 rows, ") {
				t.Errorf("table in a tablespace: %q", got)
			}
			psql := Command(t, Newest, "psql", "-XAtc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", s.TCPConnString())
			if out, err := psql.CombinedOutput(); err != nil || string(out) != "t\n" {
				t.Errorf("psql over TLS: %v: %s", err, out)
			}
		})
	}
}

// TestServerEndsWithItsTest runs itself as another process, whose server has to
// be gone when that process was killed.
func TestServerEndsWithItsTest(t *testing.T) {
	if os.Getenv("PGTEST_CHILD") != "" {
		s := Start(t, Config{})
		fmt.Printf("postmaster %d\n", s.cmd.Process.Pid)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	child := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	child.Env = append(os.Environ(), "PGTEST_CHILD=1", "TMPDIR="+TempDir(t))
	out, _ := child.Output()
	_, text, found := bytes.Cut(out, []byte("postmaster "))
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); !found || err != nil {
		t.Fatalf("child said %q", out)
	}
	wait(t, "end of the server", func() bool { return !alive(pid) })
}
