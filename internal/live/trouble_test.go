package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/pgtest"
	"basin/internal/usererr"
)

func TestWrongDirectory(t *testing.T) {
	t.Parallel()
	s, stranger := pgtest.Start(t, pgtest.Config{}), pgtest.Start(t, pgtest.Config{})
	standby := s.Standby(t, nil)
	stopped := s.Standby(t, nil)
	stopped.Stop(t, pgtest.Fast)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(s.DataDir, link); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reason, dir, detail string
	}{
		{"the server's", s.DataDir, ""},
		{"the server's by a link", link, ""},
		{"of another cluster", stranger.DataDir, "Its system identifier is "},
		{"of a copy that runs", standby.DataDir, "The server's is \"" + s.DataDir + "\"."},
		{"of a copy that does not run", stopped.DataDir, "no server runs there"},
		{"no data directory", t.TempDir(), "It has no \"global/pg_control\"."},
	} {
		src := New(Options{DataDir: test.dir, Session: newSession(t, s), FastCheckpoint: true})
		_, err := src.Begin(t.Context())
		if err == nil != (test.detail == "") || err != nil && (!errors.Is(err, errOtherCluster) || !strings.Contains(usererr.Detail(err), test.detail) || usererr.Hint(err) == "") {
			t.Errorf("%s: %v: %s", test.reason, err, usererr.Detail(err))
		}
		if err := src.Close(); err != nil {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
	src := New(Options{DataDir: "/nonexistent", Session: newSession(t, s)})
	defer src.Close()
	if _, err := src.Begin(t.Context()); err == nil || !strings.Contains(err.Error(), `could not access directory "/nonexistent"`) {
		t.Error(err)
	}
}

// begin begins a backup and takes some of its members.
func begin(t *testing.T, src *Source, members int) {
	t.Helper()
	if _, err := src.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range members {
		if _, _, err := src.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// rest takes the members that are left, and returns what ends them.
func rest(ctx context.Context, src *Source) error {
	for {
		m, _, err := src.Next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if m.Path == "backup_label" {
			return fmt.Errorf("the label comes: %s", m.Path)
		}
	}
}

// TestTrouble has something go wrong while a backup runs.
func TestTrouble(t *testing.T) {
	for _, test := range []struct {
		reason  string
		trouble func(t *testing.T, s *pgtest.Server, src *Source)
		message string
	}{
		{"restarted", func(t *testing.T, s *pgtest.Server, _ *Source) { s.Restart(t) }, "the server was restarted, or its connection lost, during the backup"},
		{"crashed", func(t *testing.T, s *pgtest.Server, _ *Source) { s.Kill(t); s.Start(t) }, "the server was restarted, or its connection lost, during the backup"},
		{"restarted, and asked over another session", func(t *testing.T, s *pgtest.Server, src *Source) {
			s.Restart(t)
			src.o.Session, src.pin = newSession(t, s), nil
		}, "the server was restarted, or its connection lost, during the backup: it was started at"},
		{"the log is let go", func(_ *testing.T, _ *pgtest.Server, src *Source) {
			pin := src.pin.(*slotPin)
			pin.err = errors.New("no more room")
			close(pin.done)
		}, "the log that the backup needs is kept no longer: no more room"},
		{"the slot is dropped", func(t *testing.T, s *pgtest.Server, src *Source) {
			slot := src.pin.Slot()
			if err := src.pin.Close(); err != nil {
				t.Fatal(err)
			}
			s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+slot+"'", "0")
		}, "does not exist"},
		{"the slot is invalidated", func(t *testing.T, s *pgtest.Server, src *Source) {
			s.Set(t, "max_slot_wal_keep_size", "1MB")
			for range 5 {
				s.Exec(t, "CREATE TABLE IF NOT EXISTS more (id int)", "INSERT INTO more VALUES (1)", "SELECT pg_switch_wal()")
			}
			s.Exec(t, "CHECKPOINT")
		}, "the log that the backup needs is kept no longer: replication slot"},
		{"cancelled", func(_ *testing.T, _ *pgtest.Server, src *Source) {}, "context canceled"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: 18})
			src := backUp(t, s, Options{Manifest: WithManifest, WAL: true})
			begin(t, src, 20)
			test.trouble(t, s, src)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.reason == "cancelled" {
				cancel()
			}
			if err := rest(ctx, src); err == nil || !strings.Contains(err.Error(), test.message) {
				t.Errorf("error is %v", err)
			}
			if _, _, err := src.Next(t.Context()); err == nil || err == io.EOF {
				t.Errorf("after an error comes %v", err)
			}
		})
	}
}

