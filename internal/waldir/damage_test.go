package waldir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// The log of the tests of damage, of which other clusters and mistakes are made.
type damageLogs struct {
	l       *log
	clone   *log // the same up to 100,000 bytes into the third segment
	foreign *log
}

func newDamageLogs() damageLogs {
	l := newLog(1, 5, 4)
	l.noise = 2 // so that there is much to damage
	l.fill(4*segmentSize, 20_000)
	foreign := newLog(1, 5, 5)
	foreign.system = 42
	clone := l.fork(l.recordAt(l.start+2*segmentSize+100_000), 1, 6)
	clone.fill(2*segmentSize, 20_000)
	return damageLogs{l, clone, foreign.fill(4*segmentSize, 20_000)}
}

// patched returns a copy with other bytes at an offset.
func patched(data []byte, offset int, with ...byte) []byte {
	data = slices.Clone(data)
	copy(data[offset:], with)
	return data
}

// TestDamage has files in a directory, and says what comes of them: what Warn is told
// and where the stream goes on, or the error; and the same of the segments that are
// then received. In the texts DIR is the directory.
func TestDamage(t *testing.T) {
	logs := newDamageLogs()
	l := logs.l
	one, two, three, four := l.nth(0), l.nth(1), l.nth(2), l.nth(3)
	part := func(from *log, n, bytes int) []byte { return from.until(from.start + wal.LSN(bytes)).segment(n) }
	third := func(from *log, bytes int) []byte { // of what is in it, a number of bytes
		return slices.Concat(from.bytes[from.dataAt(three):][:bytes], make([]byte, segmentSize-bytes))
	}
	garbage := bytes.Repeat([]byte("garbage "), segmentSize/8)
	const anotherCluster = "the directory is one of another cluster, or the file was renamed: choose another directory, or move the file away"
	for _, c := range []struct {
		reason string
		files  map[string][]byte
		extra  func(t *testing.T, dir string) // makes what is no file

		start int // the segment to go on with, counted from the log's first
		warns []string
		fails string // the error of Open or Start, and its hint after a line's end

		receiveWarns []string // while the log is received from there to its end
		receiveFails string
	}{
		{reason: "intact", start: 2, files: map[string][]byte{
			one: l.segment(0), two: l.segment(1), three + ".partial": third(l, 90_000)}},
		{reason: "intact, of all methods", start: 3, files: map[string][]byte{
			one + ".gz": packed(t, l.segment(0), seal.Gzip), two + ".lz4": packed(t, l.segment(1), seal.LZ4),
			three + ".zst": packed(t, l.segment(2), seal.Zstd)}},
		{reason: "other files", start: 1, files: map[string][]byte{
			one: l.segment(0), "README": []byte("hello"), two + ".bz2": []byte("x"), two[1:]: []byte("x"), two[:22] + "ab": []byte("x"),
			two + ".partial.gz": []byte("x"), "00000000" + two[8:]: []byte("x"), "lost+found": nil}},
		{reason: "left behind while a segment was compressed", start: 2, files: map[string][]byte{
			one: l.segment(0), one + ".gz.tmp": []byte("x"), two: l.segment(1), three + ".partial.tmp": []byte("x"),
			"00000002.history.tmp": nil, three + ".lz4.partial.tmp": nil}},

		{reason: "too short", start: 1, files: map[string][]byte{one: l.segment(0), two: l.segment(1)[:segmentSize-1]},
			warns:        []string{`segment file "` + two + `" has incorrect size 1048575, skipping`},
			receiveWarns: []string{`segment file "` + two + `" has incorrect size 1048575; it is set aside as "DIR/` + two + `.damaged"`}},
		{reason: "too long", start: 1, files: map[string][]byte{one: l.segment(0), two: l.bytes[segmentSize : 2*segmentSize+1]},
			warns:        []string{`segment file "` + two + `" has incorrect size 1048577, skipping`},
			receiveWarns: []string{`segment file "` + two + `" has incorrect size 1048577; it is set aside as "DIR/` + two + `.damaged"`}},
		{reason: "empty", start: 1, files: map[string][]byte{one: l.segment(0), two: {}},
			warns:        []string{`segment file "` + two + `" has incorrect size 0, skipping`},
			receiveWarns: []string{`segment file "` + two + `" has incorrect size 0; it is set aside as "DIR/` + two + `.damaged"`}},
		{reason: "zeros", start: 1, files: map[string][]byte{one: l.segment(0), two: make([]byte, segmentSize)},
			warns:        []string{`segment file "` + two + `" begins with zeros, skipping`},
			receiveWarns: []string{`segment file "` + two + `" begins with zeros; it is set aside as "DIR/` + two + `.damaged"`}},
		{reason: "garbage", start: 1, files: map[string][]byte{one: l.segment(0), two: garbage},
			warns: []string{`segment file "` + two + `" holds no write-ahead log: invalid write-ahead log page at 0/600000: its magic number 6167 is of no known version of PostgreSQL, skipping`},
			receiveWarns: []string{`segment file "` + two + `" holds no write-ahead log: invalid write-ahead log page at 0/600000: its magic number 6167 is of no known version of PostgreSQL` +
				`; it is set aside as "DIR/` + two + `.damaged"`}},
		{reason: "damaged, and some were before", start: 1, files: map[string][]byte{
			one: l.segment(0), two: {}, two + ".damaged": {}, two + ".damaged.2": []byte("x")},
			warns:        []string{`segment file "` + two + `" has incorrect size 0, skipping`},
			receiveWarns: []string{`segment file "` + two + `" has incorrect size 0; it is set aside as "DIR/` + two + `.damaged.3"`}},
		{reason: "the damaged one is not the newest", start: 3, files: map[string][]byte{
			one: l.segment(0), two: {}, three: l.segment(2)},
			warns: []string{`segment file "` + two + `" has incorrect size 0, skipping`, `write-ahead log is missing in "DIR": segment ` + two}},
		{reason: "segments are missing", start: 3, files: map[string][]byte{one: l.segment(0), four + ".partial": part(l, 3, 4*segmentSize-5000)},
			warns: []string{`write-ahead log is missing in "DIR": segments ` + two + " to " + three}},
		{reason: "the partial one comes after a damaged one", start: 1, files: map[string][]byte{
			one: l.segment(0), two: {}, three + ".partial": third(l, 5000)},
			warns:        []string{`segment file "` + two + `" has incorrect size 0, skipping`},
			receiveWarns: []string{`segment file "` + two + `" has incorrect size 0; it is set aside as "DIR/` + two + `.damaged"`}},
		{reason: "gzip with a large size", start: 1, files: map[string][]byte{one: l.segment(0), two + ".gz": bytes.Repeat([]byte{0xff}, 1000)},
			warns:        []string{`compressed segment file "` + two + `.gz" has incorrect uncompressed size 4294967295, skipping`},
			receiveWarns: []string{`compressed segment file "` + two + `.gz" has incorrect uncompressed size 4294967295; it is set aside as "DIR/` + two + `.gz.damaged"`}},

		{reason: "gzip of a part", start: 1, files: map[string][]byte{one: l.segment(0), two + ".gz": packed(t, l.segment(1)[:1000], seal.Gzip)},
			warns:        []string{`compressed segment file "` + two + `.gz" has incorrect uncompressed size 1000, skipping`},
			receiveWarns: []string{`compressed segment file "` + two + `.gz" has incorrect uncompressed size 1000; it is set aside as "DIR/` + two + `.gz.damaged"`}},
		{reason: "gzip, cut short", start: 1, files: map[string][]byte{
			one: l.segment(0), two + ".gz": append(packed(t, l.segment(1), seal.Gzip)[:300_000], 0, 0, 0x10, 0)},
			warns: []string{`compressed segment file "` + two + `.gz" is damaged: decompress gzip data: unexpected EOF, skipping`},
			receiveWarns: []string{`compressed segment file "` + two + `.gz" is damaged: decompress gzip data: unexpected EOF` +
				`; it is set aside as "DIR/` + two + `.gz.damaged"`}},
		{reason: "gzip that is garbage", start: 1, files: map[string][]byte{one: l.segment(0), two + ".gz": garbage[:1000]},
			warns:        []string{`compressed segment file "` + two + `.gz" has incorrect uncompressed size 543516513, skipping`},
			receiveWarns: []string{`compressed segment file "` + two + `.gz" has incorrect uncompressed size 543516513; it is set aside as "DIR/` + two + `.gz.damaged"`}},
		{reason: "empty gzip", start: 1, files: map[string][]byte{one: l.segment(0), two + ".gz": {}},
			warns:        []string{`compressed segment file "` + two + `.gz" has incorrect uncompressed size 0, skipping`},
			receiveWarns: []string{`compressed segment file "` + two + `.gz" has incorrect uncompressed size 0; it is set aside as "DIR/` + two + `.gz.damaged"`}},
		{reason: "lz4 of too much", start: 1, files: map[string][]byte{one: l.segment(0), two + ".lz4": packed(t, l.bytes[segmentSize:3*segmentSize], seal.LZ4)},
			warns:        []string{`compressed segment file "` + two + `.lz4" has incorrect uncompressed size 1048577, skipping`},
			receiveWarns: []string{`compressed segment file "` + two + `.lz4" has incorrect uncompressed size 1048577; it is set aside as "DIR/` + two + `.lz4.damaged"`}},
		{reason: "lz4, cut short", start: 1, files: map[string][]byte{one: l.segment(0), two + ".lz4": packed(t, l.segment(1), seal.LZ4)[:500_000]},
			warns:        []string{`compressed segment file "` + two + `.lz4" is damaged: decompress lz4 data: unexpected EOF, skipping`},
			receiveWarns: []string{`compressed segment file "` + two + `.lz4" is damaged: decompress lz4 data: unexpected EOF; it is set aside as "DIR/` + two + `.lz4.damaged"`}},
		{reason: "zstd, cut short", start: 1, files: map[string][]byte{one: l.segment(0), two + ".zst": packed(t, l.segment(1), seal.Zstd)[:100]},
			warns:        []string{`compressed segment file "` + two + `.zst" is damaged: decompress zstd data: unexpected EOF, skipping`},
			receiveWarns: []string{`compressed segment file "` + two + `.zst" is damaged: decompress zstd data: unexpected EOF; it is set aside as "DIR/` + two + `.zst.damaged"`}},
		{reason: "compressed zeros", start: 1, files: map[string][]byte{one: l.segment(0), two + ".zst": packed(t, make([]byte, segmentSize), seal.Zstd)},
			warns:        []string{`segment file "` + two + `.zst" begins with zeros, skipping`},
			receiveWarns: []string{`segment file "` + two + `.zst" begins with zeros; it is set aside as "DIR/` + two + `.zst.damaged"`}},

		{reason: "of another cluster", files: map[string][]byte{one: logs.foreign.segment(0)},
			fails: `segment file "DIR/` + one + `" does not belong here: invalid write-ahead log page at 0/500000: it is of another cluster: its system identifier is 42, not 7300000000000000001` + "\n" + anotherCluster},
		{reason: "of another cluster, compressed", files: map[string][]byte{one + ".gz": packed(t, logs.foreign.segment(0), seal.Gzip)},
			fails: `segment file "DIR/` + one + `.gz" does not belong here: invalid write-ahead log page at 0/500000: it is of another cluster: its system identifier is 42, not 7300000000000000001` + "\n" + anotherCluster},
		{reason: "of another place", files: map[string][]byte{one: l.segment(1)},
			fails: `segment file "DIR/` + one + `" does not belong here: invalid write-ahead log page at 0/500000: its header says 0/600000` + "\n" + anotherCluster},
		{reason: "of another timeline", files: map[string][]byte{one: patched(l.segment(0), 4, 2)},
			fails: `segment file "DIR/` + one + `" does not belong here: invalid write-ahead log page at 0/500000: it is of timeline 2, not 1` + "\n" + anotherCluster},
		{reason: "of another size of segments", files: map[string][]byte{one: patched(l.segment(0), 34, 0x00, 0x01)},
			fails: `segment file "DIR/` + one + `" does not belong here: invalid write-ahead log page at 0/500000: it is of another cluster: its segments have 16777216 bytes, not 1048576` + "\n" + anotherCluster},
		{reason: "partial, of another cluster", start: 1, files: map[string][]byte{one: l.segment(0), two + ".partial": logs.foreign.segment(1)},
			receiveFails: `segment file "DIR/` + two + `.partial" does not belong here: invalid write-ahead log page at 0/600000: it is of another cluster: its system identifier is 42, not 7300000000000000001` + "\n" + anotherCluster},

		{reason: "partial, empty", start: 1, files: map[string][]byte{one: l.segment(0), two + ".partial": {}}},
		{reason: "partial, zeros", start: 1, files: map[string][]byte{one: l.segment(0), two + ".partial": make([]byte, segmentSize)}},
		{reason: "partial, too short", start: 1, files: map[string][]byte{one: l.segment(0), two + ".partial": l.segment(1)[:200_000]}},
		{reason: "partial, a few bytes", start: 1, files: map[string][]byte{one: l.segment(0), two + ".partial": l.segment(1)[:11]}},
		{reason: "partial, too long", start: 1, files: map[string][]byte{one: l.segment(0), two + ".partial": l.bytes[segmentSize : 2*segmentSize+1]},
			receiveFails: `write-ahead log file "DIR/` + two + `.partial" has 1048577 bytes, should be at most 1048576` + "\nit is of another cluster, or damaged: move it away"},
		{reason: "partial, compressed, too long", start: 1, files: map[string][]byte{one: l.segment(0), two + ".lz4.partial": packed(t, l.bytes[segmentSize:2*segmentSize+1], seal.LZ4)},
			receiveFails: `write-ahead log file "DIR/` + two + `.lz4.partial" holds more than the 1048576 bytes of a segment` + "\nit is of another cluster, or damaged: move it away"},
		{reason: "partial, garbage", start: 1, files: map[string][]byte{one: l.segment(0), two + ".partial": garbage},
			receiveWarns: []string{`segment file "` + two + `.partial" holds no write-ahead log: invalid write-ahead log page at 0/600000: its magic number 6167 is of no known version of PostgreSQL` +
				`; it is set aside as "DIR/` + two + `.partial.damaged"`}},
		{reason: "partial, gzip that is garbage", start: 1, files: map[string][]byte{one: l.segment(0), two + ".gz.partial": garbage},
			receiveWarns: []string{`segment file "` + two + `.gz.partial" is damaged: decompress gzip data: gzip: invalid header; it is set aside as "DIR/` + two + `.gz.partial.damaged"`}},
		{reason: "partial, lz4 that is damaged in its midst", start: 1, files: map[string][]byte{
			one: l.segment(0), two + ".lz4.partial": patched(packed(t, l.segment(1), seal.LZ4), 300_000, bytes.Repeat([]byte{255}, 100_000)...)},
			receiveWarns: []string{`write-ahead log file "DIR/` + two + `.lz4.partial" is damaged: decompress lz4 data: lz4: invalid source or destination buffer too short` +
				`; it is set aside as "DIR/` + two + `.lz4.partial.damaged"`}},
		{reason: "partial, gzip of nothing", start: 1, files: map[string][]byte{one: l.segment(0), two + ".gz.partial": {}}},
		{reason: "a damaged one holds more than the partial one", start: 1, files: map[string][]byte{
			one: l.segment(0), two: l.segment(1)[:900_000], two + ".partial": part(l, 1, segmentSize+100_000)},
			warns:        []string{`segment file "` + two + `" has incorrect size 900000, skipping`},
			receiveWarns: []string{`segment file "` + two + `" has incorrect size 900000; it is set aside as "DIR/` + two + `.damaged"`}},
		{reason: "several partial ones that agree", start: 2, files: map[string][]byte{
			one: l.segment(0), two: l.segment(1),
			three + ".partial": third(l, 50_000), three + ".gz.partial": packed(t, third(l, 250_000), seal.Gzip),
			three + ".lz4.partial": packed(t, third(l, 150_000), seal.LZ4)[:40_000], three + ".zst.partial": packed(t, third(l, 10), seal.Zstd)}},
		{reason: "two partial ones that differ", start: 2, files: map[string][]byte{
			one: l.segment(0), two: l.segment(1), three + ".partial": third(l, 300_000), three + ".gz.partial": packed(t, third(logs.clone, 250_000), seal.Gzip)},
			receiveFails: fmt.Sprintf(`"DIR/%s.partial" and "DIR/%s.gz.partial" differ at %v, though they hold valid log up to %v and %v`,
				three, three, firstOther(l, logs.clone), lastEnd(l, l.start+2*segmentSize+300_000), lastEnd(logs.clone, logs.clone.start+250_000)) +
				"\nthey are of two servers: keep the one that is of this server, and move the other away"},
		{reason: "the server sends something else", start: 2, files: map[string][]byte{
			one: l.segment(0), two: l.segment(1), three + ".partial": third(logs.clone, 250_000)},
			receiveFails: fmt.Sprintf(`segment %s of the server differs at %v from what is in "DIR/%s.partial", which holds valid log up to %v`,
				three, firstOther(l, logs.clone), three, lastEnd(logs.clone, logs.clone.start+250_000)) +
				"\nThe server was restored to an earlier state, or is a copy of the one that the log here is of. Nothing was overwritten; to go on with this server, move the file away."},

		{reason: "compressed and not", start: 1, files: map[string][]byte{one: l.segment(0), one + ".gz": packed(t, l.segment(0), seal.Gzip)}},
		{reason: "compressed and not, which differ", start: 1, files: map[string][]byte{one: l.segment(0), one + ".gz": packed(t, logs.foreign.segment(0), seal.Gzip)},
			fails: `segment file "DIR/` + one + `.gz" does not belong here: invalid write-ahead log page at 0/500000: it is of another cluster: its system identifier is 42, not 7300000000000000001` + "\n" + anotherCluster,
			warns: []string{`"DIR/` + one + `.gz" is not what is in "DIR/` + one + `"; both are kept`}},
		{reason: "compressed, which is damaged, and not", start: 1, files: map[string][]byte{one: l.segment(0), one + ".lz4": packed(t, l.segment(0), seal.LZ4)[:1000]},
			warns: []string{`"DIR/` + one + `.lz4" is not what is in "DIR/` + one + `", which is kept: decompress lz4 data: unexpected EOF`,
				`compressed segment file "` + one + `.lz4" is damaged: decompress lz4 data: unexpected EOF, skipping`}},
		{reason: "complete, and partial as it was linked", start: 1, files: map[string][]byte{one: l.segment(0), one + ".partial": l.segment(0)}},
		{reason: "complete, and a partial one that pg_receivewal left", start: 1, files: map[string][]byte{
			one + ".gz": packed(t, l.segment(0), seal.Gzip), one + ".partial": part(l, 0, 5000)}},

		{reason: "a directory", start: 1, files: map[string][]byte{one: l.segment(0)},
			extra:        func(t *testing.T, dir string) { must(t, os.Mkdir(filepath.Join(dir, two), 0o700)) },
			warns:        []string{`"DIR/` + two + `" is not a regular file, skipping`},
			receiveFails: `"DIR/` + two + `" is not a regular file` + "\nmove it away: a file of write-ahead log belongs here"},
		{reason: "a link", start: 1, files: map[string][]byte{one: l.segment(0), "elsewhere": l.segment(1)},
			extra:        func(t *testing.T, dir string) { must(t, os.Symlink("elsewhere", filepath.Join(dir, two+".partial"))) },
			warns:        []string{`"DIR/` + two + `.partial" is not a regular file, skipping`},
			receiveFails: `"DIR/` + two + `.partial" is not a regular file` + "\nmove it away: a file of write-ahead log belongs here"},
		{reason: "a pipe", start: 1, files: map[string][]byte{one: l.segment(0)},
			extra:        func(t *testing.T, dir string) { must(t, syscall.Mkfifo(filepath.Join(dir, two+".gz"), 0o600)) },
			warns:        []string{`"DIR/` + two + `.gz" is not a regular file, skipping`},
			receiveFails: `"DIR/` + two + `.gz" is not a regular file` + "\nmove it away: a file of write-ahead log belongs here"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, content := range c.files {
				must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
			}
			if c.extra != nil {
				c.extra(t, dir)
			}
			var warned []string
			words := func(text string) string { return strings.ReplaceAll(text, dir, "DIR") }
			o := Options{Path: dir, SegmentSize: segmentSize, SystemID: cluster}
			o.Warn = func(err error) { warned = append(warned, words(err.Error())) }
			check := func(what string, err error, fails string, warns []string) {
				t.Helper()
				text := ""
				if err != nil {
					text = words(err.Error() + "\n" + usererr.Hint(err))
					if conflict := (*ConflictError)(nil); !errors.Is(err, fs.ErrExist) && !errors.As(err, &conflict) {
						t.Errorf("%s: to try again is of no use after %v", what, err)
					}
				}
				if diff := cmp.Diff(fails, text); diff != "" {
					t.Errorf("%s: error (-want +got):\n%s", what, diff)
				}
				if diff := cmp.Diff(warns, warned); diff != "" {
					t.Errorf("%s: warnings (-want +got):\n%s", what, diff)
				}
				warned = nil
				checkNothingLost(t, dir, c.files)
			}
			d, err := Open(o)
			must(t, err)
			defer d.Close()
			start, ok, err := d.Start()
			check("start", err, c.fails, c.warns)
			if want := l.start + wal.LSN(c.start*segmentSize); c.fails == "" && (!ok || start.LSN != want) {
				t.Fatalf("starts at %v, %t; want %v", start, ok, want)
			}
			if c.fails != "" {
				return
			}
			end := start.LSN + segmentSize
			err = receiver{d: d, log: l, piece: 130_000}.receive(start.LSN, end)
			check("receive", err, c.receiveFails, c.receiveWarns)
			if c.receiveFails == "" {
				got, err := os.ReadFile(filepath.Join(dir, l.name(start.LSN)))
				if err != nil || !bytes.Equal(got, l.segment(c.start)) {
					t.Errorf("the segment is wrong; %v", err)
				}
			}
		})
	}
}

