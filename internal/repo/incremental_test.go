package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/pgdata"
)

// incrementalSource yields a tree as an incremental backup on top of another one.
type incrementalSource struct {
	*treeSource
	before  tree
	headers map[key]pgdata.Incremental // of the files that come as incremental ones
	raw     tree                       // what comes
	lie     bool                       // in the manifest, of an incremental file
}

// relationFiles are the files of relations of a tree.
func relationFiles(t tree) (keys []key) {
	for k := range t {
		if _, _, ok := pgdata.ParseRelationPath(backup.ManifestPath(k.tablespace, k.path)); ok {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, key.compare)
	return keys
}

// newIncrementalSource changes relations of a tree, and yields what changed. As a server does, it says nothing of
// where a relation was cut off, if cut is not nil; cut is told.
func newIncrementalSource(before, now tree, random *rand.Rand, cut *pgdata.BlockChanges) *incrementalSource {
	s := &incrementalSource{before: before, headers: make(map[key]pgdata.Incremental), raw: make(tree)}
	for _, k := range relationFiles(now) {
		old, had := before[k]
		if !had || len(old)%BlockSize != 0 || random.IntN(5) == 0 {
			continue
		}
		blocks := 1 + random.IntN(40)
		limit := blocks
		if random.IntN(2) == 0 {
			limit = 1 + random.IntN(blocks)
		}
		content := make([]byte, blocks*BlockSize)
		copy(content[:limit*BlockSize], old)
		h := pgdata.Incremental{Truncation: uint32(blocks)}
		fork, _, _ := pgdata.ParseRelationPath(backup.ManifestPath(k.tablespace, k.path))
		if cut != nil && limit < blocks {
			cut.SetLimit(fork, uint32(limit))
		}
		if cut == nil {
			h.Truncation = uint32(limit)
		}
		for b := range blocks {
			isBehind := b >= limit
			switch {
			case random.IntN(6) == 0 || b >= len(old)/BlockSize && random.IntN(2) == 0:
				copy(content[b*BlockSize:], page(byte(random.IntN(256))))
				if cut != nil && isBehind {
					cut.Mark(fork, uint32(b))
				}
			case !isBehind || cut != nil:
				continue // it is the parent's, or zeros
			}
			h.Blocks = append(h.Blocks, uint32(b))
		}
		now[k] = content[:int(h.Length())*BlockSize]
		s.headers[k] = h
	}
	now[key{path: pgdata.LabelPath}] = fmt.Appendf(nil, "LABEL: %d\n", random.IntN(1000))
	s.treeSource = newTreeSource(now, random)
	return s
}

// member returns what comes of a file.
func (s *incrementalSource) member(k key) (backup.Member, []byte) {
	m, content := s.tree.member(k), s.tree[k]
	if h, ok := s.headers[k]; ok {
		raw := h.AppendTo(nil)
		for _, b := range h.Blocks {
			raw = append(raw, content[int(b)*BlockSize:][:BlockSize]...)
		}
		content = raw
		path := pgdata.IncrementalPath(backup.ManifestPath(k.tablespace, k.path))
		_, m.Path = backup.CutManifestPath(path)
	}
	if isLabel(k) {
		content = append(bytes.Clone(content), "INCREMENTAL FROM LSN: 0/1\nINCREMENTAL FROM TLI: 1\n"...)
	}
	m.Size = int64(len(content))
	s.raw[key{m.Tablespace, m.Path}] = content
	return m, content
}

func (s *incrementalSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	if len(s.dirs) > 0 {
		return s.treeSource.Next(ctx)
	}
	if len(s.keys) > 0 {
		k := s.keys[0]
		s.keys = s.keys[1:]
		m, content := s.member(k)
		return m, bytes.NewReader(content), nil
	}
	if !s.list {
		return backup.Member{}, nil, io.EOF
	}
	s.list = false
	var text bytes.Buffer
	w := manifest.NewWriter(&text, 42)
	for k, content := range s.raw {
		sum := checksum(content)
		path := backup.ManifestPath(k.tablespace, k.path)
		if _, is := pgdata.CutIncremental(path); is && s.lie {
			sum++
		}
		f := manifest.File{Path: path, Size: int64(len(content)), Algorithm: manifest.CRC32C, Checksum: crcBytes(sum)}
		if err := w.Add(f, time.Now()); err != nil {
			return backup.Member{}, nil, err
		}
	}
	if err := w.Finish([]manifest.Range{{Timeline: 1, Start: 0x1000028, End: 0x2000000}}); err != nil {
		return backup.Member{}, nil, err
	}
	return backup.Member{Path: manifest.Name, Kind: backup.Manifest, Size: -1}, &text, nil
}

// relations returns a tree with relations.
func relations(random *rand.Rand) tree {
	t := tree{key{path: pgdata.ControlPath}: []byte("control"), key{path: pgdata.LabelPath}: []byte("LABEL: x\n")}
	for i := range 8 {
		k := key{path: fmt.Sprintf("base/5/%d", 16384+i)}
		if i%4 == 3 {
			k = key{tablespace: 77, path: fmt.Sprintf("PG_18_202506291/5/%d", 16384+i)}
		}
		for range random.IntN(30) {
			t[k] = append(t[k], page(byte(random.IntN(256)))...)
		}
	}
	return t
}

// TestIncrementalFiles makes chains of backups of which what did not change never comes: each is read as what it
// was.
func TestIncrementalFiles(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 2))
			c := newCluster(t, seed%2 == 0)
			now := relations(random)
			parent := take(t, c, now, random, SinkOptions{})
			for range 8 {
				next := maps.Clone(now)
				var cut *pgdata.BlockChanges
				if random.IntN(2) == 0 {
					cut = new(pgdata.BlockChanges)
				}
				source := newIncrementalSource(now, next, random, cut)
				avoided := make(map[PackID]bool)
				if random.IntN(3) == 0 {
					sizes, err := c.sizes(t.Context(), "packs/")
					if err != nil {
						t.Fatal(err)
					}
					for id := range sizes {
						avoided[id] = random.IntN(2) == 0
					}
					maps.DeleteFunc(avoided, func(_ PackID, is bool) bool { return !is })
					if err := c.putPacks(t.Context(), factThin, avoided); err != nil {
						t.Fatal(err)
					}
				}
				sink := c.NewSink(SinkOptions{Parent: parent, Since: func() *Since { return &Since{Cut: cut} }})
				err := backup.Copy(t.Context(), sink, source, backup.Options{})
				if closed := sink.Close(); err != nil || closed != nil {
					t.Fatal(err, closed)
				}
				commit := sink.Written()
				if !commit.FullScan.Equal(parent.FullScan) {
					t.Errorf("all was read at %v, and before at %v", commit.FullScan, parent.FullScan)
				}
				compare(t, c, commit.ID, next)
				if err := c.eachExtent(t.Context(), commit, func(k key, x extent) error {
					if avoided[x.at.pack] {
						t.Errorf("file %v has blocks in pack %v", k, x.at.pack)
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				now, parent = next, commit
			}
		})
	}
}

