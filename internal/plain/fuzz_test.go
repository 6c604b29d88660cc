package plain

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/backup"
)

// FuzzPut lets a server plant a link and then send a member: neither may change
// anything outside the data directory.
func FuzzPut(f *testing.F) {
	f.Add("link", "..", "link/x", uint8(backup.File))
	f.Add("link", "/tmp", "link", uint8(backup.File))
	f.Add("pg_wal", "../outside", "pg_wal/archive_status", uint8(backup.Dir))
	f.Add("pg_tblspc/1", "../../outside", "./pg_tblspc//1/x", uint8(backup.File))
	f.Add("a", ".", "a/../../outside/x", uint8(backup.Symlink))
	f.Add("backup_manifest.tmp", "../outside/file", "", uint8(backup.Manifest))
	f.Fuzz(func(t *testing.T, link, target, name string, kind uint8) {
		parent := t.TempDir()
		dir, outside := filepath.Join(parent, "data"), filepath.Join(parent, "outside")
		for _, d := range []string{dir, outside} {
			if err := os.Mkdir(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		secret := filepath.Join(outside, "file")
		if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		data := claim(t, dir)
		for _, absolute := range []string{"", outside + "/"} {
			s := NewSink(Options{Dir: data, Sync: unsynced})
			if err := s.Begin(t.Context(), backup.Start{}); err != nil {
				t.Fatal(err)
			}
			// Errors are as good as none here: what counts is what they left.
			planted := backup.Member{Path: link, Kind: backup.Symlink, Target: absolute + target}
			if s.Put(t.Context(), planted, nil) == nil {
				_ = s.Put(t.Context(), backup.Member{Path: name, Kind: backup.Kind(kind), Target: target, Size: -1, Mode: 0o777}, strings.NewReader("planted"))
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		content, err := os.ReadFile(secret)
		if err != nil || string(content) != "secret" {
			t.Errorf("the file outside holds %q, %v", content, err)
		}
		for d, want := range map[string]int{parent: 2, outside: 1} {
			if entries, err := os.ReadDir(d); err != nil || len(entries) != want {
				t.Errorf("%s holds %v, %v", d, entries, err)
			}
			if got := mode(t, d); got == 0o777 {
				t.Errorf("%s has mode %o", d, got)
			}
		}
	})
}
