package waldir

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"basin/internal/seal"
	"basin/internal/wal"
)

// world is what is on disk after the first steps of a memory, and what may be.
type world struct {
	disk    map[int][]byte               // by inode
	pending map[int][]step               // changes of an inode that are not synced
	dirs    map[string]map[string]*inode // names
	changes map[string][]step            // of names that are not synced, by directory
}

func newWorld() *world {
	return &world{
		disk: map[int][]byte{}, pending: map[int][]step{},
		dirs: map[string]map[string]*inode{".": {}}, changes: map[string][]step{},
	}
}

// take makes a step. It returns whether that changes what may be on disk.
func (w *world) take(s step) bool {
	switch s.what {
	case "write", "size":
		w.pending[s.inode] = append(w.pending[s.inode], s)
	case "sync":
		for _, p := range w.pending[s.inode] {
			data := w.disk[s.inode]
			p.apply(&data)
			w.disk[s.inode] = data
		}
		delete(w.pending, s.inode)
	case "lost":
		delete(w.pending, s.inode)
	case "name":
		w.changes[s.dir] = append(w.changes[s.dir], s)
	case "syncdir":
		for _, c := range w.changes[s.dir] {
			c.rename(w.dirs)
		}
		delete(w.changes, s.dir)
	default:
		return false
	}
	return true
}

// rename makes a change of names.
func (s step) rename(dirs map[string]map[string]*inode) {
	if dirs[s.dir] == nil {
		dirs[s.dir] = map[string]*inode{}
	}
	for name, i := range s.names {
		if i == nil {
			delete(dirs[s.dir], name)
		} else {
			dirs[s.dir][name] = i
		}
	}
}

// luck says what of the things that were not synced is on disk all the same.
type luck struct {
	names int    // how many of the changes of names in each directory, in their order
	not   int    // one of these that is not, counted from one; zero is none
	only  string // none of those of other directories than this; empty is all directories
	data  string
}

// lucks are the ways a power failure can go. Of names in one directory a journal
// keeps the order, but not every file system has one; of data nothing does.
func (w *world) lucks() []luck {
	most := 0
	for _, c := range w.changes {
		most = max(most, len(c))
	}
	data := []string{"none"}
	if len(w.pending) > 0 {
		data = []string{"none", "all", "odd pages", "half"}
	}
	only := []string{""}
	if len(w.changes) > 1 {
		only = append(only, slices.Sorted(maps.Keys(w.changes))...)
	}
	var all []luck
	for n := range most + 1 {
		for _, dir := range only {
			for _, d := range data {
				all = append(all, luck{names: n, only: dir, data: d})
			}
		}
		if n < most {
			all = append(all, luck{names: most, not: n + 1, data: "all"})
		}
	}
	return all
}

// left returns a disk as the power failure leaves it.
func (w *world) left(l luck) *memory {
	m := newMemory()
	dirs := map[string]map[string]*inode{}
	for dir, names := range w.dirs {
		dirs[dir] = maps.Clone(names)
	}
	for _, dir := range slices.Sorted(maps.Keys(w.changes)) {
		if l.only != "" && l.only != dir {
			continue
		}
		for n, c := range w.changes[dir][:min(l.names, len(w.changes[dir]))] {
			if n+1 != l.not {
				c.rename(dirs)
			}
		}
	}
	made := map[int]*inode{} // files can have two names
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if _, ok := dirs["."][dir]; dir != "." && !ok {
			continue // it was never made
		}
		m.dirs[dir] = map[string]*inode{}
		for name, i := range dirs[dir] {
			if made[i.number] == nil {
				data := w.content(i.number, l.data)
				// What is left is durable.
				made[i.number] = &inode{number: i.number, data: data, disk: slices.Clone(data), kind: i.kind}
			}
			m.dirs[dir][name] = made[i.number]
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(m.dirs)) {
		for name, i := range m.dirs[dir] {
			if i.kind.IsDir() && m.dirs[name] == nil {
				m.dirs[name] = map[string]*inode{}
			}
		}
	}
	return m
}

// content returns what is left of a file.
func (w *world) content(inode int, luck string) []byte {
	data := slices.Clone(w.disk[inode])
	for n, p := range w.pending[inode] {
		switch luck {
		case "all":
			p.apply(&data)
		case "half":
			if n < len(w.pending[inode])/2 {
				p.apply(&data)
			}
		case "odd pages":
			for from := p.offset; from < p.offset+int64(len(p.data)); from = (from/4096 + 1) * 4096 {
				to := min((from/4096+1)*4096, p.offset+int64(len(p.data)))
				if from/4096%2 == 1 {
					step{offset: from, data: p.data[from-p.offset : to-p.offset]}.apply(&data)
				}
			}
		}
	}
	return data
}

// promise is what was acknowledged: log up to a position, or a history file.
type promise struct {
	log     *log
	upto    wal.LSN
	history string // its name, if it is one
	content string
}

