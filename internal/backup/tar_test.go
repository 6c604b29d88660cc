package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Tails of a header, from its magic on.
var (
	tailPostgres = "ustar\x0000" + pad("postgres", 32) + pad("postgres", 32) + "0000000 0000000 "
	tailGNU      = "ustar  \x00" + pad("postgres", 32) + pad("postgres", 32) + strings.Repeat("\x00", 16)
	tailUstar    = "ustar\x0000" + pad("postgres", 32) + pad("postgres", 32) + "0000000\x000000000\x00"
)

func pad(s string, size int) string { return s + strings.Repeat("\x00", size-len(s)) }

// block puts a header together of what is written in it: the name, the fields
// from the mode to the type, the link's target, the tail, and the prefix.
func block(name, fields, target, tail, prefix string) string {
	return pad(pad(name, 100)+fields+pad(target, 100)+tail+prefix, TarBlock)
}

func posix(name, fields, target string) string { return block(name, fields, target, tailPostgres, "") }

// sent are headers as PostgreSQL 15.18 sent them, and the members they stand for.
var sent = []struct {
	name   string
	header string
	m      Member
}{
	{"file", posix("short", "0000600 0000145 0000150 00000000006 14524770400 0014253 0", ""),
		Member{Path: "short", Kind: File, Size: 6, Mode: 0o600, UID: 101, GID: 104, ModTime: time.Unix(1700000000, 0)}},
	{"file of a relation", posix("base/1/1259", "0000600 0000145 0000150 00000340000 15300566775 0014602 0", ""),
		Member{Path: "base/1/1259", Kind: File, Size: 114688, Mode: 0o600, UID: 101, GID: 104, ModTime: time.Unix(0o15300566775, 0)}},
	{"directory", posix("global/", "0000700 0000145 0000150 00000000000 15300566467 0014444 5", ""),
		Member{Path: "global", Kind: Dir, Mode: 0o700, UID: 101, GID: 104, ModTime: time.Unix(0o15300566467, 0)}},
	{"directory with a dot before it", posix("./pg_wal/archive_status/", "0000700 0000145 0000150 00000000000 15300567204 0017624 5", ""),
		Member{Path: "./pg_wal/archive_status", Kind: Dir, Mode: 0o700, UID: 101, GID: 104, ModTime: time.Unix(0o15300567204, 0)}},
	{"setgid and sticky", posix("sticky/", "0003750 0000145 0000150 00000000000 15300566250 0014510 5", ""),
		Member{Path: "sticky", Kind: Dir, Mode: 0o750 | fs.ModeSetgid | fs.ModeSticky, UID: 101, GID: 104, ModTime: time.Unix(0o15300566250, 0)}},
	{"link", posix("pg_tblspc/16396/", "0000777 0000145 0000150 00000000000 15300567204 0017233 2", "/tmp/one"),
		Member{Path: "pg_tblspc/16396", Kind: Symlink, Mode: 0o777, UID: 101, GID: 104, ModTime: time.Unix(0o15300567204, 0), Target: "/tmp/one"}},
	{"longest target", posix("pg_tblspc/16397/", "0000777 0000145 0000150 00000000000 15300567204 0042402 2", "/tmp/"+strings.Repeat("l", 94)),
		Member{Path: "pg_tblspc/16397", Kind: Symlink, Mode: 0o777, UID: 101, GID: 104, ModTime: time.Unix(0o15300567204, 0), Target: "/tmp/" + strings.Repeat("l", 94)}},
	{"longest name", posix(strings.Repeat("n", 99), "0000644 0000145 0000150 00000000001 15300566145 0040412 0", ""),
		Member{Path: strings.Repeat("n", 99), Kind: File, Size: 1, Mode: 0o644, UID: 101, GID: 104, ModTime: time.Unix(0o15300566145, 0)}},
	{"longest name with a zero after the slash", posix(strings.Repeat("d", 98)+"/", "0000755 0000145 0000150 00000000000 15300566145 0036376 5", ""),
		Member{Path: strings.Repeat("d", 98), Kind: Dir, Mode: 0o755, UID: 101, GID: 104, ModTime: time.Unix(0o15300566145, 0)}},
	{"longest name of a directory", posix(strings.Repeat("e", 99)+"/", "0000755 0000145 0000150 00000000000 15300567204 0036702 5", ""),
		Member{Path: strings.Repeat("e", 99), Kind: Dir, Mode: 0o755, UID: 101, GID: 104, ModTime: time.Unix(0o15300567204, 0)}},
	{"9 GiB", posix("PG_15_202209061/huge", "0000644 0000145 0000150 \x80\x00\x00\x00\x00\x00\x00\x02@\x00\x00\x0015300566250 0015147 0", ""),
		Member{Path: "PG_15_202209061/huge", Kind: File, Size: 9 << 30, Mode: 0o644, UID: 101, GID: 104, ModTime: time.Unix(0o15300566250, 0)}},
	{"a time that 33 bits do not hold", posix("far", "0000644 0000145 0000150 00000000004 \x80\x00\x00\x00\x00\x00\x00\x02\x18q\x1a\x000013215 0", ""),
		Member{Path: "far", Kind: File, Size: 4, Mode: 0o644, UID: 101, GID: 104, ModTime: time.Unix(9000000000, 0)}},
	{"a time before 1970", posix("old", "0000644 0000145 0000150 00000000004 \x80\x00\x00\x00\xff\xff\xff\xff\xff'\x95\xbc0016141 0", ""),
		Member{Path: "old", Kind: File, Size: 4, Mode: 0o644, UID: 101, GID: 104, ModTime: time.Date(1969, 7, 20, 20, 17, 0, 0, time.UTC)}},
}

