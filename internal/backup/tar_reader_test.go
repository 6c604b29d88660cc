package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/usererr"
)

// pieces hands out data in pieces of at most size bytes, then err, or io.EOF if
// that is nil. As its contract has it, a piece is gone with the next call.
type pieces struct {
	t     testing.TB
	data  []byte
	size  int
	err   error
	last  []byte
	ended bool
}

func (p *pieces) Piece(limit int) ([]byte, error) {
	if p.ended {
		p.t.Error("a piece is asked for after the end")
	}
	for i := range p.last {
		p.last[i] = 0xdd
	}
	if limit < 1 {
		p.t.Fatalf("a piece of %d bytes is asked for", limit)
	}
	if len(p.data) == 0 && p.err != nil {
		return nil, p.err
	}
	if len(p.data) == 0 {
		p.ended = true
		return nil, io.EOF
	}
	n := min(limit, p.size, len(p.data))
	p.last, p.data = bytes.Clone(p.data[:n]), p.data[n:]
	return p.last, nil
}

// readWith reads all members, and their bytes in the given way.
func readWith(r *TarReader, read func(*TarReader) (string, error)) ([]scripted, error) {
	var all []scripted
	for {
		m, err := r.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		content, err := read(r)
		if err != nil {
			return all, err
		}
		all = append(all, scripted{m, content})
	}
}

func whole(r *TarReader) (string, error) {
	content, err := io.ReadAll(struct{ io.Reader }{r})
	return string(content), err
}

func writeTo(r *TarReader) (string, error) {
	var b strings.Builder
	n, err := r.WriteTo(&b)
	if err == nil && n != int64(b.Len()) {
		err = fmt.Errorf("wrote %d bytes and says %d", b.Len(), n)
	}
	return b.String(), err
}

func TestTarReaderPieces(t *testing.T) {
	ways := map[string]func(*TarReader) (string, error){
		"read":     whole,
		"write to": writeTo,
		"read byte by byte": func(r *TarReader) (string, error) {
			var all []byte
			for {
				var b [1]byte
				if n, err := r.Read(nil); n != 0 || err != nil && err != io.EOF {
					return "", fmt.Errorf("read of nothing: %d, %w", n, err)
				}
				n, err := r.Read(b[:])
				all = append(all, b[:n]...)
				if err == io.EOF {
					return string(all), nil
				}
				if err != nil {
					return "", err
				}
			}
		},
		"read 7 bytes, then write to": func(r *TarReader) (string, error) {
			first, err := io.ReadAll(io.LimitReader(r, 7))
			if err != nil {
				return "", err
			}
			rest, err := writeTo(r)
			return string(first) + rest, err
		},
	}
	want := sample()
	raw := archive(t, want...)
	for name, way := range ways {
		for _, size := range []int{1, 2, 511, 512, 513, 1023, 32768, 1 << 30} {
			t.Run(fmt.Sprintf("%s, pieces of %d", name, size), func(t *testing.T) {
				src := &pieces{t: t, data: raw, size: size}
				r := NewTarReader(src, 0)
				got, err := readWith(r, way)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got, compareScripted); diff != "" {
					t.Errorf("members differ (-in +out):\n%s", diff)
				}
				if !src.ended {
					t.Error("the stream is not read to its end")
				}
				for range 2 {
					if m, err := r.Next(); err != io.EOF {
						t.Errorf("one more: %+v, %v", m, err)
					}
				}
			})
		}
	}
}

func TestTarReaderSkips(t *testing.T) {
	want := sample()
	for _, take := range []int64{0, 1, 511, 512, 513} {
		r := NewTarReader(&pieces{t: t, data: archive(t, want...), size: 100}, 16384)
		got, err := readWith(r, func(r *TarReader) (string, error) {
			content, err := io.ReadAll(io.LimitReader(r, take))
			return string(content), err
		})
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d members, %v", len(got), err)
		}
		for i, g := range got {
			if g.m.Path != want[i].m.Path || g.content != want[i].content[:min(take, want[i].m.Size)] {
				t.Errorf("%d bytes of each: got %q of %s, want those of %s", take, g.content, g.m.Path, want[i].m.Path)
			}
			if g.m.Tablespace != 16384 {
				t.Errorf("%s is of tablespace %d", g.m.Path, g.m.Tablespace)
			}
		}
	}
}