// includes says whether p promises all that another does.
func (p promise) includes(other promise) bool {
	return p.log != nil && p.log == other.log && p.upto >= other.upto
}

// sum identifies a disk by what is on it.
func (m *memory) sum(seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, dir := range slices.Sorted(maps.Keys(m.dirs)) {
		for _, name := range slices.Sorted(maps.Keys(m.dirs[dir])) {
			i := m.dirs[dir][name]
			fmt.Fprintf(&h, "%s/%s %d\n", dir, name, len(i.data))
			_, _ = h.Write(i.data) // never fails
		}
	}
	return h.Sum64()
}

// checkEveryCrash has the power fail after every step that was made on a disk, from
// one of them on, in every way, and calls check for what is left and what was
// promised before.
func checkEveryCrash(t *testing.T, m *memory, from int, check func(m *memory, promises []promise) error) {
	t.Helper()
	w, seed, seen := newWorld(), maphash.MakeSeed(), map[uint64]bool{}
	var promises []promise
	states := 0
	for n := 0; n <= len(m.steps); n++ {
		for _, l := range w.lucks() {
			if n < from {
				break
			}
			left := w.left(l)
			sum := left.sum(seed) + uint64(len(promises))
			if seen[sum] {
				continue
			}
			seen[sum] = true
			states++
			names := slices.Sorted(maps.Keys(left.dirs["."]))
			if err := check(left, promises); err != nil {
				t.Fatalf("power fails after step %d, names %d but %d, data %s: %v\nfiles: %v\nlast steps:\n%s", n, l.names, l.not, l.data, err, names, tail(m.steps[:n]))
			}
		}
		if n < len(m.steps) {
			if s := m.steps[n]; s.what == "acked" {
				p := s.acked.(promise)
				promises = append(slices.DeleteFunc(promises, p.includes), p)
			} else {
				w.take(s)
			}
		}
	}
	t.Logf("%d states after %d steps", states, len(m.steps))
}

// tail words the last steps.
func tail(steps []step) string {
	var b strings.Builder
	for _, s := range steps[max(0, len(steps)-12):] {
		fmt.Fprintf(&b, "%s inode %d, %d bytes at %d, size %d, %s", s.what, s.inode, len(s.data), s.offset, s.size, s.dir)
		for name, i := range s.names {
			fmt.Fprintf(&b, " %s:%t", name, i != nil)
		}
		if p, ok := s.acked.(promise); ok {
			fmt.Fprintf(&b, " %v %s", p.upto, p.history)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// survives checks what is left after a crash: everything that was promised can be
// read from files with valid names, complete files are right, and going on with the
// log ends with all of it.
func survives(m *memory, promises []promise, logs []*log, o Options) error {
	if err := completeAreRight(m, logs); err != nil {
		return fmt.Errorf("before it is opened: %w", err)
	}
	var warnings []error
	o.SegmentSize, o.Path = segmentSize, "dir"
	o.Warn = func(err error) { warnings = append(warnings, err) }
	l := logs[len(logs)-1]
	d, err := openOn(m, o)
	if err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	if err := kept(d, promises); err != nil {
		return errors.Join(err, d.Close())
	}
	if err := (receiver{d: d, log: l, piece: 300_000}).goOn(l.end()); err != nil {
		return errors.Join(fmt.Errorf("going on: %w", err), d.Close())
	}
	if err := errors.Join(d.Close(), kept(d, promises)); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	if len(warnings) > 0 {
		return fmt.Errorf("warned: %w", errors.Join(warnings...))
	}
	return errors.Join(holds(d, l, l.end()), completeAreRight(m, logs))
}

// completeAreRight returns an error if a file under the name of a complete segment is
// not what one of the logs has there.
func completeAreRight(m *memory, logs []*log) error {
	for name, i := range m.dirs["."] {
		e, ok := parseEntry(name, segmentSize)
		if !ok || e.partial {
			continue
		}
		right := false
		for _, l := range logs {
			n := int64(e.segment.Start(segmentSize)) - int64(l.start)
			if e.segment.Timeline == l.timeline && n >= 0 && n < int64(len(l.bytes)) {
				content, err := decompressed(i.data, e.method)
				right = err == nil && bytes.Equal(content, l.segment(int(n/segmentSize)))
			}
		}
		if !right {
			return fmt.Errorf("%s, of %d bytes, is not the segment of that name", name, len(i.data))
		}
	}
	return nil
}

// readAll is io.ReadAll with room for a segment from the start.
func readAll(r io.Reader) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, segmentSize+bytes.MinRead))
	_, err := b.ReadFrom(r)
	return b.Bytes(), err
}

func decompressed(data []byte, method seal.Algorithm) ([]byte, error) {
	if method == seal.None {
		return data, nil
	}
	r, err := seal.NewReader(bytes.NewReader(data), method)
	if err != nil {
		return nil, err
	}
	content, err := readAll(r)
	return content, errors.Join(err, r.Close())
}

