package live

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
)

// chunkSize is how much of a file is read at once, in bytes.
const chunkSize = 1 << 20

// file is a file of the data directory that is read as it was when it was opened: what grows
// is cut off there, and what is cut off meanwhile is filled up with zeros. The log makes both
// right.
//
// Source: sendFile in src/backend/backup/basebackup.c, PostgreSQL 18.
type file struct {
	source *Source
	member backup.Member
	name   string // for messages: as the server calls it
	listed string // in the manifest; empty if it is not there
	file   *os.File

	header []byte   // of an incremental file; else nil
	blocks []uint32 // of that; within the segment

	checks   bool   // page checksums
	first    uint32 // block of the file, within the relation
	checkEnd int64  // from where on pages are not checked, in bytes
	isWAL    bool   // a segment of the log

	mu       sync.Mutex
	settled  int64            // bytes of the member that were digested
	waiting  map[int64]*chunk // behind those, by where they begin
	settling bool
	sum      hash.Hash // nil for none
	failures int       // of page checksums
	notices  []Notice
	finished bool
}

// chunk is a part of a file.
type chunk struct {
	file     *file
	at       int64 // where it begins, in bytes of the member
	data     []byte
	failures []pageFailure
	err      error
	done     chan struct{} // closed once it is read and digested; nil if nobody waits
}

// pageFailure is a page with a wrong checksum.
type pageFailure struct {
	block           uint32 // within the relation
	computed, found uint16
}

// newFile returns a file that is open, and at path below its tablespace.
func (s *Source) newFile(m backup.Member, f *os.File, name string) *file {
	listed := backup.ManifestPath(m.Tablespace, m.Path)
	file := &file{source: s, member: m, name: name, listed: listed, file: f, checkEnd: m.Size}
	if segment, ok := pgdata.RelationSegment(listed); ok && s.checksPages() {
		file.checks, file.first = true, segment*pgdata.SegmentPages
		if m.Size%pgdata.PageSize != 0 { // the server does not check what it reads last
			file.checkEnd = m.Size / serverBuffer * serverBuffer
		}
	}
	if s.book != nil {
		file.sum = s.o.Algorithm.New()
	}
	return file
}

// checksPages says whether the checksums of pages are looked at.
func (s *Source) checksPages() bool {
	return s.cluster.dataChecksums && !s.o.NoVerifyChecksums && s.cluster.version >= version11
}

// serverBuffer is how much the server reads at once, in bytes.
//
// Source: SINK_BUFFER_LENGTH in src/backend/backup/basebackup.c, PostgreSQL 18.
const serverBuffer = 32768

// makeIncremental has only the header and the blocks that it names come.
func (f *file) makeIncremental(i pgdata.Incremental) {
	f.header, f.blocks = i.AppendTo(nil), i.Blocks
	f.member.Path = pgdata.IncrementalPath(f.member.Path)
	f.member.Size = i.Size()
	f.listed = backup.ManifestPath(f.member.Tablespace, f.member.Path)
}

// fill reads a chunk.
func (f *file) fill(c *chunk) error {
	if f.header == nil {
		return f.read(c, c.data, c.at)
	}
	p, at := c.data, c.at
	if at < int64(len(f.header)) {
		n := copy(p, f.header[at:])
		p, at = p[n:], at+int64(n)
	}
	for len(p) > 0 { // whole pages, as are the header before them and a chunk
		i := int((at - int64(len(f.header))) / pgdata.PageSize)
		run := 1
		for run < len(p)/pgdata.PageSize && f.blocks[i+run] == f.blocks[i]+uint32(run) {
			run++
		}
		n := run * pgdata.PageSize
		if err := f.read(c, p[:n], int64(f.blocks[i])*pgdata.PageSize); err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// read reads from off on in the file, and checks the pages.
func (f *file) read(c *chunk, p []byte, off int64) error {
	n, err := f.file.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return localfs.Errorf(err, f.file.Name(), "could not read file \"%s\"", f.name)
	}
	clear(p[n:])
	if !f.checks {
		return nil
	}
	pages := p[:n]
	if f.header == nil {
		pages = p[:max(0, min(int64(n), f.checkEnd-off))]
	}
	for at := 0; at+pgdata.PageSize <= len(pages); at += pgdata.PageSize {
		page := pgdata.Page(pages[at : at+pgdata.PageSize])
		block := f.first + uint32((off+int64(at))/pgdata.PageSize)
		if f.isGood(page, block) {
			continue
		}
		// It may have been read while it was written: then it says by the second time that it
		// is newer than the backup.
		n, err := f.file.ReadAt(page, off+int64(at))
		switch {
		case errors.Is(err, io.EOF) && n == 0:
			clear(p[at:])
			return nil
		case n < pgdata.PageSize:
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("could not read file \"%s\": read %d of %d", f.name, n, pgdata.PageSize)
			}
			return localfs.Errorf(err, f.file.Name(), "could not read file \"%s\"", f.name)
		}
		if !f.isGood(page, block) {
			c.failures = append(c.failures, pageFailure{block, page.ComputeChecksum(block), page.Checksum()})
		}
	}
	return nil
}