// dataAt returns where a segment begins in the bytes of the log.
func (l *log) dataAt(name string) int {
	seg, err := wal.ParseSegment(name, segmentSize)
	if err != nil {
		panic(err)
	}
	return int(seg.Start(segmentSize) - l.start)
}

// firstOther returns where two logs begin to differ.
func firstOther(a, b *log) wal.LSN {
	start := max(a.start, b.start)
	return start + wal.LSN(firstDifference(a.bytes[start-a.start:], b.bytes[start-b.start:]))
}

// checkNothingLost compares a directory with the files that were put into it. Each has
// to be there as it was, under its name or with another. But files with .tmp are of no
// use; one segment may be there once instead of twice; and of a partial file only the
// log has to be there, which is that of the segment.
func checkNothingLost(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	var there [][]byte
	segments := map[string][][]byte{}
	names, err := os.ReadDir(dir)
	must(t, err)
	for _, n := range names {
		if !n.Type().IsRegular() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, n.Name()))
		must(t, err)
		there = append(there, content)
		if e, ok := parseEntry(n.Name(), segmentSize); ok {
			content, _ = decompressed(content, e.method) // as far as it goes
			segments[n.Name()[:segmentDigits]] = append(segments[n.Name()[:segmentDigits]], content)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if slices.ContainsFunc(there, func(c []byte) bool { return bytes.Equal(c, files[name]) }) || isTemporary(name, segmentSize) {
			continue
		}
		e, ok := parseEntry(name, segmentSize)
		content, _ := decompressed(files[name], e.method)
		content = bytes.TrimRight(content, "\x00")
		if !ok || !slices.ContainsFunc(segments[name[:segmentDigits]], func(c []byte) bool { return bytes.HasPrefix(c, content) }) {
			t.Errorf("what was in %s is lost", name)
		}
	}
}

