package waldir

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"basin/internal/localfs"
	"basin/internal/seal"
	"basin/internal/wal"
)

// prepare opens the file that the segment is written to, made of what there is of it.
func (s *segment) prepare(seg wal.Segment) error {
	d := s.dir
	if err := d.removeStale(localfs.Temporary(s.partial())); err != nil {
		return err
	}
	found, err := d.find(seg)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return s.create()
	}
	d.jobs.hold() // it would take away files that are read here
	defer d.jobs.release()
	for i, e := range found {
		if e.partial || e.damaged {
			continue
		}
		damage, err := d.inspect(e)
		if err != nil {
			return err
		}
		if damage == nil {
			return inTheWay("the server is asked for log that is here already; to have it again, move the file away",
				`segment file "%s" is complete`, d.path(e.name))
		}
		if found[i], err = d.setAside(e, damage); err != nil {
			return err
		}
	}
	return s.resume(found)
}

// find returns all files of a segment, those set aside too. One that is no file is
// an error.
func (d *Directory) find(seg wal.Segment) ([]entry, error) {
	var names []string
	for _, suffix := range []string{"", partialSuffix} {
		for method := seal.None; method <= seal.Zstd; method++ {
			names = append(names, seg.Name(d.o.SegmentSize)+seal.Suffix(method)+suffix)
		}
	}
	var found []entry
	for _, name := range names {
		e, _ := parseEntry(name, d.o.SegmentSize)
		if exists, err := d.exists(&e); err != nil {
			return nil, err
		} else if exists {
			found = append(found, e)
		}
		for n := 1; ; n++ {
			e, _ := parseDamaged(damagedName(name, n), d.o.SegmentSize)
			exists, err := d.exists(&e)
			if err != nil {
				return nil, err
			}
			if !exists {
				break
			}
			found = append(found, e)
		}
	}
	return found, nil
}

// exists says whether the file is there, and notes its length.
func (d *Directory) exists(e *entry) (bool, error) {
	info, err := d.disk.stat(e.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, irregular(d.path(e.name))
	}
	e.bytes = info.Size()
	return true, nil
}

// damagedName returns the name that a damaged file is given if n-1 of its name were
// found before.
func damagedName(name string, n int) string {
	if n == 1 {
		return name + damagedSuffix
	}
	return fmt.Sprintf("%s%s.%d", name, damagedSuffix, n)
}

// setAside gives a damaged file another name, under which nothing but Begin looks
// at it, and tells why. It returns what it is then.
func (d *Directory) setAside(e entry, damage error) (entry, error) {
	for n := 1; ; n++ {
		to := damagedName(e.name, n)
		err := d.give(e.name, to)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return entry{}, err
		}
		delete(d.wrong, e.name)
		d.warn(fmt.Errorf(`%w; it is set aside as "%s"`, damage, d.path(to)))
		e.name, e.damaged = to, true
		return e, d.syncNames()
	}
}

// part is a file that may hold the beginning of a segment.
type part struct {
	entry
	end     wal.LSN // of the last whole valid record; the segment's start if there is none
	written int64   // bytes up to the last that is not zero
	damage  error   // why no more can be decompressed; one that is cut short is not damaged
}

// resume makes one file of the parts of the segment, and goes on with that.
//
// The one with the most log is taken. The others must hold the same as far as they
// hold whole records, so nothing is lost with them.
func (s *segment) resume(found []entry) error {
	var parts []part
	for _, e := range found {
		p, err := s.measure(e)
		if err != nil {
			return err
		}
		parts = append(parts, p)
	}
	// Equal ones are in the order that find has: one that is not compressed, and
	// can be used as it is, comes first.
	base := slices.MaxFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.end, b.end), cmp.Compare(usable(a), usable(b)), cmp.Compare(a.written, b.written))
	})
	for _, p := range parts {
		if err := s.agree(base, p); err != nil {
			return err
		}
	}
	if err := s.take(base, parts); err != nil {
		return err
	}
	if err := s.clear(parts); err != nil {
		return errors.Join(err, s.file.Close())
	}
	return nil
}