// TestIncrementalFilesThatAreRefused is about incremental backups that lack something.
func TestIncrementalFilesThatAreRefused(t *testing.T) {
	k := key{path: "base/5/16384"}
	fork, _, _ := pgdata.ParseRelationPath(k.path)
	for _, c := range []struct {
		reason string
		change func(s *incrementalSource, cut *pgdata.BlockChanges)
		want   error // nil for any
		ok     bool
	}{
		{"nothing is wrong", func(*incrementalSource, *pgdata.BlockChanges) {}, nil, true},
		{"a block behind where it was cut off was written to", func(_ *incrementalSource, cut *pgdata.BlockChanges) {
			cut.SetLimit(fork, 1)
			cut.Mark(fork, 2)
		}, errForgotten, false},
		{"the manifest has another checksum", func(s *incrementalSource, _ *pgdata.BlockChanges) { s.lie = true }, errUnproved, false},
		{"the parent has no such file", func(s *incrementalSource, _ *pgdata.BlockChanges) {
			other := key{path: "base/5/99999"}
			s.headers[other], s.tree[other] = pgdata.Incremental{Truncation: 3}, s.tree[k]
			s.keys = append(s.keys, other)
		}, nil, false},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t, false)
			before := tree{key{path: pgdata.ControlPath}: []byte("control"), k: slices.Concat(page(1), page(2), page(3))}
			parent := take(t, cluster, before, rng(1), SinkOptions{})
			cut := new(pgdata.BlockChanges)
			s := &incrementalSource{before: before, headers: map[key]pgdata.Incremental{k: {Truncation: 3}}, raw: make(tree), treeSource: newTreeSource(before.clone(), rng(1))}
			c.change(s, cut)
			sink := cluster.NewSink(SinkOptions{Parent: parent, Since: func() *Since { return &Since{Cut: cut} }})
			defer sink.Close()
			err := backup.Copy(t.Context(), sink, s, backup.Options{})
			if (err == nil) != c.ok || c.want != nil && !errors.Is(err, c.want) {
				t.Error(err)
			}
			if (sink.Written() != nil) != c.ok {
				t.Error("there is a backup, or there is none")
			}
		})
	}
}