func TestDamagedSegmentThatTheServerHasNot(t *testing.T) {
	l := newDamageLogs().l
	dir := t.TempDir()
	for name, content := range map[string][]byte{l.nth(0): l.segment(0), l.nth(1): {}, l.nth(2) + ".partial": l.until(l.start + 2*segmentSize + 5000).segment(2)} {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	d, err := Open(Options{Path: dir, SegmentSize: segmentSize})
	must(t, err)
	defer d.Close()
	for _, want := range []int{1, 2, 2} {
		start, ok, err := d.Start()
		must(t, err)
		if at := l.start + wal.LSN(want*segmentSize); !ok || start.LSN != at {
			t.Errorf("starts at %v, want %v", start.LSN, at)
		}
		if gaps := d.Gaps(); len(gaps) != want-1 {
			t.Errorf("gaps: %v", gaps)
		}
		if d.GiveUp() != (want == 1) {
			t.Errorf("given up at %v", start.LSN)
		}
	}
}

func TestCompleteIsNotReceivedAgain(t *testing.T) {
	l := newLog(1, 5, 4).fill(segmentSize, 20_000)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, l.nth(0)+".zst"), packed(t, l.segment(0), seal.Zstd), 0o600))
	_, err := open(t, Options{Path: dir}).Begin(l.nth(0), segmentSize)
	want := `segment file "` + dir + "/" + l.nth(0) + `.zst" is complete`
	if !errors.Is(err, fs.ErrExist) || err.Error() != want || usererr.Hint(err) == "" {
		t.Errorf("error is %v", err)
	}
}