// clear removes the parts of which all is in the file that is gone on with.
func (s *segment) clear(parts []part) error {
	d := s.dir
	parts = slices.DeleteFunc(parts, func(p part) bool { return p.damaged || p.name == s.partial() })
	if len(parts) == 0 {
		return nil
	}
	for _, p := range parts {
		var err error
		if p.damage != nil {
			_, err = d.setAside(p.entry, p.damage)
		} else {
			err = d.disk.remove(p.name)
		}
		if err != nil {
			return err
		}
	}
	return d.syncNames()
}

// usable returns one if there is a reason to go on with the file rather than to
// begin anew, although it may hold no whole record.
func usable(p part) int {
	if p.damaged {
		return 0
	}
	return 1
}

// measure says what there is in a file. One that holds no log at all is set aside.
func (s *segment) measure(e entry) (part, error) {
	d := s.dir
	p := part{entry: e, end: s.start}
	isPlain := e.partial && !e.damaged && e.method == seal.None
	if isPlain {
		if e.bytes > s.size {
			return part{}, inTheWay("it is of another cluster, or damaged: move it away",
				`write-ahead log file "%s" has %d bytes, should be at most %d`, d.path(e.name), e.bytes, s.size)
		}
		// The writer before may have been told that the file cannot be synced, and the
		// system have taken note of that. What counts is on disk.
		if err := s.settle(e.name); err != nil {
			return part{}, err
		}
	}
	damage, err := d.checkFirstPage(e)
	switch {
	case err != nil && e.damaged:
		return p, nil // of no use
	case err != nil:
		return part{}, err
	case damage != nil && e.damaged:
		return p, nil
	case damage != nil:
		p.entry, err = d.setAside(e, damage)
		return p, err
	}
	r, err := d.reader(e)
	if err != nil {
		return part{}, err
	}
	m := &measured{r: r}
	p.end, err = lastRecord(io.LimitReader(m, s.size), s.start, s.size, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(m, s.size+1-m.size))
	}
	if err := errors.Join(err, r.Close()); err != nil {
		return part{}, err
	}
	if m.size > s.size && !e.damaged {
		return part{}, inTheWay("it is of another cluster, or damaged: move it away",
			`write-ahead log file "%s" holds more than the %d bytes of a segment`, d.path(e.name), s.size)
	}
	p.written = m.written
	if m.damage != nil && !errors.Is(m.damage, io.ErrUnexpectedEOF) {
		p.damage = fmt.Errorf(`write-ahead log file "%s" is damaged: %w`, d.path(e.name), m.damage)
	}
	if p.end == s.start && p.written > 0 {
		p.end, err = s.endOfRest(e)
	}
	return p, err
}

// settle makes a file durable, and has it read from disk from then on.
func (s *segment) settle(name string) error {
	f, err := s.dir.disk.change(name)
	if err != nil {
		return err
	}
	err = s.dir.syncFile(f)
	f.forget()
	return errors.Join(err, f.Close())
}

// maxBack is how many segments before this one are read to find the beginning of a
// record that ends in it.
const maxBack = 64

// endOfRest returns where a record ends that began in a segment before and of which
// the rest is in this file, with no other after it. Alone the rest has no checksum.
func (s *segment) endOfRest(e entry) (wal.LSN, error) {
	files := []entry{e} // the last ones first
	for more := 1; len(files) < maxBack; more *= 2 {
		tried := len(files)
		for n := e.segment.Number - uint64(tried); n > 0 && len(files) < tried+more; n-- {
			before, found, err := s.dir.complete(wal.Segment{Timeline: e.segment.Timeline, Number: n})
			if err != nil {
				return 0, err
			}
			if !found {
				break
			}
			files = append(files, before)
		}
		if len(files) == tried {
			break
		}
		start := files[len(files)-1].segment.Start(s.size)
		r := &sequence{dir: s.dir, files: slices.Clone(files)}
		slices.Reverse(r.files)
		end, err := lastRecord(&measured{r: r}, start, s.size, nil)
		if err := errors.Join(err, r.Close()); err != nil {
			return 0, err
		}
		if end > start { // else the record began still earlier
			return min(max(end, s.start), s.start+wal.LSN(s.size)), nil
		}
	}
	return s.start, nil
}

