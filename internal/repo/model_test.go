package repo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

// tree is a data directory in memory: what is in files, by key. It yields itself as a backup.
type tree map[key][]byte

// clone returns a tree of its own.
func (t tree) clone() tree { return maps.Clone(t) }

// member returns a file of the tree as a member.
func (t tree) member(k key) backup.Member {
	return backup.Member{Tablespace: k.tablespace, Path: k.path, Kind: backup.File, Size: int64(len(t[k])), Mode: 0o600, ModTime: time.Unix(int64(len(t[k])), 0)}
}

// source yields a tree, in no order but that of tablespaces.
type treeSource struct {
	tree  tree
	start backup.Start
	keys  []key
	dirs  []key
	list  bool // with a manifest
	lie   bool // which says something else of a file
	// pieces says how large those are in which a file is read, in bytes.
	pieces func() int
}

func newTreeSource(t tree, random *rand.Rand) *treeSource {
	s := &treeSource{tree: t, list: true, pieces: func() int { return 1 + random.IntN(3*BlockSize) }, start: backup.Start{
		Position: wal.Position{LSN: 0x1000028, Timeline: 1}, ServerVersion: 180000, SegmentSize: wal.DefaultSegmentSize,
		Tablespaces: []backup.Tablespace{{OID: 77, Location: "/elsewhere"}},
	}}
	for k := range t {
		s.keys = append(s.keys, k)
		if dir, _, ok := strings.Cut(k.path, "/"); ok && !slices.Contains(s.dirs, key{k.tablespace, dir}) {
			s.dirs = append(s.dirs, key{k.tablespace, dir})
		}
	}
	slices.SortFunc(s.keys, key.compare)
	random.Shuffle(len(s.keys), func(i, j int) { s.keys[i], s.keys[j] = s.keys[j], s.keys[i] })
	slices.SortStableFunc(s.keys, func(a, b key) int { return int(b.tablespace) - int(a.tablespace) })
	return s
}

func (s *treeSource) Begin(context.Context) (backup.Start, error) { return s.start, nil }
func (s *treeSource) End(context.Context) (wal.Position, error) {
	return wal.Position{LSN: 0x2000000, Timeline: 1}, nil
}
func (s *treeSource) Close() error { return nil }

func (s *treeSource) Next(context.Context) (backup.Member, io.Reader, error) {
	if len(s.dirs) > 0 {
		k := s.dirs[0]
		s.dirs = s.dirs[1:]
		return backup.Member{Tablespace: k.tablespace, Path: k.path, Kind: backup.Dir, Mode: 0o700}, nil, nil
	}
	if len(s.keys) > 0 {
		k := s.keys[0]
		s.keys = s.keys[1:]
		return s.tree.member(k), &piecesReader{s.tree[k], s.pieces}, nil
	}
	if !s.list {
		return backup.Member{}, nil, io.EOF
	}
	s.list = false
	var text bytes.Buffer
	w := manifest.NewWriter(&text, 42)
	for k, content := range s.tree {
		sum := checksum(content)
		if s.lie {
			sum, s.lie = sum+1, false
		}
		f := manifest.File{Path: backup.ManifestPath(k.tablespace, k.path), Size: int64(len(content)), Algorithm: manifest.CRC32C, Checksum: crcBytes(sum)}
		if err := w.Add(f, time.Now()); err != nil {
			return backup.Member{}, nil, err
		}
	}
	if err := w.Finish([]manifest.Range{{Timeline: 1, Start: 0x1000028, End: 0x2000000}}); err != nil {
		return backup.Member{}, nil, err
	}
	return backup.Member{Path: manifest.Name, Kind: backup.Manifest, Size: -1}, &text, nil
}

// piecesReader reads a content in pieces.
type piecesReader struct {
	content []byte
	size    func() int
}

func (r *piecesReader) Read(p []byte) (int, error) {
	if len(r.content) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.size())], r.content)
	r.content = r.content[n:]
	return n, nil
}

