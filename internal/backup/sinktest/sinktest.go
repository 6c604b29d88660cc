// Package sinktest knows what every backup.Sink promises, and tests it: what
// went in can be read back, a backup exists only once Commit has returned nil,
// and whatever goes wrong at whichever member leaves none, and nothing open.
//
// It does not know where a sink keeps a backup; the sink's own test says how to
// read one back. It is for tests only.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"basin/internal/backup"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Subject is one sink, not begun, and how to see what it did.
type Subject struct {
	Sink backup.Sink
	// Finished says whether somebody who comes now finds a whole backup.
	Finished func() bool
	// Read returns what the finished backup holds, by Key.
	Read func(t *testing.T) map[Key]Entry
}

// Key names a member.
type Key struct {
	Tablespace uint32
	Path       string // cleaned
}

// Entry is what can be read back of a member.
type Entry struct {
	Kind    backup.Kind
	Mode    fs.FileMode
	Content string // of a file; the target of a link
}

// Suite is the tests of one kind of sink.
type Suite struct {
	// Open makes a subject that keeps its backup in dir, which is there and
	// empty, with links to tablespaces as they are. What it opens beside the sink
	// it closes at the end of the test.
	Open func(t *testing.T, dir string) Subject
	// Single says that the sink takes the main directory only.
	Single bool
	// MaxName is the longest path that fits, in bytes; zero if any does.
	MaxName int
	// Large is the size in bytes of a member of which several pieces are worked on
	// at once; zero if the sink does no such thing.
	Large int
	// Order, if true, says that the name backup_manifest in dir is the last thing to come.
	Order bool
}

// Run runs the suite. It must not run beside other tests: it counts open files.
func (s Suite) Run(t *testing.T) {
	t.Run("what went in can be read back", s.whole)
	t.Run("a backup of nothing is a backup", s.empty)
	t.Run("names", s.names)
	t.Run("faults", s.faults)
	t.Run("no room", s.noRoom)
	t.Run("calls out of order", s.misuse)
}

func (s Suite) whole(t *testing.T) {
	dir := t.TempDir()
	script := s.script(t)
	subject := s.Open(t, dir)
	defer subject.Sink.Close()
	order := watch(t, dir)
	if err := backup.Copy(t.Context(), subject.Sink, script.source(), backup.Options{}); err != nil {
		t.Fatal(err)
	}
	if last := order(); s.Order && last != "backup_manifest" {
		t.Errorf("the last name to come is %q, not the manifest's", last)
	}
	check(t, subject, script)
	if err := subject.Sink.Close(); err != nil {
		t.Errorf("close after commit: %v", err)
	}
	check(t, subject, script)
}

// check compares what a finished backup holds with what went in.
func check(t *testing.T, subject Subject, script script) {
	t.Helper()
	if !subject.Finished() {
		t.Fatal("committed, but no backup is there")
	}
	if diff := cmp.Diff(script.entries(), subject.Read(t)); diff != "" {
		t.Errorf("backup differs (-in +out):\n%s", diff)
	}
}

func (s Suite) empty(t *testing.T) {
	script := s.script(t)
	script.members = nil
	subject := s.Open(t, t.TempDir())
	defer subject.Sink.Close()
	if err := backup.Copy(t.Context(), subject.Sink, script.source(), backup.Options{}); err != nil {
		t.Fatal(err)
	}
}