// complete returns the file of a complete segment, and false if there is none.
func (d *Directory) complete(seg wal.Segment) (entry, bool, error) {
	for method := seal.None; method <= seal.Zstd; method++ {
		e, _ := parseEntry(seg.Name(d.o.SegmentSize)+seal.Suffix(method), d.o.SegmentSize)
		if found, err := d.exists(&e); found || err != nil {
			return e, found, err
		}
	}
	return entry{}, false, nil
}

// sequence reads files one after the other.
type sequence struct {
	dir   *Directory
	files []entry
	at    *content
	err   error // of a file
}

func (q *sequence) Read(p []byte) (int, error) {
	for {
		if q.at == nil {
			if len(q.files) == 0 {
				return 0, io.EOF
			}
			if q.at, q.err = q.dir.reader(q.files[0]); q.err != nil {
				q.at = nil
				return 0, q.err
			}
			q.files = q.files[1:]
		}
		n, err := q.at.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := q.Close(); err != nil || n > 0 {
			return n, err
		}
	}
}

// Close lets go of the file at hand, and returns the error of a file that could not be
// read.
func (q *sequence) Close() error {
	if q.at != nil {
		q.err = errors.Join(q.err, q.at.Close())
		q.at = nil
	}
	return q.err
}

// agree returns an error if p holds valid log that differs from base's.
func (s *segment) agree(base, p part) error {
	if p.end == s.start || p.name == base.name {
		return nil
	}
	a, err := s.dir.reader(base.entry)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := s.dir.reader(p.entry)
	if err != nil {
		return err
	}
	defer b.Close()
	n := int64(p.end - s.start)
	at, err := difference(io.LimitReader(a, n), io.LimitReader(b, n))
	if err != nil || at < 0 {
		return err
	}
	return inTheWay("they are of two servers: keep the one that is of this server, and move the other away",
		`"%s" and "%s" differ at %s, though they hold valid log up to %s and %s`,
		s.dir.path(base.name), s.dir.path(p.name), s.start+wal.LSN(at), base.end, p.end)
}

// take goes on with base: the file itself, or one that is made of what it holds.
func (s *segment) take(base part, parts []part) error {
	d := s.dir
	isPlain := base.name == s.partial()
	switch {
	case isPlain:
	case base.damaged && base.end == s.start:
		return s.create()
	default:
		if err := s.unpack(base, parts); err != nil {
			return err
		}
	}
	f, err := d.disk.change(s.partial())
	if err != nil {
		return err
	}
	if isPlain {
		err = errors.Join(f.reserve(s.size), d.syncNames()) // what it holds is durable since it was measured
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.file, s.named = f, true
	s.valid = int64(base.end - s.start)
	s.zeroed = base.written // behind the last record may be the beginning of another
	return nil
}

// unpack makes a .partial file of what base holds, durable, and in place of one
// that holds less.
func (s *segment) unpack(base part, parts []part) (err error) {
	d := s.dir
	temporary := localfs.Temporary(s.partial())
	if err := s.copyTo(temporary, base); err != nil {
		return errors.Join(err, d.removeStale(temporary))
	}
	if slices.ContainsFunc(parts, func(p part) bool { return p.name == s.partial() }) {
		err = d.disk.replace(temporary, s.partial())
	} else {
		err = d.give(temporary, s.partial())
	}
	if err != nil {
		return err
	}
	return d.syncNames()
}

// copyTo writes what base holds to a new file of a segment's size: of a damaged one
// only what is whole.
func (s *segment) copyTo(name string, base part) error {
	n := base.written
	if base.damaged {
		n = int64(base.end - s.start)
	}
	r, err := s.dir.reader(base.entry)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := s.dir.disk.create(name)
	if err != nil {
		return err
	}
	err = f.reserve(s.size)
	if err == nil {
		_, err = io.CopyN(io.NewOffsetWriter(f, 0), r, n)
	}
	if err == nil {
		err = s.dir.syncFile(f)
	}
	return errors.Join(err, f.Close())
}