// isGood says whether nothing is known against a page: what has changed since the backup began
// comes from the log.
//
// Source: verify_page_checksum in src/backend/backup/basebackup.c, PostgreSQL 18.
func (f *file) isGood(page pgdata.Page, block uint32) bool {
	return page.IsNew() || page.LSN() >= f.source.start.Position.LSN || page.ComputeChecksum(block) == page.Checksum()
}

// settle digests a chunk that was read as soon as those before it are.
func (f *file) settle(c *chunk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.at != f.settled || f.settling {
		if f.waiting == nil {
			f.waiting = make(map[int64]*chunk)
		}
		f.waiting[c.at] = c
		if f.settling {
			return
		}
		c = nil
	}
	for c != nil {
		f.settling = true
		f.mu.Unlock()
		f.digest(c)
		f.mu.Lock()
		f.settled += int64(len(c.data))
		f.settling = false
		if c.done != nil {
			close(c.done)
		}
		c = f.waiting[f.settled]
		delete(f.waiting, f.settled)
	}
}

// digest takes the bytes of a chunk, in their order, and what was found in them.
func (f *file) digest(c *chunk) {
	if c.err != nil {
		return
	}
	if f.sum != nil {
		_, _ = f.sum.Write(c.data)
	}
	for _, bad := range c.failures {
		if f.failures++; f.failures > maxPageNotices {
			continue
		}
		block := bad.block
		if f.source.cluster.version < version17 {
			block -= f.first
		}
		f.warn("checksum verification failed in file \"%s\", block %d: calculated %X but expected %X", f.name, block, bad.computed, bad.found)
		if f.failures == maxPageNotices {
			f.warn("further checksum verification failures in file \"%s\" will not be reported", f.name)
		}
	}
	if end := c.at + int64(len(c.data)); f.checks && f.header == nil && f.checkEnd < f.member.Size && end == f.member.Size {
		could := "could not"
		if f.source.cluster.version < version12 {
			could = "cannot"
		}
		f.warn("%s verify checksum in file \"%s\", block %d: read buffer size %d and page size %d differ",
			could, f.name, f.checkEnd/pgdata.PageSize, f.member.Size-f.checkEnd, pgdata.PageSize)
	}
}

// maxPageNotices is how many bad pages of a file are named.
const maxPageNotices = 5

func (f *file) warn(format string, args ...any) {
	f.notices = append(f.notices, warning(format, args...))
}

// warning returns a notice of something that is wrong.
func warning(format string, args ...any) Notice {
	return Notice{Severity: "WARNING", Code: codeWarning, Message: fmt.Sprintf(format, args...)}
}

// finish is called once all of the file is digested: it says what was found.
func (f *file) finish() error {
	if f.finished {
		return nil
	}
	f.finished = true
	if f.isWAL {
		if err := f.checkRecycled(); err != nil {
			return err
		}
	}
	if f.failures > 1 {
		f.warn("file \"%s\" has a total of %d checksum verification failures", f.name, f.failures)
	}
	s := f.source
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures += int64(f.failures)
	for _, n := range f.notices {
		s.o.notify(n)
	}
	if p := s.o.Progress; p != nil {
		p.Done.Add(tarSize(f.member))
	}
	if s.book == nil || f.listed == "" {
		return nil
	}
	entry := manifest.File{Path: f.listed, Size: f.member.Size, Algorithm: s.o.Algorithm}
	if f.sum != nil {
		entry.Checksum = f.sum.Sum(nil)
	}
	return s.book.add(entry, f.member.ModTime)
}

// checkRecycled sees that a segment of the log was the same one all the time: the server gives
// those that it needs no more a new name, and writes to them.
func (f *file) checkRecycled() error {
	opened, err := f.file.Stat()
	if err != nil {
		return localfs.Errorf(err, f.file.Name(), "could not stat file \"%s\"", f.name)
	}
	now, err := os.Lstat(f.file.Name())
	if err != nil || !os.SameFile(opened, now) {
		return failed(codeUndefinedFile, "requested WAL segment %s has already been removed", f.name[len("pg_wal/"):])
	}
	return nil
}

// Close closes the file.
func (f *file) Close() error {
	if f.file == nil {
		return nil
	}
	opened := f.file
	f.file = nil
	return opened.Close()
}

// notify tells of a notice, if anybody wants to know.
func (o *Options) notify(n Notice) {
	if o.Notice != nil {
		o.Notice(n)
	}
}

// tarSize returns what a member has in bytes of a tar archive.
func tarSize(m backup.Member) int64 {
	if m.Kind != backup.File {
		return backup.TarBlock
	}
	return backup.TarBlock + m.Size + int64(backup.TarPadding(m.Size))
}
