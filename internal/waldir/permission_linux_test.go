package waldir

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"basin/internal/usererr"
)

// TestUnreadableFiles does as a user who is not root: to root every file is open.
func TestUnreadableFiles(t *testing.T) {
	const nobody = 65534
	l := newLog(1, 5, 4).fill(2*segmentSize, 20_000)
	for _, c := range []struct {
		reason, file string
		start        bool // whether Start fails, rather than Begin
	}{
		{"the newest segment", l.nth(0), true},
		{"the newest segment, compressed", l.nth(0) + ".gz", true},
		{"the partial one", l.nth(1) + ".partial", false},
		{"the partial one, compressed", l.nth(1) + ".lz4.partial", false},
	} {
		t.Run(c.reason, func(t *testing.T) {
			dir, err := os.MkdirTemp("/tmp", "waldir") // which everybody can reach
			must(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			e, _ := parseEntry(c.file, segmentSize)
			if !c.start {
				must(t, os.WriteFile(filepath.Join(dir, l.nth(0)), l.segment(0), 0o644))
			}
			content := packed(t, l.segment(int(e.segment.Number-5)), e.method)
			must(t, os.WriteFile(filepath.Join(dir, c.file), content, 0))
			if os.Geteuid() == 0 {
				must(t, os.Chown(dir, nobody, nobody))
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				must(t, unix.Setfsuid(nobody))
				defer func() {
					if err := unix.Setfsuid(0); err != nil {
						t.Error(err)
					}
				}()
			}
			d := open(t, Options{Path: dir})
			_, _, err = d.Start()
			if !c.start {
				must(t, err)
				_, err = d.Begin(l.nth(1), segmentSize)
			}
			want := `could not open file "` + filepath.Join(dir, c.file) + `": Permission denied`
			if err == nil || !strings.HasSuffix(err.Error(), want) || usererr.Hint(err) == "" {
				t.Errorf("error is %v (%s)", err, usererr.Hint(err))
			}
		})
	}
}
