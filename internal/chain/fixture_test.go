package chain_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/chain"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/plain"
	"basin/internal/wal"
)

// testBackup is a backup that is written to a directory. Its zero value is a full one of
// nothing.
type testBackup struct {
	start, previous wal.Position
	files           map[string][]byte // by the path that manifests have
	algorithm       manifest.Algorithm

	systemID   uint64 // zero is testSystem
	manifestID uint64 // the same in the manifest
	version    uint32 // of the control file; zero is that of 18
	pageSize   uint32 // zero is the usual
	checksums  bool   // of pages
}

const testSystem = 7561234567890123456

// The tablespaces of test backups: one elsewhere, and one inside the data directory.
const (
	spaceApart  = "pg_tblspc/16500"
	spaceInside = "pg_tblspc/16501"
)

// newTestBackup returns the n-th backup of a chain, counted from zero.
func newTestBackup(n int) *testBackup {
	b := &testBackup{start: testPosition(n), files: map[string][]byte{
		"PG_VERSION":                []byte("18\n"),
		"postgresql.auto.conf":      []byte("# nothing\n"),
		"pg_wal/00000001000000":     bytes.Repeat([]byte{byte(n)}, 9000),
		"INCREMENTAL.config":        []byte("a user's file, which is no relation"),
		spaceApart + "/PG_18/5/100": bytes.Repeat([]byte{byte(n)}, 8192),
		"base/5/PG_VERSION":         []byte("18\n"),
	}}
	if n > 0 {
		b.previous = testPosition(n - 1)
	}
	return b
}

func testPosition(n int) wal.Position {
	return wal.Position{Timeline: 1, LSN: wal.LSN(n+1) << 24}
}

// control returns the control file.
func (b *testBackup) control() []byte {
	number := func(given, usual uint64) uint64 {
		if given == 0 {
			return usual
		}
		return given
	}
	p := binary.LittleEndian.AppendUint64(nil, number(b.systemID, testSystem))
	p = binary.LittleEndian.AppendUint32(p, uint32(number(uint64(b.version), 1800)))
	p = append(p, make([]byte, 200-len(p))...)
	p = binary.LittleEndian.AppendUint64(p, math.Float64bits(1234567.0))
	p = binary.LittleEndian.AppendUint32(p, uint32(number(uint64(b.pageSize), pgdata.PageSize)))
	p = binary.LittleEndian.AppendUint32(p, pgdata.SegmentPages)
	p = append(p, make([]byte, 252-len(p))...)
	checksums := uint32(0)
	if b.checksums {
		checksums = 1
	}
	p = binary.LittleEndian.AppendUint32(p, checksums) // data_checksum_version
	p = append(p, 1, 0, 0, 0)                          // default_char_signedness
	p = append(p, bytes.Repeat([]byte("n"), 32)...)    // mock_authentication_nonce
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return append(p, make([]byte, pgdata.ControlSize-len(p))...)
}

// label returns the backup label.
func (b *testBackup) label() []byte {
	text := fmt.Sprintf("START WAL LOCATION: %v (file 000000010000000000000001)\nSTART TIMELINE: %d\n", b.start.LSN, b.start.Timeline)
	if b.previous.Timeline != 0 {
		text += fmt.Sprintf("INCREMENTAL FROM LSN: %v\nINCREMENTAL FROM TLI: %d\n", b.previous.LSN, b.previous.Timeline)
	}
	return []byte(text)
}

// all returns all files.
func (b *testBackup) all() map[string][]byte {
	all := maps.Clone(b.files)
	for path, content := range map[string][]byte{pgdata.ControlPath: b.control(), pgdata.LabelPath: b.label()} {
		if _, given := all[path]; !given {
			all[path] = content
		}
	}
	return all
}