// kept returns an error if something that was promised cannot be read.
func kept(d *Directory, promises []promise) error {
	d.jobs.hold() // which remove what they have compressed
	defer d.jobs.release()
	for _, p := range promises {
		if p.history != "" {
			if !slices.ContainsFunc(methods, func(method seal.Algorithm) bool {
				content, damage, err := d.readFile(entry{name: p.history + seal.Suffix(method), method: method}, maxHistory)
				return damage == nil && err == nil && string(content) == p.content
			}) {
				return fmt.Errorf("%s is lost", p.history)
			}
			continue
		}
		if err := p.isKept(d); err != nil {
			return err
		}
	}
	return nil
}

func (p promise) isKept(d *Directory) error {
	for at := p.log.start; at < p.upto; at += segmentSize {
		name, n := p.log.name(at), int(at-p.log.start)
		want := p.log.bytes[n:min(n+segmentSize, int(p.upto-p.log.start))]
		found := false
		err := eachFile(d, name, func(content []byte) {
			found = found || len(content) >= len(want) && bytes.Equal(content[:len(want)], want)
		})
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("segment %s is lost, which was acknowledged up to %v", name, p.upto)
		}
	}
	return nil
}

// eachFile calls a function for what is in every file of a segment, moved apart or not.
func eachFile(d *Directory, segment string, f func(content []byte)) error {
	m := d.disk.(*memory)
	for dir, names := range m.dirs {
		for name := range names {
			e, ok := parseEntry(name, segmentSize)
			if !ok || !strings.HasPrefix(name, segment) {
				continue
			}
			e.name = path.Join(dir, name)
			r, err := d.reader(e)
			if err != nil {
				return err
			}
			content, _ := readAll(r) // as far as it goes: a partial one may be cut short
			if err := r.Close(); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			f(content)
		}
	}
	return nil
}

// TestPowerFails has the power fail at every step of what a receiver does.
func TestPowerFails(t *testing.T) {
	l := newLog(1, 5, 3).fill(2*segmentSize+200_000, 20_000)
	mid := l.start + segmentSize + 600_000
	for _, c := range []struct {
		name string
		run  func(s *session)
	}{
		{"a stream without compression, and another after it", func(s *session) {
			s.open(seal.None).receive(l, mid).close()
			s.open(seal.None).receive(l, l.end()).close()
		}},
		{"a stream that is not flushed before its segments are complete", func(s *session) {
			s.every = 0
			s.open(seal.None).receive(l, mid).receive(l, l.end()).close()
		}},
		{"gzip", func(s *session) {
			s.open(seal.Gzip).receive(l, mid).close()
			s.open(seal.Gzip).receive(l, l.end()).close()
		}},
		{"lz4, then zstd", func(s *session) {
			s.open(seal.LZ4).receive(l, mid).close()
			s.open(seal.Zstd).receive(l, l.end()).close()
		}},
		{"zstd, then nothing", func(s *session) {
			s.open(seal.Zstd).receive(l, mid).close()
			s.open(seal.None).receive(l, l.end()).close()
		}},
		{"flushed quickly", func(s *session) {
			s.o.QuickFlush = true
			s.open(seal.None).receive(l, mid).receive(l, l.end()).close()
		}},
		{"a file system that renames only over others", func(s *session) {
			s.m.withoutRename = true
			s.open(seal.LZ4).receive(l, mid).close()
		}},
		{"one that has no links either", func(s *session) {
			s.m.withoutRename, s.m.withoutLink = true, true
			s.open(seal.LZ4).receive(l, mid).close()
		}},
		{"a history", func(s *session) {
			s.open(seal.None).history("00000002.history", "1\t0/500000\tno reason\n").close()
			s.open(seal.Gzip).history("00000003.history", "1\t0/500000\tno reason\n").
				history("00000002.history", "1\t0/500000\tno reason\n").receive(l, mid).close()
		}},
		{"after pg_receivewal has changed the method", func(s *session) {
			s.m.put(l.nth(0)+".partial", l.until(l.start+300_000).segment(0))
			s.m.put(l.nth(0)+".gz.partial", packed(t, l.bytes[:500_000], seal.Gzip)[:40_000])
			s.m.put(l.nth(0)+".lz4.partial", packed(t, l.bytes[:700_000], seal.LZ4))
			s.m.promise(promise{log: l, upto: l.start + 700_000})
			s.open(seal.LZ4).receive(l, mid).close()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t, Options{})
			c.run(s)
			n := 0
			checkEveryCrash(t, s.m, s.begun, func(m *memory, promises []promise) error {
				o := Options{}
				if n++; n%16 == 0 {
					o.Compression.Algorithm = methods[n/16%4]
				}
				m.withoutRename, m.withoutLink = s.m.withoutRename, s.m.withoutLink
				return survives(m, promises, []*log{l}, o)
			})
		})
	}
}
