package main

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"basin/internal/inplace"
	"basin/internal/pgdata"
	"basin/internal/repo"
	"basin/internal/wal"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// forgedControl returns a control file of PostgreSQL 18 that tells a system identifier.
func forgedControl(systemID uint64) []byte {
	p := binary.LittleEndian.AppendUint64(nil, systemID)
	p = binary.LittleEndian.AppendUint32(p, 1800)
	p = append(p, make([]byte, 276)...)
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
	return append(p, make([]byte, pgdata.ControlSize-len(p))...)
}

// forgedSegment returns a segment of a cluster, on a timeline, with one record whose data is text.
func forgedSegment(systemID uint64, segment wal.Segment, text string) []byte {
	const size, page = wal.DefaultSegmentSize, 8192
	p := make([]byte, size)
	put := binary.LittleEndian
	for at := 0; at < size; at += page {
		put.PutUint16(p[at:], 0xD118)
		put.PutUint32(p[at+4:], uint32(segment.Timeline))
		put.PutUint64(p[at+8:], uint64(segment.Start(size))+uint64(at))
		if at == 0 {
			put.PutUint16(p[2:], 2) // XLP_LONG_HEADER
			put.PutUint64(p[24:], systemID)
			put.PutUint32(p[32:], size)
			put.PutUint32(p[36:], page)
		}
	}
	data := append([]byte{255, byte(len(text))}, text...) // XLR_BLOCK_ID_DATA_SHORT
	record := p[40:]
	put.PutUint32(record, uint32(24+len(data)))
	record[16] = 0x20 // XLOG_NOOP of RM_XLOG_ID
	copy(record[24:], data)
	put.PutUint32(record[20:], crc32.Update(crc32.Checksum(data, castagnoli), castagnoli, record[:20]))
	return p
}

// clusterOfShop opens a cluster of the name shop, and gives it the history of its timeline.
func clusterOfShop(t *testing.T, location string, systemID uint64) *repo.Cluster {
	t.Helper()
	_, c, err := openCluster(t.Context(), repositoryOptions{Location: location, SystemID: systemID})
	if err == nil {
		err = c.PushLog(t.Context(), wal.HistoryName(3), []byte("1\t0/1000000\tbefore\n"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPartsOfAnotherCluster has a server ask for a segment of which the repository has a part that is of another cluster of
// the same name, as after pg_upgrade: there is none for it.
func TestPartsOfAnotherCluster(t *testing.T) {
	location, _ := newRepository(t)
	segment := wal.Segment{Timeline: 3, Number: 5}
	name := segment.Name(wal.DefaultSegmentSize)
	push := func(systemID uint64, text string) {
		part := forgedSegment(systemID, segment, text)[:8192]
		if err := clusterOfShop(t, location, systemID).PushLog(t.Context(), repo.PartialName(name, 8192), part, wal.DefaultSegmentSize); err != nil {
			t.Fatal(err)
		}
	}
	data := t.TempDir()
	if err := os.MkdirAll(filepath.Join(data, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "global", "pg_control"), forgedControl(99), 0o600); err != nil {
		t.Fatal(err)
	}
	get := func() (string, error) {
		g := &logGetter{o: walOptions{repositoryOptions: repositoryOptions{Location: location, Cluster: "shop"}, DataDirectory: data}, report: newReport("basin", os.Stderr, func(string) (string, bool) { return "", false })}
		path := filepath.Join(t.TempDir(), name)
		if err := g.get(t.Context(), name, path); err != nil {
			return "", err
		}
		content, err := os.ReadFile(path)
		return string(content), err
	}
	push(7, "of the cluster with the newest backup") // which is the one that is meant where nobody says which
	if got, err := get(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %d bytes, error %v", len(got), err)
	}
	push(99, "of the server's own")
	if got, err := get(); err != nil || !strings.Contains(got[:8192], "of the server's own") || len(got) != wal.DefaultSegmentSize {
		t.Errorf("got %d bytes, error %v", len(got), err)
	}
}

// TestLogIsComparedByContent is of a data directory whose log has the names of some in the repository, and is kept only if it
// is that.
func TestLogIsComparedByContent(t *testing.T) {
	location, _ := newRepository(t)
	c := clusterOfShop(t, location, 7)
	data := t.TempDir()
	if err := os.MkdirAll(filepath.Join(data, "pg_wal", "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i, test := range []struct {
		here, there string
		isKept      bool
	}{{"the same", "the same", true}, {"one line", "and another", false}, {"nowhere else", "", false}} {
		segment := wal.Segment{Timeline: 3, Number: uint64(5 + i)}
		name := segment.Name(wal.DefaultSegmentSize)
		if test.there != "" {
			if err := c.PushLog(t.Context(), name, forgedSegment(7, segment, test.there), 0); err != nil {
				t.Fatal(err)
			}
		}
		for path, content := range map[string][]byte{name: forgedSegment(7, segment, test.here), "archive_status/" + name + ".done": nil} {
			if err := os.WriteFile(filepath.Join(data, "pg_wal", path), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if !test.isKept {
			want = append(want, name)
		}
	}
	run := &restoreRun{cluster: c, into: &inplace.Directory{Path: data, Exists: true, SystemID: 7}}
	if lost, err := run.unkept(t.Context()); err != nil || !slices.Equal(lost, want) {
		t.Errorf("lost would be %q, want %q, error %v", lost, want, err)
	}
}

// TestOlderBackupIsRestored has the log of the newest backup be missing: an older one is restored, and that is said with the
// reason.
func TestOlderBackupIsRestored(t *testing.T) {
	location, ids := newRepository(t)
	c := clusterOfShop(t, location, 7)
	restore := func() string {
		got, err := callBasin(t, "restore", "--repository="+location, "--system-id=7", "-D", filepath.Join(t.TempDir(), "data"), "--dry-run")
		if err != nil {
			t.Fatal(err, got)
		}
		return got
	}
	push := func(number uint64) {
		segment := wal.Segment{Timeline: 3, Number: number}
		if err := c.PushLog(t.Context(), segment.Name(wal.DefaultSegmentSize), forgedSegment(7, segment, "x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	const warning = "an older backup than the newest is restored: log that backup "
	push(2)
	if got := restore(); !strings.Contains(got, warning+ids[2]+" needs is missing") || !strings.Contains(got, "  backup    "+ids[1]) {
		t.Error(got)
	}
	push(3)
	if got := restore(); strings.Contains(got, warning) || !strings.Contains(got, "  backup    "+ids[2]) {
		t.Error(got)
	}
}
