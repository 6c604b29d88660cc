package verify

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/manifest"
)

// TestDamagedStructureOfAnArchive has an archive damaged in each part, with another behind it,
// which is verified whatever the first is.
func TestDamagedStructureOfAnArchive(t *testing.T) {
	whole := files{"a": "first", "b": strings.Repeat("b", 700_000), "c": "third", "pg_tblspc/16400/d": "d"}
	dir := t.TempDir()
	whole.archives(t, dir)
	content, err := os.ReadFile(filepath.Join(dir, "base.tar"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(dir, "16400.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	headerOfB, headerOfC := 1024, 1024+512+700_416
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte {
			b[at] ^= 1
			return b
		}
	}
	missing := func(paths ...string) (problems []string) {
		for _, path := range paths {
			problems = append(problems, fmt.Sprintf(`"%s" is present in the manifest but not on disk`, path))
		}
		return problems
	}
	unreadable := func(why string, paths ...string) []string {
		return append([]string{`could not read archive "base.tar": ` + why}, missing(paths...)...)
	}
	for _, c := range []struct {
		reason string
		damage func([]byte) []byte
		want   []string
	}{
		{"none", cut(len(content)), nil},
		{"without its end", cut(len(content) - 1024), nil},
		{"more behind its end", func(b []byte) []byte { return append(b, "not looked at"...) }, nil},
		{"the last padding is missing", cut(headerOfC + 512 + 5), nil},
		{"empty", cut(0), missing("a", "b", "c")},
		{"cut within the first header", cut(100), unreadable("unexpected EOF", "a", "b", "c")},
		{"cut within the second header", cut(headerOfB + 511), unreadable("unexpected EOF", "b", "c")},
		{"cut behind a header", cut(headerOfB + 512), unreadable("unexpected EOF", "c")},
		{"cut within a file", cut(headerOfB + 512 + 300_000), unreadable("unexpected EOF", "c")},
		{"cut before a file's last byte", cut(headerOfB + 512 + 699_999), unreadable("unexpected EOF", "c")},
		{"a bit of a header", flip(headerOfC + 3), unreadable("archive/tar: invalid tar header", "c")},
		{
			"a bit of each file, and of a header", func(b []byte) []byte { return flip(512)(flip(headerOfB + 600)(flip(headerOfC + 3)(b))) },
			slices.Concat(
				[]string{`checksum mismatch for file "a" in archive "base.tar"`, `checksum mismatch for file "b" in archive "base.tar"`},
				unreadable("archive/tar: invalid tar header", "c"),
			),
		},
	} {
		t.Run(c.reason, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, manifest.Name), []byte(manifestOf(whole, manifest.CRC32C)))
			write(t, filepath.Join(dir, "16400.tar.gz"), other)
			write(t, filepath.Join(dir, "base.tar"), c.damage(bytes.Clone(content)))
			problems, err := verified(t, dir, false, Options{})
			if diff := cmp.Diff(c.want, problems); diff != "" || err != nil {
				t.Errorf("%v %s", err, diff)
			}
			// Without looking into the files all but what is in them is found.
			problems, err = verified(t, dir, false, Options{SkipChecksums: true})
			want := slices.DeleteFunc(slices.Clone(c.want), func(p string) bool { return strings.HasPrefix(p, "checksum") })
			if fmt.Sprint(want) != fmt.Sprint(problems) || err != nil {
				t.Errorf("%v %q", err, problems)
			}
		})
	}
}

func TestProblemsOfAnArchiveAreInItsOrder(t *testing.T) {
	whole, changed := files{}, files{}
	var want []string
	for i := range 200 {
		path := fmt.Sprintf("base/1/%03d", i)
		whole[path] = strings.Repeat("x", i%7*50_000)
		changed[path] = whole[path]
		switch i % 5 {
		case 0:
			changed[path] += "y"
			want = append(want, fmt.Sprintf(`file "./%s" has size %d in archive "base.tar" but size %d in the manifest`, path, len(changed[path]), len(whole[path])))
		case 1:
			if len(whole[path]) > 0 {
				changed[path] = "z" + whole[path][1:]
				want = append(want, fmt.Sprintf(`checksum mismatch for file "%s" in archive "base.tar"`, path))
			}
		}
	}
	whole["pg_tblspc/16400/d"] = "d"
	changed["pg_tblspc/16400/d"] = "d"
	dir := t.TempDir()
	write(t, filepath.Join(dir, manifest.Name), []byte(manifestOf(whole, manifest.CRC32C)))
	changed.archives(t, dir)
	problems, err := verified(t, dir, false, Options{})
	if diff := cmp.Diff(want, problems); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	problems, err = verified(t, dir, false, Options{StopAtFirst: true})
	if diff := cmp.Diff(want[:1], problems); diff != "" || !errors.Is(err, ErrStopped) {
		t.Errorf("%v %s", err, diff)
	}
}

// TestUncommonMembers has what no server writes, and package tar reads.
func TestUncommonMembers(t *testing.T) {
	long := strings.Repeat("a/", 100) + "b"
	whole := files{"a": "first", long: "long", "z": "last"}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, member := range []struct {
		header  tar.Header
		content string
	}{
		{tar.Header{Name: "directory/", Typeflag: tar.TypeDir}, ""},
		{tar.Header{Name: "a", Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{"COMMENT.a": "b"}}, "first"},
		{tar.Header{Name: "link", Linkname: "elsewhere", Typeflag: tar.TypeSymlink}, ""},
		{tar.Header{Name: long, Typeflag: tar.TypeReg, Format: tar.FormatGNU}, "long"},
		{tar.Header{Name: "pg_wal/x", Typeflag: tar.TypeReg}, "ignored"},
		{tar.Header{Name: "z", Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}, "last"},
	} {
		member.header.Size, member.header.Mode = int64(len(member.content)), 0o600
		err := w.WriteHeader(&member.header)
		_, writeErr := w.Write([]byte(member.content))
		if err := errors.Join(err, writeErr); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, manifest.Name), []byte(manifestOf(whole, manifest.SHA256)))
	write(t, filepath.Join(dir, "base.tar"), archive.Bytes())
	if problems, err := verified(t, dir, false, Options{}); err != nil || problems != nil {
		t.Errorf("%v %q", err, problems)
	}
}