// TestTarReaderReadsPostgreSQL also says that a member carries all that is in
// its header: written again it is the same.
func TestTarReaderReadsPostgreSQL(t *testing.T) {
	for _, c := range sent {
		t.Run(c.name, func(t *testing.T) {
			m, err := NewTarReader(&pieces{t: t, data: []byte(c.header), size: 512}, 0).Next()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.m, m); diff != "" {
				t.Errorf("member differs (-want +got):\n%s", diff)
			}
			again, err := AppendTarHeader(nil, m)
			if err != nil || string(again) != c.header {
				t.Errorf("written again it is %q, %v", again, err)
			}
		})
	}
}

// TestTarReaderReadsGNU reads headers as GNU tar 1.34 writes them.
func TestTarReaderReadsGNU(t *testing.T) {
	p := strings.Repeat("p", 60)
	for _, c := range []struct {
		name, header string
		want         Member
	}{
		{"gnu: file", block("./short", "0000600\x000000145\x000000150\x0000000000006\x0014524770400\x00012550\x00 0", "", tailGNU, ""),
			Member{Path: "./short", Kind: File, Size: 6, Mode: 0o600, UID: 101, GID: 104, ModTime: time.Unix(1700000000, 0)}},
		{"gnu: directory from before 1970", block("./base/", "0000700\x000000145\x000000150\x0000000000000\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff'\x95\xbc016477\x00 5", "", tailGNU, ""),
			Member{Path: "./base", Kind: Dir, Mode: 0o700, UID: 101, GID: 104, ModTime: time.Date(1969, 7, 20, 20, 17, 0, 0, time.UTC)}},
		{"gnu: link", block("./pg_tblspc/16384", "0000700\x000000145\x000000150\x0000000000000\x0014524770400\x00015443\x00 2", "/srv/one", tailGNU, ""),
			Member{Path: "./pg_tblspc/16384", Kind: Symlink, Mode: 0o700, UID: 101, GID: 104, ModTime: time.Unix(1700000000, 0), Target: "/srv/one"}},
		{"ustar: file", block("./short", "0000600\x000000145\x000000150\x0000000000006\x0014524770400\x00014050\x00 0", "", tailUstar, ""),
			Member{Path: "./short", Kind: File, Size: 6, Mode: 0o600, UID: 101, GID: 104, ModTime: time.Unix(1700000000, 0)}},
		{"ustar: link", block("./pg_tblspc/16384", "0000700\x000000145\x000000150\x0000000000000\x0014524770400\x00016743\x00 2", "/srv/one", tailUstar, ""),
			Member{Path: "./pg_tblspc/16384", Kind: Symlink, Mode: 0o700, UID: 101, GID: 104, ModTime: time.Unix(1700000000, 0), Target: "/srv/one"}},
		{"ustar: name in two parts", block("f", "0000600\x000000145\x000000150\x0000000000001\x0014524770400\x00045253\x00 0", "", tailUstar, p+"/"+p),
			Member{Path: p + "/" + p + "/f", Kind: File, Size: 1, Mode: 0o600, UID: 101, GID: 104, ModTime: time.Unix(1700000000, 0)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			itself := block("./", "0000700\x000000145\x000000150\x0000000000000\x0015300567237\x00012775\x00 5", "", tailUstar, "")
			m, err := NewTarReader(&pieces{t: t, data: []byte(itself + c.header), size: 512}, 0).Next()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, m); diff != "" {
				t.Errorf("member differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTarReaderReadsArchiveTar(t *testing.T) {
	long := strings.Repeat("d", 80) + "/" + strings.Repeat("e", 80)
	want := append(sample(), dir(long), file(long+"/f", "long"))
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	types := map[Kind]byte{File: tar.TypeReg, Dir: tar.TypeDir, Symlink: tar.TypeSymlink}
	for _, f := range want {
		h := &tar.Header{
			Format: tar.FormatUSTAR, Typeflag: types[f.m.Kind], Name: f.m.Path, Linkname: f.m.Target, Size: f.m.Size,
			Mode: int64(f.m.Mode), Uid: f.m.UID, Gid: f.m.GID, Uname: "postgres", ModTime: f.m.ModTime,
		}
		if f.m.Path == "caf\xe9" {
			h.Format = tar.FormatGNU // its ustar is for ASCII alone
		}
		if f.m.Kind == Dir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := readWith(NewTarReader(&pieces{t: t, data: raw.Bytes(), size: 513}, 0), whole)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareScripted); diff != "" {
		t.Errorf("members differ (-in +out):\n%s", diff)
	}
}

// TestTarReaderRefuses changes a header that is well. The sum is made right
// again, except where it is the fault.
func TestTarReaderRefuses(t *testing.T) {
	const noTar = "input file does not appear to be a valid tar archive"
	set := func(at int, s string) func(h []byte) { return func(h []byte) { copy(h[at:], s) } }
	name := func(s string) func([]byte) { return set(tarName, pad(s, 100)) }
	for _, c := range []struct {
		name   string
		change func(h []byte)
		want   string // empty if it is well
	}{
		{"nothing wrong", func([]byte) {}, ""},
		{"old type of a file", set(tarType, "\x00"), ""},
		{"GNU's magic", set(tarMagic, "ustar  \x00"), ""},
		{"another magic", set(tarMagic, "ustar00\x00"), ""},
		{"parent in the middle", name("a/../b"), ""},
		{"three dots", name(".../b"), ""},

		{"no magic", set(tarMagic, "\x00\x00\x00\x00\x00\x00\x00\x00"), noTar},
		{"another version", set(tarMagic, "ustar\x0001"), noTar},
		{"no name", name(""), "tar member has empty name"},
		{"absolute", name("/etc/passwd"), `tar member has unsafe path name: "/etc/passwd"`},
		{"root", name("/"), `tar member has unsafe path name: "/"`},
		{"parent", name(".."), `tar member has unsafe path name: ".."`},
		{"in the parent", name("../x"), `tar member has unsafe path name: "../x"`},
		{"in the parent, round about", name("a/./../../x"), `tar member has unsafe path name: "a/./../../x"`},
		{"file that is the directory itself", name("a/.."), `tar member has unsafe path name: "a/.."`},
		{"parent in the prefix", set(tarPrefix, ".."), `tar member has unsafe path name: "../short"`},
		{"absolute prefix", set(tarPrefix, "/etc"), `tar member has unsafe path name: "/etc/short"`},
		{"prefix of another format", func(h []byte) { set(tarMagic, "ustar  \x00")(h); set(tarPrefix, "..")(h) }, ""},

		{"size less than zero", set(tarSize, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), `tar member "short": number out of range in header`},
		{"size of more than 63 bits", set(tarSize, "\x80\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"), `tar member "short": number out of range in header`},
		{"size of more than 64 bits", set(tarSize, "\x80\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), `tar member "short": number out of range in header`},
		{"owner less than zero", set(tarUID, "\xff\xff\xff\xff\xff\xff\xff\xff"), `tar member "short": number out of range in header`},

		{"pax", set(tarType, "x"), "pax extensions to tar format are not supported"},
		{"pax, global", set(tarType, "g"), "pax extensions to tar format are not supported"},
		{"hard link", set(tarType, "1"), `tar member "short" has the unknown type '1'`},
		{"device", set(tarType, "3"), `tar member "short" has the unknown type '3'`},
		{"GNU's long name", set(tarType, "L"), `tar member "short" has the unknown type 'L'`},
		{"sparse file", set(tarType, "S"), `tar member "short" has the unknown type 'S'`},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := [TarBlock]byte([]byte(sent[0].header))
			c.change(h[:])
			putTarNumber(h[tarChecksum:tarChecksum+tarChecksumSize], uint64(sumTarHeader(&h)))
			m, err := NewTarReader(&pieces{t: t, data: h[:], size: 512}, 0).Next()
			if message(err) != c.want {
				t.Errorf("got %+v, %q, want %q", m, message(err), c.want)
			}
			if err != nil && m != (Member{}) {
				t.Errorf("got %+v in spite of %v", m, err)
			}
			if strings.Contains(c.want, "unknown type") && usererr.Hint(err) == "" {
				t.Error("no hint")
			}
		})
	}
	for at := range TarBlock {
		if at == tarChecksum+tarChecksumSize-1 {
			continue // the end of the sum, which nobody looks at
		}
		h := []byte(sent[0].header)
		h[at] ^= 0x04 // a digit stays one
		if m, err := NewTarReader(&pieces{t: t, data: h, size: 512}, 0).Next(); message(err) != noTar {
			t.Errorf("byte %d is wrong: got %+v, %v", at, m, err)
		}
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestTarReaderCut ends the stream after each of its bytes. Between members it
// may end: before 15, servers leave out the end of the archive.
func TestTarReaderCut(t *testing.T) {
	files := []scripted{file("a", "0123456789"), dir("d"), file("d/b", strings.Repeat("x", 600)), file("d/c", "")}
	raw := archive(t, files...)
	between := map[int]bool{0: true, 2: true, 3: true, 6: true, 7: true}     // blocks that begin a member or the end
	begun := []string{"", "a", "a", "d", "d/b", "d/b", "d/b", "d/c", "", ""} // the last file, as seen in each block
	for k := range len(raw) + 1 {
		got, err := readWith(NewTarReader(&pieces{t: t, data: raw[:k], size: 100}, 0), writeTo)
		n := k / TarBlock
		if n >= 8 || between[n] && k%TarBlock == 0 {
			if err != nil {
				t.Errorf("ends after %d bytes: %v", k, err)
			}
			continue
		}
		if message(err) != "COPY stream ended before last file was finished" {
			t.Fatalf("ends after %d bytes: %d members, %v", k, len(got), err)
		}
		detail := ""
		if begun[n] != "" {
			detail = fmt.Sprintf("The last file begun was %q.", begun[n])
		}
		if got := usererr.Detail(err); got != detail {
			t.Errorf("ends after %d bytes: detail %q, want %q", k, got, detail)
		}
	}
}

// TestTarReaderErrors lets the stream fail after each of its bytes; the error
// comes through as it is.
func TestTarReaderErrors(t *testing.T) {
	raw := archive(t, file("a", "0123456789"), dir("d"), file("d/b", strings.Repeat("x", 600)))
	for _, cause := range []error{errors.New("the server went away"), io.ErrUnexpectedEOF, fmt.Errorf("reading: %w", io.EOF)} {
		for k := range len(raw) + 1 {
			for _, read := range []func(*TarReader) (string, error){whole, writeTo} {
				_, err := readWith(NewTarReader(&pieces{t: t, data: raw[:k], size: 100, err: cause}, 0), read)
				if err != cause {
					t.Fatalf("fails after %d bytes: %v", k, err)
				}
			}
		}
	}
}

// refusing is a writer that takes some bytes and then fails.
type refusing struct{ room int }

var errFull = errors.New("no space")

func (w *refusing) Write(p []byte) (int, error) {
	n := min(w.room, len(p))
	w.room -= n
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

func TestTarReaderWriteToFails(t *testing.T) {
	r := NewTarReader(&pieces{t: t, data: archive(t, file("a", strings.Repeat("x", 600)), file("b", "next")), size: 100}, 0)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if n, err := r.WriteTo(&refusing{250}); n != 250 || err != errFull {
		t.Errorf("wrote %d, %v", n, err)
	}
	m, err := r.Next()
	if err != nil || m.Path != "b" {
		t.Fatalf("the next is %+v, %v", m, err)
	}
	if got, err := whole(r); got != "next" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTarReaderIgnoresWhatFollowsTheEnd(t *testing.T) {
	for _, c := range []struct {
		name, follows string
	}{
		{"zeros, as GNU tar leaves them", strings.Repeat("\x00", 10240)},
		{"garbage", strings.Repeat("garbage", 1000)},
		{"a member", string(archive(t, file("late", "late")))},
		{"a byte", "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := &pieces{t: t, data: append(archive(t, file("a", "x")), c.follows...), size: 100}
			got, err := readWith(NewTarReader(src, 0), whole)
			if err != nil || len(got) != 1 || !src.ended {
				t.Errorf("%d members, %v, ended %t", len(got), err, src.ended)
			}
		})
	}
}

// TestTarReaderHugeSize has a size whose padding is beyond what a number holds.
func TestTarReaderHugeSize(t *testing.T) {
	f := file("huge", "")
	f.m.Size = math.MaxInt64
	r := NewTarReader(&pieces{t: t, data: archive(t, f, file("inside", "x")), size: 512}, 0)
	if m, err := r.Next(); err != nil || m.Size != math.MaxInt64 {
		t.Fatalf("got %+v, %v", m, err)
	}
	if m, err := r.Next(); message(err) != "COPY stream ended before last file was finished" {
		t.Errorf("what is in the file is a member: %+v, %v", m, err)
	}
}

func TestTarReaderBeforeNext(t *testing.T) {
	r := NewTarReader(&pieces{t: t, data: archive(t, file("a", "x")), size: 512}, 0)
	if n, err := r.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
	if n, err := r.WriteTo(io.Discard); n != 0 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if m, err := r.Next(); err != nil || m.Path != "a" {
		t.Errorf("got %+v, %v", m, err)
	}
}

func FuzzTarReader(f *testing.F) {
	f.Add(archive(f, sample()...), uint16(512), false)
	for _, c := range sent {
		f.Add([]byte(c.header), uint16(100), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, size uint16, mend bool) {
		if mend && len(raw) >= TarBlock { // else a change of the first header is seldom more than a wrong sum
			raw = bytes.Clone(raw)
			h := (*[TarBlock]byte)(raw)
			putTarNumber(h[tarChecksum:tarChecksum+tarChecksumSize], uint64(sumTarHeader(h)))
		}
		read := func(content func(*TarReader) (string, error)) ([]scripted, error) {
			return readWith(NewTarReader(&pieces{t: t, data: raw, size: 1 + int(size)}, 0), content)
		}
		got, err := read(whole)
		again, err2 := read(writeTo)
		if diff := cmp.Diff(got, again, compareScripted); diff != "" || message(err) != message(err2) {
			t.Errorf("read %v, write to %v, members (-read +write to):\n%s", err, err2, diff)
		}
		for _, g := range got {
			if !LocalPath(path.Clean(g.m.Path)) {
				t.Errorf("path %q leads out", g.m.Path)
			}
			if g.m.Kind == File && g.m.Size != int64(len(g.content)) {
				t.Errorf("%d bytes of %d", len(g.content), g.m.Size)
			}
			block, err := AppendTarHeader(nil, g.m)
			if err != nil {
				continue // a name that fits its field, but without the zero that PostgreSQL wants
			}
			m, err := NewTarReader(&pieces{t: t, data: block, size: 512}, 0).Next()
			if diff := cmp.Diff(g.m, m); diff != "" || err != nil {
				t.Errorf("written and read again: %v\n%s", err, diff)
			}
		}
	})
}
