package repo

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"basin/internal/backup"
	"basin/internal/object"
)

// counting counts the bytes that are read of packs.
type counting struct {
	object.Store
	packs string
	read  int64
}

func (s *counting) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	data, err := s.Store.Get(ctx, name, off, n)
	if bytes.HasPrefix([]byte(name), []byte(s.packs)) {
		s.read += int64(len(data))
	}
	return data, err
}

// TestUpdateFetchesWhatDiffers makes files that are there what a backup has.
func TestUpdateFetchesWhatDiffers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	content := make([]byte, 3<<20+77) // several windows, and a block that is not whole
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	clear(content[5*BlockSize : 9*BlockSize])
	file := key{path: "base/1"}
	for _, encrypted := range []bool{false, true} {
		c := newCluster(t, encrypted)
		commit := take(t, c, tree{key{path: "global/pg_control"}: []byte("control"), file: content}, rng(1), SinkOptions{})
		for _, test := range []struct {
			reason  string
			change  func(b []byte) []byte
			written int64 // bytes
			frames  int   // of at most 16 blocks, that are to be read at most
		}{
			{"equal", func(b []byte) []byte { return b }, 0, 0},
			{"a block", func(b []byte) []byte { b[100*BlockSize+5]++; return b }, BlockSize, 1},
			{"the last block", func(b []byte) []byte { b[len(b)-1]++; return b }, 77, 1},
			{"blocks apart", func(b []byte) []byte { b[0]++; b[300*BlockSize]++; b[301*BlockSize]++; return b }, 3 * BlockSize, 3},
			{"zeros that are none", func(b []byte) []byte { b[6*BlockSize] = 1; return b }, BlockSize, 0},
			{"too short", func(b []byte) []byte { return b[:len(b)-BlockSize] }, BlockSize + 77, 2},
			{"empty", func([]byte) []byte { return nil }, int64(len(content)), 25},
			{"too long", func(b []byte) []byte { return append(b, make([]byte, 5*BlockSize)...) }, 0, 0},
			{"another file", func(b []byte) []byte { return bytes.Repeat([]byte{7}, len(b)) }, int64(len(content)), 25},
		} {
			t.Run(test.reason, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "file")
				if err := os.WriteFile(path, test.change(bytes.Clone(content)), 0o600); err != nil {
					t.Fatal(err)
				}
				store := &counting{Store: c.repo.store, packs: c.below("packs/")}
				written := update(t, reopen(t, c, store), *commit, file, path)
				got, err := os.ReadFile(path)
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("the file is not what the backup has: %d bytes, error %v", len(got), err)
				}
				if written != test.written {
					t.Errorf("%d bytes were written, want %d", written, test.written)
				}
				if most := int64(test.frames) * (17*BlockSize + readGap); store.read > most {
					t.Errorf("%d bytes of packs were read, want at most %d", store.read, most)
				}
			})
		}
	}
}

// update makes the file at path that of a backup, and returns how many bytes were written.
func update(t *testing.T, c *Cluster, commit Commit, k key, path string) int64 {
	t.Helper()
	s := c.NewSource(commit, SourceOptions{})
	defer s.Close()
	if _, err := s.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kind, ok, err := s.Lookup(t.Context(), k.tablespace, k.path); kind != backup.File || !ok || err != nil {
		t.Fatalf("kind %v, %t, %v", kind, ok, err)
	}
	if _, ok, err := s.Lookup(t.Context(), k.tablespace, k.path+"0"); ok || err != nil {
		t.Fatalf("what is not there: %t, %v", ok, err)
	}
	for {
		m, r, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Path != k.path {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		written, err := r.(backup.Updater).Update(f)
		if err != nil {
			t.Fatal(err)
		}
		return written
	}
}

// TestUpdateIsAsRead updates files of random backups with random others.
func TestUpdateIsAsRead(t *testing.T) {
	random := rng(9)
	c := newCluster(t, false)
	what := tree{key{path: "global/pg_control"}: []byte("control")}
	dir := t.TempDir()
	var parent *Commit
	for range 12 {
		what.change(random)
		parent = take(t, c, what, random, SinkOptions{Parent: parent})
		s := c.NewSource(*parent, SourceOptions{})
		if _, err := s.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		for {
			m, r, err := s.Next(t.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind != backup.File {
				continue
			}
			path := filepath.Join(dir, filepath.Base(m.Path)) // which is of the backup before, or of another tablespace
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.(backup.Updater).Update(f)
			if closed := f.Close(); err != nil || closed != nil {
				t.Fatal(err, closed)
			}
			got, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, what[key{m.Tablespace, m.Path}]) {
				t.Errorf("%s: not what the backup has, error %v", m.Path, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
