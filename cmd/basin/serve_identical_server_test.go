package main

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"basin/internal/pgdata"
	"basin/internal/pgtest"
	"basin/internal/wal"
)

// TestServeManyStandbys has ten standbys of one basin serve at once, one of which is served by
// another to a standby of its own, and compares them all with the primary to the byte.
func TestServeManyStandbys(t *testing.T) {
	t.Parallel()
	const standbys = 10
	basin := newProgram(t, "basin")
	small := map[string]string{"shared_buffers": "2MB", "max_connections": "20", "max_wal_senders": "20", "wal_keep_size": "256MB"}
	s := pgtest.Start(t, pgtest.Config{Checksums: true, Conf: small})
	pgtest.Fill(t, s, 1)
	pgtest.CheckIndexes(t, s) // which leaves amcheck behind, for the copies
	v := startServe(t, basin, s)
	load := pgtest.StartLoad(t.Context(), t, s, 2)
	var all []*follower
	for range standbys {
		all = append(all, startFollower(t, v, s))
	}
	beside := startServe(t, basin, all[0].Server)
	all = append(all, startFollower(t, beside, s))
	s.Exec(t, "CREATE TABLE afterwards AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g", "DELETE FROM afterwards WHERE g % 3 = 0", "VACUUM afterwards")
	s.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'follower'", "0") // of all, one stream
	load.Stop(t)
	if load.Committed() == 0 {
		t.Error("nothing was written meanwhile")
	}
	want := dump(t, s)
	for i, f := range all {
		s.WaitReplay(t, f.Server)
		if got := dump(t, f.Server); !bytes.Equal(want, got) {
			t.Errorf("standby %d: %d bytes of a dump differ from the primary's, from byte %d on", i, len(got), equalBytes(want, got))
		}
	}
	for _, f := range []*follower{all[0], all[standbys]} { // with the locks that a standby has
		tool(t, pgtest.Newest, "pg_amcheck", "--all", "--heapallindexed", "-h", f.SocketDir, "-p", strconv.Itoa(f.Port), "-U", "postgres")
	}
	s.Stop(t, pgtest.Fast) // and what it writes then comes too
	end := checkpointOf(t, s)
	for i, f := range all {
		f.WaitFor(t, "SELECT pg_last_wal_replay_lsn() > '"+end+"'", "t")
		f.Stop(t, pgtest.Fast)
		if n := samePages(t, s.DataDir, f.DataDir); n < 100 {
			t.Errorf("standby %d: %d files were compared", i, n)
		}
	}
	beside.ends(t)
	v.ends(t)
}

// dump returns what pg_dumpall makes of a cluster.
func dump(t *testing.T, s *pgtest.Server) []byte {
	t.Helper()
	out, err := pgtest.Command(t, pgtest.Newest, "pg_dumpall", "-h", s.SocketDir, "-p", strconv.Itoa(s.Port), "-U", "postgres", "--no-unlogged-table-data").Output()
	if err != nil {
		t.Fatal(err)
	}
	var kept []byte
	for line := range bytes.Lines(out) {
		// Those are random, and sequences are logged ahead of what they have given out.
		if !bytes.Contains(line, []byte(`restrict `)) && !bytes.HasPrefix(line, []byte("SELECT pg_catalog.setval(")) {
			kept = append(kept, line...)
		}
	}
	return kept
}

// checkpointOf returns where the last checkpoint of a server that is stopped is.
func checkpointOf(t *testing.T, s *pgtest.Server) string {
	t.Helper()
	control, err := os.ReadFile(filepath.Join(s.DataDir, filepath.FromSlash(pgdata.ControlPath)))
	if err != nil {
		t.Fatal(err)
	}
	return wal.LSN(binary.LittleEndian.Uint64(control[32:])).String() // checkPoint in ControlFileData
}