func TestHistories(t *testing.T) {
	const name, content = "00000002.history", "1\t0/500000\tno reason\n"
	for _, c := range []struct {
		reason string
		there  string // name of a file
		holds  []byte
		fails  string
		warns  string
	}{
		{"nothing is there", "", nil, "", ""},
		{"the same", name, []byte(content), "", ""},
		{"the same, compressed", name + ".lz4", packed(t, []byte(content), seal.LZ4), "", ""},
		{"another", name, []byte("1\t0/600000\tno reason\n"), `timeline history file "DIR/00000002.history" differs from 00000002.history of the server`, ""},
		{"another, which begins the same", name + ".gz", packed(t, []byte(content+"x"), seal.Gzip), `timeline history file "DIR/00000002.history.gz" differs from 00000002.history of the server`, ""},
		{"one that was cut short", name, []byte(content[:5]), `timeline history file "DIR/00000002.history" differs from 00000002.history of the server`, ""},
		{"an empty one", name, nil, "", `timeline history file "DIR/00000002.history" is empty; it is set aside as "DIR/00000002.history.damaged"`},
		{"a damaged one", name + ".zst", []byte("garbage"), "", `timeline history file "DIR/00000002.history.zst" is damaged: decompress zstd data: invalid input: magic number mismatch; it is set aside as "DIR/00000002.history.zst.damaged"`},
	} {
		for _, method := range methods {
			t.Run(c.reason+", "+method.String(), func(t *testing.T) {
				dir := t.TempDir()
				if c.there != "" {
					must(t, os.WriteFile(filepath.Join(dir, c.there), c.holds, 0o600))
				}
				warned := ""
				d := open(t, Options{
					Path: dir, Compression: seal.Spec{Algorithm: method},
					Warn: func(err error) { warned += strings.ReplaceAll(err.Error(), dir, "DIR") },
				})
				err := d.History(name, []byte(content))
				if c.fails == "" && err != nil || c.fails != "" && (err == nil || strings.ReplaceAll(err.Error(), dir, "DIR") != c.fails || !errors.Is(err, fs.ErrExist) || usererr.Hint(err) == "") {
					t.Errorf("error is %v", err)
				}
				if warned != c.warns {
					t.Errorf("warned of %q", warned)
				}
				if c.there != "" {
					checkNothingLost(t, dir, map[string][]byte{c.there: c.holds})
				}
				if c.fails != "" {
					return
				}
				must(t, d.History(name, []byte(content)))
				if got := d.history(2); cmp.Diff(wal.History{{Timeline: 1, End: 0x500000}}, got) != "" {
					t.Errorf("history is %v", got)
				}
				if err := d.History("2.history", nil); err == nil {
					t.Error("any name will do")
				}
			})
		}
	}
}

