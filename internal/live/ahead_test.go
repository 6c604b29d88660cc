package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"basin/internal/manifest"
	"basin/internal/pgdata"
)

// tree makes files of all sizes that matter, and returns what is in them.
func tree(t testing.TB, dir string, sizes ...int) map[string][]byte {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	contents := make(map[string][]byte)
	for i, size := range sizes {
		content := make([]byte, size)
		_, _ = random.Read(content) // never fails
		within := fmt.Sprintf("base/%d/%d", i%3+1, 16400+i)
		contents[within] = content
		path := filepath.Join(dir, within)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return contents
}

func sizes() []int {
	s := []int{0, 1, 512, pgdata.PageSize, chunkSize - 1, chunkSize, chunkSize + 1, 3*chunkSize + 17, 20 * chunkSize}
	for i := range 200 {
		s = append(s, i*37)
	}
	return s
}

// TestReadAhead reads through as little memory as there can be, and more, in several ways.
func TestReadAhead(t *testing.T) {
	dir := t.TempDir()
	contents := tree(t, dir, sizes()...)
	for _, test := range []struct {
		ahead, workers int
		read           func(r io.Reader, p []byte) (int, error) // all that is wanted
	}{
		{1, 1, io.ReadFull},
		{chunkSize + 1, 3, io.ReadFull},
		{0, 0, io.ReadFull},
		{1, 4, func(r io.Reader, p []byte) (int, error) {
			var out bytes.Buffer
			n, err := r.(io.WriterTo).WriteTo(&out)
			copy(p, out.Bytes())
			return int(n), err
		}},
		{0, 2, func(r io.Reader, p []byte) (int, error) {
			n := 0
			for {
				piece, err := r.(interface{ Piece(int) ([]byte, error) }).Piece(1000)
				if err == io.EOF {
					return n, nil
				}
				if err != nil || len(piece) == 0 || len(piece) > 1000 {
					return n, fmt.Errorf("piece of %d bytes: %w", len(piece), err)
				}
				n += copy(p[n:], piece)
			}
		}},
		{1, 2, func(r io.Reader, p []byte) (int, error) { return io.ReadFull(r, p[:len(p)/2]) }}, // the rest is skipped
		{1, 2, func(io.Reader, []byte) (int, error) { return 0, nil }},
	} {
		before := goleak.IgnoreCurrent()
		s := bareSource(t, Options{DataDir: dir, Ahead: test.ahead, Workers: test.workers, Manifest: WithManifest, Algorithm: manifest.SHA256, NoVerifyChecksums: true})
		var err error
		if s.book, err = newBook(t.TempDir(), &s.cluster, WithManifest); err != nil {
			t.Fatal(err)
		}
		a := s.readAhead()
		files := 0
		for {
			m, r, err := a.next(t.Context(), s)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if r == nil {
				continue
			}
			files++
			p := make([]byte, m.Size)
			n, err := test.read(r, p)
			if err != nil {
				t.Errorf("%s: %v", m.Path, err)
			}
			if !bytes.Equal(p[:n], contents[m.Path][:n]) || int64(len(contents[m.Path])) != m.Size {
				t.Errorf("%s: content differs", m.Path)
			}
		}
		a.close()
		if files != len(contents) {
			t.Errorf("%d files", files)
		}
		checkBook(t, s, contents)
		goleak.VerifyNone(t, before)
	}
}

// checkBook compares the manifest with the files.
func checkBook(t *testing.T, s *Source, contents map[string][]byte) {
	t.Helper()
	r, err := s.book.finish(nil)
	if err != nil {
		t.Fatal(err)
	}
	listed := 0
	if _, err := manifest.Read(r, func(f manifest.File) error {
		sum := manifest.SHA256.New()
		_, _ = sum.Write(contents[f.Path])
		if listed++; !bytes.Equal(sum.Sum(nil), f.Checksum) {
			t.Errorf("%s: the checksum is wrong", f.Path)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if listed != len(contents) {
		t.Errorf("%d files are in the manifest", listed)
	}
	if err := s.book.Close(); err != nil {
		t.Error(err)
	}
}

// TestReadAheadEnds gives up at all places.
func TestReadAheadEnds(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, sizes()...)
	before := goleak.IgnoreCurrent()
	for n := range 60 {
		s := bareSource(t, Options{DataDir: dir, Ahead: 1 << 20, Workers: 3})
		a := s.readAhead()
		ctx, cancel := context.WithCancel(t.Context())
		for i := range n {
			_, r, err := a.next(ctx, s)
			if err != nil {
				t.Fatal(err)
			}
			if r != nil && i%2 == 0 {
				_, _ = r.Read(make([]byte, 1000))
			}
		}
		cancel()
		for err := error(nil); ; {
			if _, _, err = a.next(ctx, s); err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				break
			}
		}
		a.close()
	}
	goleak.VerifyNone(t, before)
}

// TestIncrementalFile reads a file of which only some blocks are wanted, across chunks.
func TestIncrementalFile(t *testing.T) {
	const pages = 300
	dir := t.TempDir()
	contents := tree(t, dir, pages*pgdata.PageSize)
	whole := contents["base/1/16400"]
	for _, test := range []struct {
		reason     string
		truncation uint32
		blocks     func(yield func(uint32))
	}{
		{"none", pages, func(func(uint32)) {}},
		{"first and last", pages, func(yield func(uint32)) { yield(0); yield(pages - 1) }},
		{"every third", pages, func(yield func(uint32)) {
			for b := uint32(1); b < pages; b += 3 {
				yield(b)
			}
		}},
		{"a long run", 100, func(yield func(uint32)) {
			for b := uint32(100); b < pages; b++ {
				yield(b)
			}
		}},
	} {
		header := pgdata.Incremental{Truncation: test.truncation}
		test.blocks(func(b uint32) { header.Blocks = append(header.Blocks, b) })
		s := bareSource(t, Options{DataDir: dir, NoVerifyChecksums: true})
		w := s.newWalker(s.o.notify)
		var f *file
		for f == nil {
			var err error
			if _, f, err = w.next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w.close()
		f.makeIncremental(header)
		if f.member.Path != "base/1/INCREMENTAL.16400" || f.listed != f.member.Path {
			t.Errorf("path is %s, listed as %s", f.member.Path, f.listed)
		}
		r := f.direct(t.Context(), func() {})
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		got, err := pgdata.ReadIncremental(bytes.NewReader(content), f.member.Size, "x")
		if err != nil || got.Truncation != test.truncation || len(got.Blocks) != len(header.Blocks) {
			t.Errorf("%s: %d blocks, %v", test.reason, len(got.Blocks), err)
		}
		for i, b := range header.Blocks {
			page := content[got.HeaderSize()+int64(i)*pgdata.PageSize:][:pgdata.PageSize]
			if got.Blocks[i] != b || !bytes.Equal(page, whole[int(b)*pgdata.PageSize:][:pgdata.PageSize]) {
				t.Errorf("%s: block %d differs", test.reason, b)
			}
		}
	}
}

// BenchmarkReadAhead reads pages that are in memory, with their checksums.
func BenchmarkReadAhead(b *testing.B) {
	dir := b.TempDir()
	var content []byte
	for block := range uint32(8192) {
		content = append(content, page('a', block)...)
	}
	for i := range 2 {
		path := filepath.Join(dir, "base/5", fmt.Sprint(16400+i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			b.Fatal(err)
		}
	}
	for _, algorithm := range []manifest.Algorithm{manifest.NoChecksum, manifest.CRC32C, manifest.SHA256} {
		b.Run(algorithm.String(), func(b *testing.B) {
			b.SetBytes(2 * int64(len(content)))
			for b.Loop() {
				s := bareSource(b, Options{DataDir: dir, Algorithm: algorithm})
				var err error
				if s.book, err = newBook(dir, &s.cluster, WithManifest); err != nil {
					b.Fatal(err)
				}
				a := s.readAhead()
				for {
					_, r, err := a.next(b.Context(), s)
					if err == io.EOF {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
					if r != nil {
						if _, err := r.(io.WriterTo).WriteTo(io.Discard); err != nil {
							b.Fatal(err)
						}
					}
				}
				a.close()
				if err := s.book.Close(); err != nil || s.failures > 0 {
					b.Fatal(s.failures, err)
				}
			}
		})
	}
}