// samePages fails the test unless two data directories have the same relations, page for page
// but for what is not in the log. It returns how many files it has compared.
func samePages(t *testing.T, want, got string) (files int) {
	t.Helper()
	err := filepath.WalkDir(want, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, _ := filepath.Rel(want, path)
		segment, isRelation := pgdata.RelationSegment(filepath.ToSlash(name))
		base, _, _ := strings.Cut(name, "_")
		base, _, _ = strings.Cut(base, ".")
		_, unlogged := os.Stat(filepath.Join(want, base+"_init"))
		if !isRelation || strings.Contains(name, "_fsm") || unlogged == nil {
			return nil // free space is a guess, and unlogged tables are empty there
		}
		a, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(got, name))
		if strings.Contains(name, "_vm") { // a map without a bit in it is not in the log
			a, b = mapBits(a), mapBits(b)
		} else if err != nil {
			return err
		}
		files++
		if len(a) != len(b) {
			t.Errorf("%s: %d bytes, not %d", name, len(b), len(a))
			return nil
		}
		for at := 0; at+pgdata.PageSize <= len(a); at += pgdata.PageSize {
			p, q := a[at:at+pgdata.PageSize], b[at:at+pgdata.PageSize]
			maskPage(p)
			maskPage(q)
			if n := equalBytes(p, q); n < len(p) {
				t.Errorf("%s: block %d differs from byte %d on", name, int(segment)*pgdata.SegmentPages+at/pgdata.PageSize, n)
				return nil
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// mapBits returns what a visibility map says: its pages without their heads, up to the last bit.
func mapBits(content []byte) []byte {
	var bits []byte
	for at := 0; at+pgdata.PageSize <= len(content); at += pgdata.PageSize {
		bits = append(bits, make([]byte, 24)...) // SizeOfPageHeaderData
		bits = append(bits, content[at+24:at+pgdata.PageSize]...)
	}
	used := len(bytes.TrimRight(bits, "\x00"))
	return bits[:(used+pgdata.PageSize-1)/pgdata.PageSize*pgdata.PageSize]
}

// maskPage clears of a page what a primary has that its log has not: hints, and what is in
// between.
//
// Source: src/backend/access/common/bufmask.c, and heap_mask, btree_mask and seq_mask, PostgreSQL 18.
func maskPage(p []byte) {
	word := func(at int) int { return int(binary.LittleEndian.Uint16(p[at:])) }
	lower, upper, special := word(12), word(14), word(16)
	clear(p[0:12])  // pd_lsn, pd_checksum, pd_flags
	clear(p[20:24]) // pd_prune_xid
	if upper == 0 || lower < 24 || lower > upper || upper > special || special > len(p) {
		return // it is new, or of another kind
	}
	clear(p[lower:upper])
	isHeap := special == len(p)
	if len(p)-special == 8 && binary.LittleEndian.Uint32(p[special:]) == 0x1717 { // SEQ_MAGIC: numbers are logged ahead
		clear(p[24:special])
		return
	}
	if len(p)-special == 16 { // a B-tree's
		flags := binary.LittleEndian.Uint16(p[special+12:])
		binary.LittleEndian.PutUint16(p[special+12:], flags&^(1<<6)) // BTP_HAS_GARBAGE
		clear(p[special+14 : special+16])                            // btpo_cycleid
	}
	for at := 24; at < lower; at += 4 {
		item := binary.LittleEndian.Uint32(p[at:])
		offset, flags, length := int(item&0x7FFF), item>>15&3, int(item>>17)
		if !isHeap {
			binary.LittleEndian.PutUint32(p[at:], item&^(3<<15)) // LP_DEAD is a hint
			continue
		}
		if flags != 1 || length < 23 || offset+length > len(p) { // LP_NORMAL
			continue
		}
		tuple := p[offset : offset+length]
		infomask := binary.LittleEndian.Uint16(tuple[20:])
		binary.LittleEndian.PutUint16(tuple[20:], infomask&^0xFFF0) // HEAP_XACT_MASK
		clear(tuple[8:12])                                          // t_cid
		clear(p[offset+length : min((offset+length+7)&^7, len(p))]) // up to where the next is aligned
	}
}