func TestAppendTarHeader(t *testing.T) {
	for _, c := range sent {
		t.Run(c.name, func(t *testing.T) {
			got, err := AppendTarHeader([]byte("before"), c.m)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff("before"+c.header, string(got)); diff != "" {
				t.Errorf("header differs (-PostgreSQL +ours):\n%s", diff)
			}
		})
	}
	manifest, err1 := AppendTarHeader(nil, Member{Path: "backup_manifest", Kind: Manifest, Size: 700, Mode: 0o600})
	file, err2 := AppendTarHeader(nil, Member{Path: "backup_manifest", Kind: File, Size: 700, Mode: 0o600})
	if err1 != nil || err2 != nil || !bytes.Equal(manifest, file) {
		t.Errorf("a manifest is not a file: %v, %v", err1, err2)
	}
}

func TestAppendTarHeaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		m    Member
		want string
	}{
		{"name too long", Member{Path: strings.Repeat("n", 100), Kind: File}, `file name too long for tar format: "` + strings.Repeat("n", 100) + `"`},
		{"directory's name too long", Member{Path: strings.Repeat("d", 100), Kind: Dir}, `file name too long for tar format: "` + strings.Repeat("d", 100) + `"`},
		{"target too long", Member{Path: "l", Kind: Symlink, Target: strings.Repeat("t", 100)},
			`symbolic link target too long for tar format: file name "l", target "` + strings.Repeat("t", 100) + `"`},
		{"no name", Member{Kind: File}, "tar member has empty name"},
		{"no name of a directory", Member{Kind: Dir}, "tar member has empty name"},
		{"size not known", Member{Path: "backup_manifest", Kind: Manifest, Size: -1}, `size of tar member "backup_manifest" is not known`},
		{"archive", Member{Path: "base.tar.gz", Kind: Archive, Size: 1}, `member "base.tar.gz" has no form in a tar archive`},
		{"no kind", Member{Path: "x"}, `member "x" has no form in a tar archive`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := AppendTarHeader([]byte("before"), c.m)
			if err == nil || err.Error() != c.want || got != nil {
				t.Errorf("got %q, %v, want %s", got, err, c.want)
			}
		})
	}
}

// TestArchiveTarReadsHeaders lets the standard library read what we write.
func TestArchiveTarReadsHeaders(t *testing.T) {
	types := map[Kind]byte{File: tar.TypeReg, Dir: tar.TypeDir, Symlink: tar.TypeSymlink}
	for _, c := range sent {
		if c.m.ModTime.Unix() < 0 {
			continue // PostgreSQL writes it as a number of 64 bits without sign, which others refuse
		}
		t.Run(c.name, func(t *testing.T) {
			block, err := AppendTarHeader(nil, c.m)
			if err != nil {
				t.Fatal(err)
			}
			h, err := tar.NewReader(bytes.NewReader(block)).Next()
			if err != nil {
				t.Fatal(err)
			}
			got := Member{
				Path: strings.TrimSuffix(h.Name, "/"), Kind: c.m.Kind, Size: h.Size, UID: h.Uid, GID: h.Gid,
				Mode: h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetgid | fs.ModeSticky), ModTime: h.ModTime, Target: h.Linkname,
			}
			if diff := cmp.Diff(c.m, got); diff != "" {
				t.Errorf("member differs (-in +out):\n%s", diff)
			}
			if h.Typeflag != types[c.m.Kind] {
				t.Errorf("type %q", h.Typeflag)
			}
		})
	}
}