// TestLogIsKeptForATime is about a backup whose log somebody else receives: once he has had
// the time to begin, it is not kept, and that it is lost before is no matter.
func TestLogIsKeptForATime(t *testing.T) {
	s := pgtest.Start(t, pgtest.Config{})
	for reason, happens := range map[string]func(*Source){
		"time has passed": func(src *Source) { src.begun = src.begun.Add(-pinTime) },
		"it is let go":    func(src *Source) { close(src.pin.(*slotPin).done) },
	} {
		t.Run(reason, func(t *testing.T) {
			src := backUp(t, s, Options{NoWait: true})
			begin(t, src, 20)
			if src.pin == nil {
				t.Fatal("the log is not kept")
			}
			happens(src)
			if err := rest(t.Context(), src); err == nil || !strings.HasPrefix(err.Error(), "the label comes") {
				t.Errorf("the backup ends with %v", err)
			}
			if src.pin != nil {
				t.Error("the log is kept still")
			}
		})
	}
}

// TestGivenUp closes sources before their end: nothing may be left of them.
func TestGivenUp(t *testing.T) {
	s := pgtest.Start(t, pgtest.Config{})
	for _, apart := range []bool{false, true} {
		for _, members := range []int{0, 1, 30, 500} {
			before := goleak.IgnoreCurrent()
			src := New(Options{DataDir: s.DataDir, Session: newSession(t, s), FastCheckpoint: true, Apart: apart, Manifest: WithManifest, Ahead: 1 << 20})
			if _, err := src.Begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range members {
				m, r, err := src.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if c, ok := r.(io.Closer); ok && m.Apart {
					c.Close()
				}
			}
			if err := src.Close(); err != nil {
				t.Errorf("%d members: %v", members, err)
			}
			goleak.VerifyNone(t, before)
		}
	}
	s.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE state <> 'active' AND backend_type = 'client backend'", "0")
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(target, s.DataDir) {
			t.Errorf("%s is still open", target)
		}
	}
}

func TestStandby(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			primary := pgtest.Start(t, pgtest.Config{Major: major, Checksums: true})
			pgtest.Fill(t, primary, 1)
			standby := primary.Standby(t, nil)
			primary.Exec(t, "CHECKPOINT")
			primary.WaitReplay(t, standby)
			load := pgtest.StartLoad(t.Context(), t, primary, 1)
			src := backUp(t, standby, Options{WAL: true, Manifest: WithManifest, Algorithm: manifest.CRC32C})
			dir, err := toDir(t, src, 1)
			if err != nil {
				t.Fatal(err)
			}
			load.Stop(t)
			args := []string{dir}
			if !pgtest.Full(major) {
				args = append(args, "--no-parse-wal")
			}
			tool(t, max(major, 15), "pg_verifybackup", args...)
			if err := os.Remove(filepath.Join(dir, "standby.signal")); err != nil {
				t.Fatal(err)
			}
			restored := pgtest.StartDir(t, major, dir, nil)
			restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
			if diff := cmp.Diff(quietSums(t, primary), quietSums(t, restored)); diff != "" {
				t.Errorf("rows (-primary +restored):\n%s", diff)
			}

			src = backUp(t, standby, Options{})
			begin(t, src, 20)
			standby.Promote(t)
			if err := rest(t.Context(), src); err == nil || !strings.Contains(err.Error(), "the standby was promoted during online backup") {
				t.Errorf("error is %v", err)
			}
			// It is a primary now, of another timeline.
			start, all, end := take(t, backUp(t, standby, Options{Manifest: WithManifest, WAL: true}))
			if start.Position.Timeline != 2 || end.Timeline != 2 {
				t.Errorf("%v to %v", start.Position, end)
			}
			last := all[len(all)-1]
			want := fmt.Sprintf("\"WAL-Ranges\": [\n{ \"Timeline\": 2, \"Start-LSN\": \"%v\", \"End-LSN\": \"%v\" }\n],\n", start.Position.LSN, end.LSN)
			if last.m.Kind != backup.Manifest || !strings.Contains(last.content, want) || !strings.Contains(last.content, "pg_wal/00000002.history") {
				t.Errorf("manifest has not %s: %s", want, last.content[max(0, len(last.content)-500):])
			}
		})
	}
}

func TestLabelIsTooLong(t *testing.T) {
	src := New(Options{Label: strings.Repeat("x", 1025)})
	_, err := src.Begin(t.Context())
	var state interface{ SQLState() string }
	if !errors.As(err, &state) || state.SQLState() != "22023" || err.Error() != "backup label too long (max 1024 bytes)" {
		t.Error(err)
	}
}