// write writes the backup with its manifest to a directory, which is to be made, and its
// tablespace to another beside it.
func (b *testBackup) write(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir + "/pg_tblspc", dir + "/global", dir + "/pg_wal", dir + "/base/5", dir + "/" + spaceInside, dir + "-apart"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir+"-apart", dir+"/"+spaceApart); err != nil {
		t.Fatal(err)
	}
	var list bytes.Buffer
	id := b.manifestID
	if id == 0 {
		id = testSystem
	}
	w := manifest.NewWriter(&list, id)
	files := b.all()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		writeFile(t, filepath.Join(dir, path), files[path])
		if err := w.Add(listedFile(path, files[path], b.algorithm), time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish([]manifest.Range{b.needs()}); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, manifest.Name), list.Bytes())
}

// needs returns the range of log of the backup.
func (b *testBackup) needs() manifest.Range {
	return manifest.Range{Timeline: b.start.Timeline, Start: b.start.LSN, End: b.start.LSN + 1000}
}

func writeFile(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// listedFile returns what a manifest says of a file.
func listedFile(path string, content []byte, algorithm manifest.Algorithm) manifest.File {
	f := manifest.File{Path: path, Size: int64(len(content)), Algorithm: algorithm}
	if strings.HasPrefix(path, "pg_wal/") {
		f.Algorithm = manifest.NoChecksum
	}
	if sum := f.Algorithm.New(); sum != nil {
		sum.Write(content)
		f.Checksum = sum.Sum(nil)
	}
	return f
}

// incremental returns an incremental file. Its blocks are filled with what fill returns.
func incremental(truncation uint32, blocks []uint32, fill func(block uint32) []byte) []byte {
	p := binary.LittleEndian.AppendUint32(nil, 0xd3ae1f0d)
	p = binary.LittleEndian.AppendUint32(p, uint32(len(blocks)))
	p = binary.LittleEndian.AppendUint32(p, truncation)
	for _, b := range blocks {
		p = binary.LittleEndian.AppendUint32(p, b)
	}
	if over := len(p) % pgdata.PageSize; len(blocks) > 0 && over > 0 {
		p = append(p, make([]byte, pgdata.PageSize-over)...)
	}
	for _, b := range blocks {
		p = append(p, fill(b)...)
	}
	return p
}

// page returns a page that tells what it is by its bytes.
func page(b byte) []byte { return bytes.Repeat([]byte{b}, pgdata.PageSize) }

// combination is one run of an Overlay.
type combination struct {
	chain.Options
	method  plain.CopyMethod
	workers int
}

// combine combines the backups in directories into another, and returns what was warned of.
func (c combination) combine(ctx context.Context, dir string, inputs ...string) (warnings []string, err error) {
	c.Warn = func(err error) { warnings = append(warnings, err.Error()) }
	var all []chain.Input
	for _, input := range inputs {
		all = append(all, chain.Input{Name: input, Backup: plain.OpenStored(input, c.Warn)})
	}
	overlay, err := chain.New(context.Background(), all, c.Options)
	if err != nil {
		return warnings, err
	}
	defer overlay.Close()
	spaces, err := overlay.Tablespaces()
	if err != nil {
		return warnings, err
	}
	source := overlay.Source(chain.SourceOptions{DirMode: 0o700, FileMode: 0o600, Tablespaces: spaces})
	defer source.Close()
	claim, err := localfs.ClaimDir(dir, 0o700)
	if err != nil {
		return warnings, err
	}
	defer claim.Close()
	sink := plain.NewSink(plain.Options{
		Dir: claim, Method: c.method, Sync: localfs.Syncer{Off: true},
		TablespaceMap: map[string]string{inputs[len(inputs)-1] + "-apart": dir + "-apart"},
	})
	defer func() {
		_ = sink.Close()
		for _, claim := range sink.Claims() {
			_ = claim.Close()
		}
	}()
	return warnings, backup.Copy(ctx, sink, source, backup.Options{Workers: c.workers})
}

// readFiles returns all files in a directory and its tablespaces, by path.
func readFiles(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for prefix, top := range map[string]string{"": dir, spaceApart + "/": dir + "-apart"} {
		if err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			rel, _ := filepath.Rel(top, path)
			files[prefix+rel], err = os.ReadFile(path)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return files
}
