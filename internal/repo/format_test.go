package repo

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"basin/internal/object"
	"basin/internal/object/disk"
	"basin/internal/seal"
	"basin/internal/wal"
)

// formatDir has a repository of each kind that was made when its format was released, and is never made again: with
// BASIN_FORMAT=write in the environment, and the folder removed, the test makes them.
const formatDir = "testdata/format-1"

// formatLog is the number of the segment of the log that is in them.
const formatLog = 5

// formatTrees are what was backed up, one after the other.
func formatTrees() []tree {
	page := func(n byte) []byte {
		p := make([]byte, BlockSize)
		random := rng(uint64(n))
		for i := range p[:200] {
			p[i] = byte(random.IntN(256))
		}
		return p
	}
	first := tree{
		{path: "PG_VERSION"}: []byte("18\n"), {path: "empty"}: nil, {path: "backup_label"}: []byte("first"), {path: "global/pg_control"}: []byte("control 1"),
		{path: "base/1"}:                  bytes.Join([][]byte{page(1), page(2), make([]byte, 3*BlockSize), page(3), []byte("a rest")}, nil),
		{path: "base/2"}:                  bytes.Repeat(page(4), 40),
		{path: "base/\xff"}:               []byte("a name that is no text"),
		{tablespace: 77, path: "PG_18/1"}: page(5),
	}
	second := first.clone()
	second[key{path: "backup_label"}] = []byte("second")
	second[key{path: "global/pg_control"}] = []byte("control 2")
	second[key{path: "base/1"}] = bytes.Join([][]byte{page(1), page(6), page(7)}, nil)
	second[key{path: "base/3"}] = page(8)
	delete(second, key{path: "base/2"})
	third := second.clone()
	third[key{path: "backup_label"}] = []byte("third")
	third[key{path: "base/2"}] = bytes.Repeat(page(9), 3)
	return []tree{first, second, third}
}

// formatSegment returns the segment.
func formatSegment() (name string, content []byte) {
	return wal.Segment{Timeline: 1, Number: formatLog}.Name(4 << 20), forgedLog(formatLog, rand.New(always(1<<62-1)))
}

// always is a source of no chance.
type always uint64

// Uint64 returns the same number always.
func (n always) Uint64() uint64 { return uint64(n) }

const formatHistory = "1\t0/C00028\tno recovery target specified\n"

// TestFormat1 reads repositories of format 1: what is in them has to be readable for ever.
func TestFormat1(t *testing.T) {
	for _, kind := range []string{"plain", "encrypted", "writer"} { // encrypted by who has the private key, and by who has not
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(formatDir, kind)
			if os.Getenv("BASIN_FORMAT") == "write" {
				writeFormat(t, dir, kind)
			}
			store := new(object.Memory) // verify adds to it
			if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				name, err := filepath.Rel(dir, path)
				return errors.Join(err, store.Create(t.Context(), filepath.ToSlash(name), content))
			}); err != nil {
				t.Fatal(err)
			}
			checkFormat(t, store, dir)
		})
	}
}

// checkFormat reads all that is in a repository.
func checkFormat(t *testing.T, store object.Store, dir string) {
	t.Helper()
	var o Options
	if identity, err := os.ReadFile(dir + ".identity"); err == nil {
		sealed, err := Open(t.Context(), store, Options{})
		if err != nil {
			t.Fatal(err)
		}
		keys, err := sealed.Keys(t.Context())
		if err != nil || len(keys) != 1 {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		identities, err := seal.ParseIdentities(identity, nil)
		if err != nil {
			t.Fatal(err)
		}
		private, err := seal.Unwrap(keys[0].Content, identities...)
		if err != nil {
			t.Fatal(err)
		}
		o.PrivateKey = &private
	}
	r, err := Open(t.Context(), store, o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Cluster("main", 42)
	if err != nil {
		t.Fatal(err)
	}
	commits, err := c.Backups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	trees := formatTrees()
	if len(commits) != len(trees) {
		t.Fatalf("%d backups, want %d", len(commits), len(trees))
	}
	for i, commit := range commits {
		compare(t, c, commit.ID, trees[i])
		if commit.Label != fmt.Sprint("backup ", i) || commit.Format != 1 {
			t.Errorf("backup %+v", commit)
		}
	}
	if pins, err := c.Pins(t.Context()); err != nil || !pins[commits[0].ID].Holds(time.Now()) {
		t.Errorf("pins %v, %v", pins, err)
	}
	name, content := formatSegment()
	for name, want := range map[string][]byte{name: content, PartialName(name, 1<<20): content[:1<<20], "00000002.history": []byte(formatHistory)} {
		if got, err := c.Log(t.Context(), name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The newest of the three is one on which another relies that is made now.
	next := take(t, c, trees[0], rng(1), SinkOptions{Parent: &commits[2]})
	compare(t, c, next.ID, trees[0])
	damages, _ := verify(t, c, VerifyOptions{})
	for object := range damages {
		if !strings.Contains(object, "/wal/") { // of which there is less than the backups need
			t.Errorf("damage: %+v", damages[object])
		}
	}
}

// writeFormat makes a repository.
func writeFormat(t *testing.T, dir, kind string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	store, err := disk.Open(dir, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	init := InitOptions{Now: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}
	var o Options
	if kind != "plain" {
		private, err := seal.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		recipient, err := seal.ParseRecipient(identity.Recipient().String())
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := seal.Wrap(private, recipient)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+".identity", []byte(identity.String()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		public := private.Public()
		init.PublicKey, init.Keys, o.PrivateKey = &public, [][]byte{wrapped}, &private
	}
	if _, err := Init(t.Context(), store, init); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), store, o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Cluster("main", 42)
	if err != nil {
		t.Fatal(err)
	}
	kept := make(map[seal.KeyID]seal.Key)
	writer := func() *Cluster {
		if kind == "writer" {
			return asWriter(t, c, kept)
		}
		return c
	}
	var parent *Commit
	for i, tr := range formatTrees() {
		when := init.Now.Add(time.Duration(i+1) * time.Hour)
		parent = take(t, writer(), tr, rng(1), SinkOptions{Label: fmt.Sprint("backup ", i), Parent: parent, Now: func() time.Time { return when }})
		if i == 0 {
			if err := c.Pin(t.Context(), Pin{Backup: parent.ID, Note: "for ever", Made: when}); err != nil {
				t.Fatal(err)
			}
		}
	}
	name, content := formatSegment()
	for name, content := range map[string][]byte{name: content, PartialName(name, 1<<20): content[:1<<20], "00000002.history": []byte(formatHistory)} {
		if err := writer().PushLog(t.Context(), name, content, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.putFact(t.Context(), factThin, packsFact{Packs: []PackID{{1}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Verify(t.Context(), VerifyOptions{Now: init.Now.Add(10 * time.Hour)}, func(Damage) {}); err != nil {
		t.Fatal(err)
	}
}