// names puts one file of each unusual name.
func (s Suite) names(t *testing.T) {
	for _, name := range []string{
		"with space", `'single' and "double"`, "line\nbreak", "tab\tbell\a", "caf\xe9 \xff\xfe", "-rf", "~", "ümläut",
		`back\slash`, "*?[a-z]", "%s%d", ".hidden", "...", "name.tmp", "trailing.",
		digits(98), digits(99), digits(100), digits(255),
	} {
		t.Run(fmt.Sprintf("%.40q", name), func(t *testing.T) {
			script := script{members: []member{dir(0, "pg_wal", 0o700), file(0, name, 0o600, 10), manifest()}, fault: noFault}
			subject := s.Open(t, t.TempDir())
			defer subject.Sink.Close()
			err := backup.Copy(t.Context(), subject.Sink, script.source(), backup.Options{})
			if s.MaxName > 0 && len(name) > s.MaxName {
				if err == nil || subject.Finished() {
					t.Fatalf("a name of %d bytes cannot be kept, but: %v", len(name), err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			check(t, subject, script)
		})
	}
}

// digits returns a name of n bytes.
func digits(n int) string { return fmt.Sprintf("%0*d", n, n) }

// faults lets every fault happen at every member, and in the midst of a large one.
func (s Suite) faults(t *testing.T) {
	s.everyFault(t, s.script)
	if s.Large > 0 {
		s.everyFault(t, func(*testing.T) script {
			return script{members: []member{file(0, "large", 0o600, s.Large), manifest()}, fault: noFault}
		})
	}
}

func (s Suite) everyFault(t *testing.T, begin func(*testing.T) script) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	before := OpenFiles(t)
	count := len(begin(t).members)
	for fault := range faultCount {
		for k := range count + 1 {
			t.Run(fmt.Sprintf("%v at member %d", fault, k), func(t *testing.T) {
				script := begin(t)
				if !script.strike(fault, k) {
					return // a directory has no bytes to be wrong
				}
				s.fail(t, script)
			})
		}
	}
	if after := OpenFiles(t); after != before {
		t.Errorf("%d files are open, were %d", after, before)
	}
}

// fail copies what cannot be copied and looks at what is left.
func (s Suite) fail(t *testing.T, script script) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	script.cancel = cancel
	subject := s.Open(t, t.TempDir())
	sink := subject.Sink
	err := backup.Copy(ctx, sink, script.source(), backup.Options{})
	if err == nil {
		t.Fatal("nothing went wrong")
	}
	if want := script.fault.wants(); want != nil && !errors.Is(err, want) {
		t.Errorf("error is %q, want %q", err, want)
	}
	if subject.Finished() {
		t.Errorf("there is a backup in spite of: %v", err)
	}
	for range 2 {
		if err := sink.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if sink.Commit(t.Context(), wal.Position{}) == nil {
		t.Error("commits after close")
	}
	if subject.Finished() {
		t.Errorf("there is a backup after close in spite of: %v", err)
	}
}

// noRoom fills a small disk, or meets the limit on file sizes.
func (s Suite) noRoom(t *testing.T) {
	dir := t.TempDir()
	before := OpenFiles(t)
	t.Run("copy", func(t *testing.T) { s.fill(t, dir) })
	if after := OpenFiles(t); after != before {
		t.Errorf("%d files are open, were %d", after, before)
	}
}

func (s Suite) fill(t *testing.T, dir string) {
	Fillable(t, dir, 128<<10)
	script := script{members: []member{file(0, "large", 0o600, 4<<20), manifest()}, fault: noFault}
	subject := s.Open(t, dir)
	err := backup.Copy(t.Context(), subject.Sink, script.source(), backup.Options{})
	if !IsNoRoom(err) {
		t.Errorf("error is %v", err)
	}
	if usererr.Hint(err) == "" {
		t.Errorf("no hint about %v", err)
	}
	if err := subject.Sink.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if subject.Finished() {
		t.Error("there is a backup on a full disk")
	}
}

// misuse calls what may not be called.
func (s Suite) misuse(t *testing.T) {
	first := file(0, "file", 0o600, 10)
	subject := s.Open(t, t.TempDir())
	if err := subject.Sink.Close(); err != nil {
		t.Errorf("close before begin: %v", err)
	}
	subject = s.Open(t, t.TempDir())
	if subject.Sink.Put(t.Context(), first.Member, first.reader(nil, 0, nil)) == nil {
		t.Error("put before begin")
	}
	if subject.Sink.Commit(t.Context(), wal.Position{}) == nil {
		t.Error("commit before begin")
	}
	if err := subject.Sink.Close(); err != nil {
		t.Errorf("close: %v", err)
	}

	script := s.script(t)
	subject = s.Open(t, t.TempDir())
	defer subject.Sink.Close()
	if err := backup.Copy(t.Context(), subject.Sink, script.source(), backup.Options{}); err != nil {
		t.Fatal(err)
	}
	if subject.Sink.Put(t.Context(), first.Member, first.reader(nil, 0, nil)) == nil {
		t.Error("put after commit")
	}
	if subject.Sink.Commit(t.Context(), wal.Position{}) == nil {
		t.Error("second commit")
	}
	check(t, subject, script)
}

// ReadTree returns what is in a directory, as members of a tablespace.
func ReadTree(t *testing.T, tablespace uint32, dir string) map[Key]Entry {
	t.Helper()
	entries := map[Key]Entry{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := Entry{Kind: backup.Dir, Mode: info.Mode().Perm()}
		switch {
		case info.Mode().IsRegular():
			e.Kind = backup.File
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			e.Content = string(content)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			e = Entry{Kind: backup.Symlink, Content: target}
		}
		name := path[len(dir)+1:]
		if name == "backup_manifest" {
			e.Kind = backup.Manifest
		}
		entries[Key{tablespace, name}] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// Join returns the entries of all.
func Join(all ...map[Key]Entry) map[Key]Entry {
	joined := map[Key]Entry{}
	for _, entries := range all {
		maps.Copy(joined, entries)
	}
	return joined
}