func TestOnlyOneReceives(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Path: dir})
	_, err := Open(Options{Path: dir, SegmentSize: segmentSize})
	if err == nil || err.Error() != `directory "`+dir+`" is in use by another process` || usererr.Hint(err) == "" {
		t.Errorf("error is %v", err)
	}
	must(t, d.Close())
	open(t, Options{Path: dir})
}

func TestDirectoryMustBeThere(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for name, want := range map[string]string{"absent": "No such file or directory", "file": "Not a directory"} {
		path := filepath.Join(dir, name)
		if _, err := Open(Options{Path: path, SegmentSize: segmentSize}); err == nil || err.Error() != `could not open directory "`+path+`": `+want {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// TestNewestTimelineIsFollowed is about a standby that was promoted while it was behind.
func TestNewestTimelineIsFollowed(t *testing.T) {
	f := newFailover(0)
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		f.old.nth(0): f.old.segment(0), f.old.nth(1): f.old.segment(1), f.old.nth(2): f.old.segment(2),
		f.old.nth(3) + ".partial": f.old.segment(3), f.new.nth(0) + ".partial": f.new.segment(0),
		"00000002.history": []byte(fmt.Sprintf("1\t%v\tno reason\n", f.fork)),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	d := open(t, Options{Path: dir, SystemID: cluster})
	start, ok, err := d.Start()
	if want := (wal.Position{LSN: f.new.start, Timeline: 2}); start != want || !ok || err != nil {
		t.Errorf("starts at %v, %t, %v; want %v", start, ok, err, want)
	}
	must(t, f.follow(d))
	must(t, holds(d, f.new, f.new.end()))
}
