package tarball

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/backup"
)

// tarOf returns an archive: of names that end in a slash, directories; of "link -> target",
// links; of others, files whose content is their name.
func tarOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(name)), Uid: 26, Gid: 27}
		link, target, isLink := strings.Cut(name, " -> ")
		switch {
		case isLink:
			h.Typeflag, h.Name, h.Linkname, h.Size = tar.TypeSymlink, link, target, 0
		case strings.HasSuffix(name, "/"):
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipped(t *testing.T, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(content)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// openFiles makes a directory of files and opens the backup in it.
func openFiles(t *testing.T, ctx context.Context, files map[string][]byte) (s *Stored, warnings *[]string, err error) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	temp := t.TempDir()
	warnings = new([]string)
	s, err = OpenStored(ctx, dir, StoredOptions{TempDir: temp, Warn: func(err error) { *warnings = append(*warnings, err.Error()) }})
	if left, readErr := os.ReadDir(temp); readErr != nil || len(left) > 0 {
		t.Errorf("temporary files have names: %v, %v", left, readErr)
	}
	if err == nil {
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return s, warnings, err
}

func TestStored(t *testing.T) {
	long := "base/1/" + strings.Repeat("long", 40)
	s, warnings, err := openFiles(t, t.Context(), map[string][]byte{
		"base.tar.gz":     gzipped(t, tarOf(t, "./", "backup_label", "tablespace_map", "global/", "global/pg_control", "./pg_wal/", "base/", "base/1/", "base/1/1259", long, "base/1/away -> /etc", "PG_VERSION")),
		"16400.tar":       tarOf(t, "PG_18/", "PG_18/5/", "PG_18/5/16401"),
		"16401.tgz":       gzipped(t, tarOf(t, "PG_18/", "PG_18/x")),
		"pg_wal.tar":      tarOf(t, "000000010000000000000002", "archive_status/", "archive_status/000000010000000000000002.done"),
		"backup_manifest": []byte("manifest"),
		"other":           nil,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Tablespaces()
	if err == nil || !strings.Contains(err.Error(), "invalid data in file \"tablespace_map\"") { // it is its name
		t.Errorf("tablespaces: %v", err)
	}
	var got []string
	for m, err := range s.Members() {
		if err != nil {
			break
		}
		got = append(got, fmt.Sprint(m.Tablespace, " ", m.Path, " ", m.Kind))
		if m.Kind != backup.File {
			continue
		}
		f, err := s.Open(m.Tablespace, m.Path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size+10))
		if want := strings.TrimPrefix(m.Path, "pg_wal/"); err != nil || string(content) != want || f.UID != 26 || f.GID != 27 || !f.Shared {
			t.Errorf("%q, want %q, %v: %+v", content, want, err, f)
		}
	}
	want := []string{
		"16400 PG_18 2", "16400 PG_18/5 2", "16400 PG_18/5/16401 1", "16401 PG_18 2", "16401 PG_18/x 1",
		"0 backup_label 1", "0 global 2", "0 pg_wal 2", "0 base 2", "0 base/1 2", "0 base/1/1259 1", "0 " + long + " 1", "0 PG_VERSION 1",
		"0 pg_wal/000000010000000000000002 1", "0 pg_wal/archive_status 2", "0 pg_wal/archive_status/000000010000000000000002.done 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(*warnings) == 0 || !strings.HasPrefix((*warnings)[0], "skipping symbolic link \"") || !strings.HasSuffix((*warnings)[0], "base.tar.gz: base/1/away\"") {
		t.Errorf("warnings %q", *warnings)
	}
	for _, path := range []string{"base/1/1260", "PG_18/5/16401", "base", "", "1259"} {
		if _, err := s.Open(0, path); !errors.Is(err, fs.ErrNotExist) || !strings.HasSuffix(err.Error(), ": No such file or directory") {
			t.Errorf("%q: %v", path, err)
		}
	}
	f, err := s.Open(0, "backup_manifest")
	if err != nil || f.Size != 8 || f.Shared {
		t.Errorf("%+v, %v", f, err)
	}
	_ = f.Close()
}

func TestStoredTablespaces(t *testing.T) {
	mapped := append([]byte(nil), tarOf(t, "tablespace_map")...)
	content := "16400 /srv/s\n\x00"[:13] // as long as its name is 14
	copy(mapped[512:], content+"\n")
	s, _, err := openFiles(t, t.Context(), map[string][]byte{"base.tar": mapped, "16400.tar": tarOf(t), "16401.tar": tarOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Tablespaces()
	slices.SortFunc(got, func(a, b backup.Tablespace) int { return int(a.OID) - int(b.OID) })
	if diff := cmp.Diff([]backup.Tablespace{{OID: 16400, Location: "/srv/s"}, {OID: 16401, Location: "pg_tblspc/16401"}}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	var links []string
	for m, err := range s.Members() {
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, m.Path+" "+m.Target)
	}
	if diff := cmp.Diff([]string{"pg_tblspc/16400 /srv/s"}, links); diff != "" {
		t.Error(diff)
	}
}

// TestStoredThatIsNone has archives that are damaged, or meant to do harm.
func TestStoredThatIsNone(t *testing.T) {
	whole := tarOf(t, "PG_VERSION", "base/1/1259", "PG_VERSION")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		reason string
		ctx    context.Context
		files  map[string][]byte
		said   string // of opening; or if that succeeds
		opened string // of opening PG_VERSION
	}{
		{"nothing there", t.Context(), nil, "there is no backup in ", ""},
		{"no main directory", t.Context(), map[string][]byte{"16400.tar": whole}, "there is no backup in ", ""},
		{"a file that is no archive", t.Context(), map[string][]byte{"base.tar": bytes.Repeat([]byte("x"), 2000)}, `base.tar": archive/tar: invalid tar header`, ""},
		{"cut within a header", t.Context(), map[string][]byte{"base.tar": whole[:600]}, `base.tar": `, ""},
		{"cut within a file", t.Context(), map[string][]byte{"base.tar": whole[:1024+515]}, `base.tar": `, ""},
		{"not as it is called", t.Context(), map[string][]byte{"base.tar.gz": whole}, `could not unpack archive "`, ""},
		{"compressed and cut", t.Context(), map[string][]byte{"base.tar.gz": gzipped(t, whole)[:60]}, `could not unpack archive "`, ""},
		{"cancelled", cancelled, map[string][]byte{"base.tar.gz": gzipped(t, whole)}, "context canceled", ""},
		{"cancelled, not compressed", cancelled, map[string][]byte{"base.tar": whole}, "context canceled", ""},
		{"a file twice", t.Context(), map[string][]byte{"base.tar": whole}, "", `base.tar: PG_VERSION" is there twice`},
		{"in two archives", t.Context(), map[string][]byte{"base.tar": tarOf(t, "PG_VERSION"), "base.tar.gz": gzipped(t, tarOf(t, "PG_VERSION"))}, `base.tar.gz" are archives of the same`, ""},
		{"a name that leads out", t.Context(), map[string][]byte{"base.tar": tarOf(t, "PG_VERSION", "base/../../evil")}, `tar member has unsafe path name: "../evil"`, ""},
		{"a tablespace that leads out", t.Context(), map[string][]byte{"base.tar": tarOf(t), "16400.tar": tarOf(t, "../16401/evil")}, `tar member has unsafe path name: "../16401/evil"`, ""},
	} {
		t.Run(test.reason, func(t *testing.T) {
			s, _, err := openFiles(t, test.ctx, test.files)
			if test.said != "" {
				if err == nil || !strings.Contains(err.Error(), test.said) {
					t.Errorf("%v, want %s", err, test.said)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Open(0, "PG_VERSION"); err == nil || !strings.Contains(err.Error(), test.opened) {
				t.Errorf("%v, want %s", err, test.opened)
			}
		})
	}
}