// change makes a tree into one that a cluster could have next.
func (t tree) change(random *rand.Rand) {
	page := func() []byte {
		p := make([]byte, BlockSize)
		switch random.IntN(4) {
		case 0: // zeros
		case 1:
			copy(p, fmt.Sprint(random.IntN(10)))
		default:
			for i := range p {
				p[i] = byte(random.IntN(20))
			}
		}
		return p
	}
	for range 1 + random.IntN(8) {
		k := key{path: fmt.Sprintf("base/%d", random.IntN(12))}
		if random.IntN(4) == 0 {
			k = key{tablespace: 77, path: fmt.Sprintf("PG_18/%d", random.IntN(4))}
		}
		content := bytes.Clone(t[k])
		switch random.IntN(8) {
		case 0:
			delete(t, k)
			continue
		case 1:
			content = content[:random.IntN(len(content)+1)]
		case 2:
			content = content[:len(content)/BlockSize*BlockSize]
			for range random.IntN(60) {
				content = append(content, page()...)
			}
		case 3:
			content = append(content, []byte("not a whole page")[:random.IntN(16)]...)
		case 4:
			content = make([]byte, random.IntN(4)*BlockSize)
		default:
			for range 3 {
				if n := len(content) / BlockSize; n > 0 {
					copy(content[random.IntN(n)*BlockSize:], page())
				}
			}
		}
		t[k] = content
	}
	t[key{path: "backup_label"}] = fmt.Appendf(nil, "label %d", random.IntN(1000))
	t[key{path: "global/pg_control"}] = fmt.Appendf(nil, "control %d", random.IntN(1000))
}

// take puts a tree into a repository.
func take(t testing.TB, c *Cluster, tr tree, random *rand.Rand, o SinkOptions) *Commit {
	t.Helper()
	sink := c.NewSink(o)
	err := backup.Copy(t.Context(), sink, newTreeSource(tr, random), backup.Options{})
	if closed := sink.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatal(err)
	}
	return sink.Written()
}

// copyTree copies a tree into a sink.
func copyTree(ctx context.Context, sink *Sink, tr tree) error {
	return backup.Copy(ctx, sink, newTreeSource(tr, rng(1)), backup.Options{})
}

// compare reads a backup, and compares it with what it is to be.
func compare(t testing.TB, c *Cluster, id string, want tree) {
	t.Helper()
	commit, err := c.Backup(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	src := c.NewSource(commit, SourceOptions{})
	defer src.Close()
	if _, err := src.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make(tree)
	last := ""
	for {
		m, r, err := src.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == backup.Dir {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == backup.Manifest {
			files := make(map[string]bool)
			if _, err := manifest.Read(bytes.NewReader(content), func(f manifest.File) error {
				tablespace, path := backup.CutManifestPath(f.Path)
				files[f.Path] = true
				if sum := crcBytes(checksum(want[key{tablespace, path}])); !bytes.Equal(sum, f.Checksum) {
					t.Errorf("the manifest has %x for %s, want %x", f.Checksum, f.Path, sum)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			if len(files) != len(want) {
				t.Errorf("the manifest has %d files, want %d", len(files), len(want))
			}
			continue
		}
		last = m.Path
		got[key{m.Tablespace, m.Path}] = content
		if expected := want.member(key{m.Tablespace, m.Path}); !m.ModTime.Equal(expected.ModTime) || m.Mode != expected.Mode || m.Size != expected.Size {
			t.Errorf("member %+v, want %+v", m, expected)
		}
	}
	if last != "global/pg_control" {
		t.Errorf("the last file is %s", last)
	}
	for k := range want {
		if have, ok := got[k]; !ok {
			t.Errorf("file %v is missing", k)
		} else if !bytes.Equal(have, want[k]) {
			t.Errorf("file %v has other bytes", k)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("file %v is none of the backup's", k)
		}
	}
}

// newCluster makes a repository in memory.
func newCluster(t testing.TB, encrypted bool) *Cluster {
	t.Helper()
	store := new(object.Memory)
	var o InitOptions
	var open Options
	if encrypted {
		private, err := seal.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		public := private.Public()
		o.PublicKey, open.PrivateKey = &public, &private
	}
	if _, err := Init(t.Context(), store, o); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), store, open)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Cluster("main", 42)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestEveryBackupIsAFullOne makes chains of backups of what changes at random: each is read as
// what it was, whichever of the others are there.
func TestEveryBackupIsAFullOne(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			c := newCluster(t, seed%2 == 0)
			states := make(map[string]tree)
			var parent *Commit
			now := make(tree)
			for range 20 {
				now.change(random)
				o := SinkOptions{Parent: parent}
				if random.IntN(8) == 0 {
					o.Parent = nil
				}
				commit := take(t, c, now.clone(), random, o)
				states[commit.ID] = now.clone()
				if random.IntN(4) > 0 {
					parent = commit
				}
			}
			for id := range states { // a map's order is any
				if random.IntN(3) == 0 {
					if err := c.repo.store.Delete(t.Context(), c.commitName(id)); err != nil {
						t.Fatal(err)
					}
					delete(states, id)
				}
			}
			commits, err := c.Backups(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(commits) != len(states) {
				t.Errorf("%d backups, want %d", len(commits), len(states))
			}
			for id, want := range states {
				compare(t, c, id, want)
			}
		})
	}
}
