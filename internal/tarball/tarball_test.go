package tarball

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/backup/sinktest"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

func compressGzip(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, 1) }

// compressAside compresses in goroutines, several blocks of a member at once.
func compressAside(w io.Writer) (io.WriteCloser, error) {
	return seal.NewWriter(w, seal.Spec{Algorithm: seal.Gzip, Level: 1})
}

var unsynced = localfs.Syncer{Off: true}

// claim takes a directory until the end of the test.
func claim(t testing.TB, dir string) *localfs.Claim {
	t.Helper()
	c, err := localfs.ClaimDir(dir, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestSinkKeepsItsPromises(t *testing.T) {
	for _, c := range []struct {
		name    string
		options Options
	}{
		{"plain tar", Options{}},
		{"gzip", Options{Compress: compressGzip, Suffix: ".gz"}},
		{"gzip aside", Options{Compress: compressAside, Suffix: ".gz", Sync: unsynced}},
		{"not synced", Options{Sync: unsynced}},
	} {
		t.Run(c.name, func(t *testing.T) {
			suite := sinktest.Suite{Order: true, Large: 2 << 20, MaxName: 99, Open: func(t *testing.T, dir string) sinktest.Subject {
				o := c.options
				o.Dir, o.Progress = claim(t, dir), new(backup.Progress)
				return sinktest.Subject{
					Sink:     NewSink(o),
					Finished: func() bool { return exists(filepath.Join(dir, "backup_manifest")) },
					Read:     func(t *testing.T) map[sinktest.Key]sinktest.Entry { return readDir(t, dir, o.Suffix) },
				}
			}}
			suite.Run(t)
		})
	}
}

func TestSinkKeepsItsPromisesOnOutput(t *testing.T) {
	for _, c := range []struct {
		name     string
		compress func(io.Writer) (io.WriteCloser, error)
	}{{"plain tar", nil}, {"gzip", compressGzip}, {"gzip aside", compressAside}} {
		t.Run(c.name, func(t *testing.T) {
			suite := sinktest.Suite{Single: true, Large: 2 << 20, MaxName: 99, Open: func(t *testing.T, dir string) sinktest.Subject {
				name := filepath.Join(dir, "output")
				out := &appender{name}
				if err := os.WriteFile(name, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				return sinktest.Subject{
					Sink: NewSink(Options{Output: out, Compress: c.compress}),
					Finished: func() bool {
						raw, err := unpacked(name, c.compress != nil)
						return err == nil && bytes.HasSuffix(raw, make([]byte, backup.TarEnd))
					},
					Read: func(t *testing.T) map[sinktest.Key]sinktest.Entry {
						raw, err := unpacked(name, c.compress != nil)
						if err != nil {
							t.Fatal(err)
						}
						entries := readTar(t, 0, raw)
						if entry := entries[sinktest.Key{Path: manifest.Name}]; entry.Kind != 0 {
							entry.Kind = backup.Manifest
							entries[sinktest.Key{Path: manifest.Name}] = entry
						}
						return entries
					},
				}
			}}
			suite.Run(t)
		})
	}
}

// appender is an output that holds no file open.
type appender struct{ name string }

func (a *appender) Write(p []byte) (n int, err error) {
	f, err := os.OpenFile(a.name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	n, err = f.Write(p)
	return n, errors.Join(err, f.Close())
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// unpacked returns a file's content, uncompressed.
func unpacked(name string, compressed bool) ([]byte, error) {
	raw, err := os.ReadFile(name)
	if err != nil || !compressed {
		return raw, err
	}
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// readDir reads the archives of a directory back as members.
func readDir(t *testing.T, dir, suffix string) map[sinktest.Key]sinktest.Entry {
	t.Helper()
	entries := sinktest.ReadTree(t, 0, dir)
	for _, c := range []struct {
		oid  uint32
		name string
	}{{0, "base.tar"}, {sinktest.OIDElsewhere, "16384.tar"}, {sinktest.OIDInPlace, "16385.tar"}} {
		name := filepath.Join(dir, c.name+suffix)
		if !exists(name) && c.oid != 0 {
			continue // the backup has no such tablespace
		}
		raw, err := unpacked(name, suffix != "")
		if err != nil {
			t.Fatal(err)
		}
		delete(entries, sinktest.Key{Path: c.name + suffix})
		entries = sinktest.Join(entries, readTar(t, c.oid, raw))
	}
	return entries
}

// readTar reads an archive that must end as PostgreSQL's do.
func readTar(t *testing.T, oid uint32, raw []byte) map[sinktest.Key]sinktest.Entry {
	t.Helper()
	entries, end := map[sinktest.Key]sinktest.Entry{}, int64(0)
	in := bytes.NewReader(raw)
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		end += backup.TarBlock + h.Size + int64(backup.TarPadding(h.Size))
		e := sinktest.Entry{Kind: backup.File, Mode: fs.FileMode(h.Mode).Perm(), Content: string(content)}
		switch h.Typeflag {
		case tar.TypeDir:
			e.Kind = backup.Dir
		case tar.TypeSymlink:
			e = sinktest.Entry{Kind: backup.Symlink, Content: h.Linkname}
		}
		entries[sinktest.Key{Tablespace: oid, Path: path.Clean(h.Name)}] = e
	}
	if got := int64(len(raw)) - end; got != backup.TarEnd {
		t.Errorf("%d bytes follow the last member, not %d", got, backup.TarEnd)
	}
	return entries
}

func TestEveryTablespaceHasAnArchive(t *testing.T) {
	dir := t.TempDir()
	s := NewSink(Options{Dir: claim(t, dir)})
	defer s.Close()
	start := backup.Start{Tablespaces: []backup.Tablespace{{OID: 1, Location: "/a"}, {OID: 2, Location: "/b"}}}
	err := errors.Join(
		s.Begin(t.Context(), start),
		s.Put(t.Context(), backup.Member{Tablespace: 2, Path: "f", Kind: backup.File, Size: 1}, strings.NewReader("x")),
		s.Commit(t.Context(), wal.Position{}),
	)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"1.tar": 1024, "2.tar": 2048, "base.tar": 1024} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || len(raw) != want {
			t.Errorf("%s has %d bytes, want %d (%v)", name, len(raw), want, err)
		}
	}
	if exists(filepath.Join(dir, manifest.Name)) {
		t.Error("a manifest out of nothing")
	}
}

func TestArchiveOfTheServerIsStoredAsItIs(t *testing.T) {
	dir := t.TempDir()
	s := NewSink(Options{Dir: claim(t, dir)})
	defer s.Close()
	start := backup.Start{Tablespaces: []backup.Tablespace{{OID: 1, Location: "/a"}}}
	err := errors.Join(
		s.Begin(t.Context(), start),
		s.Put(t.Context(), backup.Member{Tablespace: 1, Path: "1.tar.zst", Kind: backup.Archive, Size: -1}, strings.NewReader("anything")),
		s.Put(t.Context(), backup.Member{Path: "base.tar.zst", Kind: backup.Archive, Size: -1}, strings.NewReader("else")),
		s.Put(t.Context(), backup.Member{Kind: backup.Manifest, Size: -1}, strings.NewReader("{}")),
		s.Commit(t.Context(), wal.Position{}),
	)
	if err != nil {
		t.Fatal(err)
	}
	for key, e := range sinktest.ReadTree(t, 0, dir) {
		want, ok := map[string]string{"1.tar.zst": "anything", "base.tar.zst": "else", manifest.Name: "{}"}[key.Path]
		if !ok || e.Content != want || e.Mode != 0o600 {
			t.Errorf("%s holds %q with mode %o", key.Path, e.Content, e.Mode)
		}
	}
}

func TestSinkRefuses(t *testing.T) {
	file := func(tablespace uint32) backup.Member {
		return backup.Member{Tablespace: tablespace, Path: "f", Kind: backup.File}
	}
	archive := func(name string) backup.Member {
		return backup.Member{Path: name, Kind: backup.Archive, Size: -1}
	}
	for _, c := range []struct {
		name    string
		members []backup.Member
		output  bool
		message string // empty: all are taken
	}{
		{"one after the other", []backup.Member{file(1), file(1), file(0)}, false, ""},
		{"back to an archive", []backup.Member{file(1), file(0), file(1)}, false, "member for 1.tar after its end"},
		{"member after its archive", []backup.Member{archive("base.tar.gz"), file(0)}, false, "member for base.tar after its end"},
		{"archive twice", []backup.Member{archive("base.tar.gz"), archive("base.tar.gz")}, false, "member for base.tar after its end"},
		{"unknown tablespace", []backup.Member{file(3)}, false, "tablespace 3 was not announced"},
		{"archive elsewhere", []backup.Member{archive("../base.tar.gz")}, false, `invalid archive name: "../base.tar.gz"`},
		{"archive of another tablespace", []backup.Member{archive("1.tar.gz")}, false, `invalid archive name: "1.tar.gz"`},
		{"archive under the manifest's name", []backup.Member{archive("backup_manifest")}, false, `invalid archive name: "backup_manifest"`},
		{"archive with a path", []backup.Member{archive("a/b")}, false, `invalid archive name: "a/b"`},
		{"size not known", []backup.Member{{Path: "f", Kind: backup.File, Size: -1}}, false, `the size of member "f" is not known`},
		{"archive on output", []backup.Member{archive("base.tar.gz")}, true, ""},
		{"manifest behind an archive on output", []backup.Member{archive("base.tar.gz"), {Kind: backup.Manifest, Size: -1}}, true,
			"cannot inject manifest into a compressed tar file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			o, start := Options{Dir: claim(t, t.TempDir()), Sync: unsynced}, backup.Start{Tablespaces: []backup.Tablespace{{OID: 1, Location: "/a"}}}
			if c.output {
				o, start = Options{Output: &out}, backup.Start{}
			}
			s := NewSink(o)
			defer s.Close()
			err := s.Begin(t.Context(), start)
			for _, m := range c.members {
				if err == nil {
					err = s.Put(t.Context(), m, strings.NewReader(""))
				}
			}
			if c.message == "" && err != nil || c.message != "" && (err == nil || err.Error() != c.message) {
				t.Errorf("error is %v, want %q", err, c.message)
			}
		})
	}
	t.Run("tablespaces on output", func(t *testing.T) {
		err := NewSink(Options{Output: io.Discard}).Begin(t.Context(), backup.Start{Tablespaces: []backup.Tablespace{{OID: 1}}})
		if want := "can only write single tablespace to stdout, database has 2"; err == nil || err.Error() != want {
			t.Errorf("error is %v, want %s", err, want)
		}
	})
	t.Run("output is full", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		s := NewSink(Options{Output: full})
		defer s.Close()
		err = errors.Join(s.Begin(t.Context(), backup.Start{}), s.Commit(t.Context(), wal.Position{}))
		if want := "could not write to file \"-\": No space left on device"; err == nil || err.Error() != want || usererr.Hint(err) == "" {
			t.Errorf("error is %v (%s), want %s", err, usererr.Hint(err), want)
		}
	})
}

func TestManifestOnOutputHasPostgreSQLsOwner(t *testing.T) {
	var out bytes.Buffer
	s := NewSink(Options{Output: &out, FileMode: 0o640})
	defer s.Close()
	before := time.Now().Truncate(time.Second)
	err := errors.Join(
		s.Begin(t.Context(), backup.Start{}),
		s.Put(t.Context(), backup.Member{Kind: backup.Manifest, Size: -1}, strings.NewReader("{}")),
		s.Commit(t.Context(), wal.Position{}),
	)
	if err != nil {
		t.Fatal(err)
	}
	h, err := tar.NewReader(&out).Next()
	if err != nil {
		t.Fatal(err)
	}
	if h.Name != manifest.Name || h.Mode != 0o640 || h.Uid != 0o4000 || h.Gid != 0o2000 || h.Size != 2 || h.ModTime.Before(before) {
		t.Errorf("header is %+v", h)
	}
}

func BenchmarkPut(b *testing.B) {
	piece := bytes.Repeat([]byte("basin---"), 4096)
	for _, c := range []struct {
		name  string
		size  int64
		count int
	}{{"small", 8192, 4096}, {"large", 256 << 20, 1}} {
		b.Run(c.name, func(b *testing.B) {
			s := NewSink(Options{Output: io.Discard})
			defer s.Close()
			if err := s.Begin(b.Context(), backup.Start{}); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(c.size * int64(c.count))
			for b.Loop() {
				for range c.count {
					m := backup.Member{Path: "base/1/1259", Kind: backup.File, Mode: 0o600, Size: c.size}
					if err := s.Put(b.Context(), m, &memory{piece, c.size}); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// memory is a reader that hands out pieces as they lie in memory.
type memory struct {
	piece []byte
	left  int64
}

func (m *memory) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (m *memory) WriteTo(w io.Writer) (n int64, err error) {
	for m.left > 0 {
		k, err := w.Write(m.piece[:min(m.left, int64(len(m.piece)))])
		n, m.left = n+int64(k), m.left-int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