func TestTarNumber(t *testing.T) {
	for _, c := range []struct {
		name  string
		field string
		want  int64
	}{
		{"PostgreSQL's", "0000600 ", 0o600},
		{"ends with zero", "0000600\x00", 0o600},
		{"blanks before it", "   600 \x00", 0o600},
		{"no room for an end", "77777777", 0o77777777},
		{"two ends", "012345\x00 ", 0o12345},
		{"stops at what is no digit", "00128000", 0o12},
		{"blank", "        ", 0},
		{"zeros", "\x00\x00\x00\x00\x00\x00\x00\x00", 0},
		{"base 256", "\x80\x00\x00\x00\xff\xff\xff\xff", math.MaxUint32},
		{"base 256, all of it", "\x80\xff\xff\xff\xff\xff\xff\xff", 1<<56 - 1},
		{"base 256, large field", "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff", math.MaxInt64},
		{"less than zero, PostgreSQL's", "\x80\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff", -1},
		{"less than zero, others'", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2},
		{"less than zero, small field", "\xff\xff\xff\xff\xff\xff\xff\xfe", -2},
	} {
		if got, err := tarNumber([]byte(c.field)); err != nil || got != c.want {
			t.Errorf("%s: %d, %v, want %d", c.name, got, err, c.want)
		}
	}
	for _, field := range []string{
		"\x80\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
		"\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00", // 2^64
		"\xff\xff\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff",
		"\x81\x00\x00\x00\x00\x00\x00\x00",
		"\xc0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		if got, err := tarNumber([]byte(field)); err == nil {
			t.Errorf("% x is %d", field, got)
		}
	}
	for _, v := range []int64{0, 1, 0o7777777, 0o7777777 + 1, 1<<33 - 1, 1 << 33, math.MaxInt64, -1, math.MinInt64} {
		var field [12]byte
		putTarNumber(field[:], uint64(v))
		if got, err := tarNumber(field[:]); err != nil || got != v {
			t.Errorf("%d is written % x, which is %d, %v", v, field, got, err)
		}
		if octal := field[11] == ' ' && field[0] != 0x80; octal != (uint64(v) < 1<<33) {
			t.Errorf("%d is written % x", v, field)
		}
	}
}

func TestTarPadding(t *testing.T) {
	for size, want := range map[int64]int{0: 0, 1: 511, 511: 1, 512: 0, 513: 511, 8192: 0, 9<<30 + 3: 509, math.MaxInt64: 1} {
		if got := TarPadding(size); got != want {
			t.Errorf("%d bytes are padded with %d, want %d", size, got, want)
		}
	}
}

func TestLocalPath(t *testing.T) {
	for p, want := range map[string]bool{
		"a": true, "a/b": true, "...": true, "..a": true, "a..": true, ".": true, "-": true, "caf\xe9": true, `a\..\b`: true,
		"": false, "/": false, "/a": false, "..": false, "../a": false, "a\x00b": false,
	} {
		if got := LocalPath(p); got != want {
			t.Errorf("%q: %t", p, got)
		}
	}
}

// archive returns an archive of files, as a server sends it.
func archive(t testing.TB, files ...scripted) []byte {
	t.Helper()
	var out []byte
	for _, f := range files {
		var err error
		if out, err = AppendTarHeader(out, f.m); err != nil {
			t.Fatal(err)
		}
		out = append(out, f.content...)
		out = append(out, make([]byte, TarPadding(f.m.Size))...)
	}
	return append(out, make([]byte, TarEnd)...)
}

// scripted is a member and its bytes.
type scripted struct {
	m       Member
	content string
}

func file(name, content string) scripted {
	return scripted{Member{Path: name, Kind: File, Size: int64(len(content)), Mode: 0o600, UID: 101, GID: 104, ModTime: time.Unix(1700000000, 0)}, content}
}

func dir(name string) scripted {
	return scripted{Member{Path: name, Kind: Dir, Mode: 0o700, UID: 101, GID: 104, ModTime: time.Unix(1700000000, 0)}, ""}
}

func link(name, target string) scripted {
	return scripted{Member{Path: name, Kind: Symlink, Mode: 0o777, UID: 101, GID: 104, ModTime: time.Unix(1700000000, 0), Target: target}, ""}
}

// compareScripted lets go-cmp see into the type.
var compareScripted = cmp.AllowUnexported(scripted{})

func TestArchiveTarReadsArchive(t *testing.T) {
	want := sample()
	r := tar.NewReader(bytes.NewReader(archive(t, want...)))
	for _, w := range want {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil || string(content) != w.content {
			t.Errorf("%s: %d bytes, %v", h.Name, len(content), err)
		}
		if strings.TrimSuffix(h.Name, "/") != w.m.Path || h.Linkname != w.m.Target {
			t.Errorf("got %q to %q, want %+v", h.Name, h.Linkname, w.m)
		}
	}
	if h, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("one more: %+v, %v", h, err)
	}
}

// sample is a small archive with contents around a block's size.
func sample() []scripted {
	text := strings.Repeat("0123456789abcdef", 100)
	return []scripted{
		file("backup_label", text[:225]), dir("global"), file("global/empty", ""), file("global/1", text[:1]), file("global/511", text[:511]),
		dir("./pg_wal"), link("pg_tblspc/16384", "/srv/one"), file("512", text[:512]), file("513", text[:513]),
		file("caf\xe9", text[:1024]), file(strings.Repeat("n", 99), text[:1500]), file("global/pg_control", text[3:515]),
	}
}
