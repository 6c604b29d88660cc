package localfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSyncMethod(t *testing.T) {
	for _, c := range []struct {
		text    string
		want    SyncMethod
		message string
	}{
		{"fsync", Fsync, ""},
		{"syncfs", Syncfs, ""},
		{"", 0, "unrecognized sync method: "},
		{"FSYNC", 0, "unrecognized sync method: FSYNC"},
	} {
		got, err := ParseSyncMethod(c.text)
		if got != c.want || c.message == "" && err != nil || c.message != "" && (err == nil || err.Error() != c.message) {
			t.Errorf("%q: %v, %v", c.text, got, err)
		}
	}
}

func TestWalkVisitsWhatIsSynced(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	build(t, outside, "file")
	build(t, dir, "base/1/", "base/1/1259", "file", "link -> "+outside, "file link -> "+outside+"/file")
	var got, warned []string
	err := walk([]string{dir, filepath.Join(dir, "absent")}, visitor{
		file: func(path string) error { got = append(got, strings.TrimPrefix(path, dir)); return nil },
		dir:  func(path string) error { got = append(got, strings.TrimPrefix(path, dir)+"/"); return nil },
		warn: func(err error) { warned = append(warned, err.Error()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/base/1/1259", "/base/1/", "/base/", "/file", "/"}, got); diff != "" {
		t.Error(diff)
	}
	if want := `could not open directory "` + dir + `/absent": No such file or directory`; !slices.Equal(warned, []string{want}) {
		t.Errorf("warned of %q, want %q", warned, want)
	}
}

func TestFinish(t *testing.T) {
	const synced, renamed = "syncing data to disk ...", "renaming name.tmp to name"
	for _, c := range []struct {
		reason string
		syncer Syncer
		name   string
		steps  []string
	}{
		{"file by file", Syncer{}, "name", []string{synced, renamed}},
		{"by file system", Syncer{Method: Syncfs}, "name", []string{synced, renamed}},
		{"not synced", Syncer{Off: true}, "name", []string{renamed}},
		{"without a name", Syncer{}, "", []string{synced}},
		{"without anything", Syncer{Off: true}, "", nil},
	} {
		t.Run(c.reason, func(t *testing.T) {
			first, other := take(t, filepath.Join(t.TempDir(), "x/y")), take(t, t.TempDir())
			build(t, first.Path(), "name.tmp", "base/", "base/file")
			build(t, other.Path(), "file")
			var steps []string
			c.syncer.Step = func(step string) { steps = append(steps, step) }
			c.syncer.Warn = func(err error) { t.Errorf("warned of %v", err) }
			if err := c.syncer.Finish(t.Context(), c.name, first, other); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.steps, steps); diff != "" {
				t.Error(diff)
			}
			name, gone := "name", "name.tmp"
			if c.name == "" {
				name, gone = gone, name
			}
			if content, err := first.Root().ReadFile(name); string(content) != "content" {
				t.Errorf("%s: %q, %v", name, content, err)
			}
			if _, err := first.Root().Stat(gone); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", gone, err)
			}
		})
	}
	t.Run("nothing to be named", func(t *testing.T) {
		for _, s := range []Syncer{{}, {Off: true}, {Method: Syncfs}} {
			if err := s.Finish(t.Context(), "name", take(t, t.TempDir())); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("error is %v", err)
			}
		}
	})
}

// endsAfter is a context that a signal ends once it was asked some times whether
// it has ended.
type endsAfter struct {
	context.Context
	end  context.CancelCauseFunc
	left atomic.Int64
}

func (c *endsAfter) Err() error {
	err := c.Context.Err()
	if c.left.Add(-1) == 0 {
		c.end(errors.New("interrupted by SIGINT"))
	}
	return err
}

// TestFinishIsInterrupted ends the context, with a cause, at every moment.
func TestFinishIsInterrupted(t *testing.T) {
	for _, s := range []Syncer{{}, {Method: Syncfs}, {Off: true}} {
		for k := int64(0); ; k++ {
			first, other := take(t, filepath.Join(t.TempDir(), "x")), take(t, t.TempDir())
			build(t, first.Path(), "name.tmp", "base/", "base/1", "base/2", "base/3", "base/4")
			build(t, other.Path(), "file")
			ctx := &endsAfter{}
			ctx.Context, ctx.end = context.WithCancelCause(t.Context())
			ctx.left.Store(k)
			if k == 0 {
				ctx.end(errors.New("interrupted by SIGINT"))
			}
			err := s.Finish(ctx, "name", first, other)
			ctx.end(nil)
			_, statErr := first.Root().Stat("name")
			if named := statErr == nil; named != (err == nil) || err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("method %d, ended after %d: %v, named %t", s.Method, k, err, named)
			}
			if err == nil {
				if k == 0 || ctx.left.Load() < 0 { // the last question was after the end
					t.Errorf("method %d, ended after %d: no error", s.Method, k)
				}
				break
			}
		}
	}
}

func TestNamesOfNewParents(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "there/")
	for _, c := range []struct {
		path string
		want []string
	}{
		{"there", []string{""}},
		{"new", []string{""}},
		{"a/b/c/", []string{"a/b", "a", ""}},
	} {
		var want []string
		for _, w := range c.want {
			want = append(want, filepath.Join(dir, w))
		}
		if diff := cmp.Diff(want, take(t, dir+"/"+c.path).holders()); diff != "" {
			t.Errorf("%s: %s", c.path, diff)
		}
	}
}

func TestWhatCannotBeOpenedToSync(t *testing.T) {
	dir := t.TempDir()
	for name, sync := range map[string]func(string, func(error)) error{
		"file": syncFile, "directory": syncDir, "file system": syncFileSystem,
	} {
		var warned []error
		err := sync(filepath.Join(dir, "absent"), func(err error) { warned = append(warned, err) })
		if name == "file" { // whose name was read a moment ago
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || len(warned) != 1 || !errors.Is(warned[0], fs.ErrNotExist) {
			t.Errorf("%s: %v, warned of %v", name, err, warned)
		}
	}
}

// BenchmarkFinish syncs as many small files as a small cluster has.
func BenchmarkFinish(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		claim := take(b, dir)
		for i := range 1000 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 16384), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := (Syncer{}).Finish(b.Context(), "", claim); err != nil {
			b.Fatal(err)
		}
	}
}
