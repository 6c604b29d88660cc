package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"

	"basin/internal/backup"
	"basin/internal/object"
)

// TestAnyPageIsOneRangeAway reads pages of a backup in any order: each is what it was, and costs one range of one
// pack once the index is known.
func TestAnyPageIsOneRangeAway(t *testing.T) {
	random := rng(7)
	c := newCluster(t, true)
	big := key{path: "base/1/1259"}
	now := make(tree)
	now.change(random)
	now[big] = make([]byte, 120*BlockSize+100)
	for i := range now[big] {
		now[big][i] = byte(random.IntN(256))
	}
	var parent *Commit
	for range 4 {
		parent = take(t, c, now, random, SinkOptions{Parent: parent})
		now = now.clone()
		now.change(random)
		now[big] = bytes.Clone(now[big])
		now[big][random.IntN(120*BlockSize)]++
	}
	last := take(t, c, now, random, SinkOptions{Parent: parent})

	store := &readStore{Store: memory(c)}
	files, err := reopen(t, c, store).Files(t.Context(), *last)
	if err != nil {
		t.Fatal(err)
	}
	file, err := files.Open(t.Context(), big.tablespace, big.path)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, BlockSize)
	read := func(block int64) (gets int, most int64) {
		t.Helper()
		store.reset()
		n, err := file.ReadAt(page, block*BlockSize)
		want := now[big][block*BlockSize:]
		if block < 120 && (err != nil || n != BlockSize) || block == 120 && (err != io.EOF || n != 100) || !bytes.Equal(page[:n], want[:n]) {
			t.Fatalf("block %d: %d bytes, error %v", block, n, err)
		}
		return store.gets, store.most
	}
	// The first page of all: a part of each level of the index at most, the head of the pack, its key, and the frame.
	if gets, _ := read(60); gets > len(last.Blocks)+3 {
		t.Errorf("the first page took %d reads, with %d levels of the index", gets, len(last.Blocks))
	}
	for block := range int64(121) { // now the heads of all packs are known
		read(block)
	}
	file.source.frames.kept, file.source.frames.order = make(map[frameKey]*openFrame), nil
	for range 100 {
		gets, most := read(random.Int64N(121))
		if gets > 1 || most > frameSize+1024 {
			t.Fatalf("a page took %d reads, of %d bytes at most", gets, most)
		}
	}
	if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, now[big]) {
		t.Errorf("the whole file: %d bytes, error %v", len(got), err)
	}
}

// readStore counts reads.
type readStore struct {
	object.Store

	mu   sync.Mutex
	gets int
	most int64 // bytes of one
}

func (s *readStore) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	data, err := s.Store.Get(ctx, name, off, n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gets++
	s.most = max(s.most, int64(len(data)))
	return data, err
}

func (s *readStore) reset() { s.gets, s.most = 0, 0 }

// TestPartsOfFiles reads any parts of files of chains of backups, and lists them.
func TestPartsOfFiles(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 2))
			c := newCluster(t, seed%2 == 0)
			now := make(tree)
			var parent *Commit
			for range 5 {
				now.change(random)
				parent = take(t, c, now.clone(), random, SinkOptions{Parent: parent})
			}
			files, err := c.Files(t.Context(), *parent)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, place := range []key{{path: "base/"}, {path: "backup_label"}, {path: "global/"}, {77, ""}} {
				for m, err := range files.Members(t.Context(), place.tablespace, place.path) {
					if err != nil {
						t.Fatal(err)
					}
					if m.Kind != backup.File {
						continue
					}
					k := key{m.Tablespace, m.Path}
					content, ok := now[k]
					if found++; !ok || m.Size != int64(len(content)) {
						t.Fatalf("file %v of %d bytes, want %d", k, m.Size, len(content))
					}
					readParts(t, files, k, content, random)
				}
			}
			if found != len(now) {
				t.Errorf("%d files, want %d", found, len(now))
			}
			if _, err := files.Open(t.Context(), 0, "base/none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a file that is not there: %v", err)
			}
			if _, err := files.Open(t.Context(), 0, "base"); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("a directory: %v", err)
			}
		})
	}
}

// readParts reads parts of a file.
func readParts(t *testing.T, files *Files, k key, content []byte, random *rand.Rand) {
	t.Helper()
	file, err := files.Open(t.Context(), k.tablespace, k.path)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		off := random.IntN(len(content) + 10)
		p := make([]byte, random.IntN(5*BlockSize))
		want := content[min(off, len(content)):min(off+len(p), len(content))]
		n, err := file.ReadAt(p, int64(off))
		if (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF || !bytes.Equal(p[:n], want) {
			t.Fatalf("file %v, %d bytes from %d of %d: %d, error %v", k, len(p), off, len(content), n, err)
		}
	}
	if _, err := file.ReadAt(make([]byte, 1), -1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an offset before the beginning: %v", err)
	}
}

// builtParts are parts in memory.
type builtParts map[ID]*part

func (b builtParts) part(_ context.Context, ref PartRef) (*part, error) { return b[ref.ID], nil }

// TestIndexOfALargeFileIsNotReadFromItsBeginning looks for blocks of a file that many parts tell of.
func TestIndexOfALargeFileIsNotReadFromItsBeginning(t *testing.T) {
	random := rng(3)
	for range 20 {
		parts := make(builtParts)
		k := key{path: "base/5/777"}
		build := func(isWhole bool) (l Level) {
			w := levelWriter{put: func(content []byte, first key) error {
				p, err := parsePart(content)
				id := NewID()
				parts[id] = p
				l = append(l, PartRef{ID: id, Path: []byte(first.path)})
				return err
			}}
			add := func(g group) {
				if err := w.add(g); err != nil {
					t.Fatal(err)
				}
				if random.IntN(3) == 0 {
					if err := w.finish(); err != nil {
						t.Fatal(err)
					}
				}
			}
			add(group{key: key{path: "base/5/776"}, extents: []extent{{blocks: make([]block, 1)}}})
			for at := int64(0); at < 300; {
				x := extent{first: at, at: location{pack: NewID(), frame: at, length: 1}, blocks: make([]block, 1+random.IntN(20))}
				x.blocks = x.blocks[:min(int64(len(x.blocks)), 300-at)]
				at = x.end()
				if isWhole || random.IntN(5) == 0 {
					add(group{key: k, extents: []extent{x}})
				}
			}
			add(group{key: key{path: "base/5/778"}, extents: []extent{{blocks: make([]block, 1)}}})
			if err := w.finish(); err != nil {
				t.Fatal(err)
			}
			return l
		}
		x := &index{parts: parts, blocks: []Level{build(false), build(false), build(true)}}
		whole, err := x.file(t.Context(), k, 300*BlockSize)
		if err != nil {
			t.Fatal(err)
		}
		packs := make([]location, 300)
		for {
			e, err := whole.next(t.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range e.blocks {
				packs[e.first+int64(i)] = e.cut(e.first+int64(i), e.end()).at
			}
		}
		for at := range int64(300) {
			f, err := x.fileAt(t.Context(), k, 300*BlockSize, at)
			if err != nil {
				t.Fatal(err)
			}
			if e, err := f.next(t.Context()); err != nil || e.first != at || e.at != packs[at] {
				t.Fatalf("block %d is in %+v, want %+v, error %v", at, e.at, packs[at], err)
			}
		}
	}
}
