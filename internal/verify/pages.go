package verify

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// checkPageSizes says whether the pages of the cluster can be verified.
func (v *Verifier) checkPageSizes() error {
	if v.control == nil {
		return errors.New("page checksums cannot be verified without a control file")
	}
	return checkPageSizes(*v.control)
}

func checkPageSizes(c pgdata.Control) error {
	switch {
	case !c.DataChecksums:
		return usererr.Hinted("Leave out --page-checksums, or have them from now on with pg_checksums --enable.",
			"page checksums cannot be verified: data checksums are not enabled in the cluster")
	case c.PageSize != pgdata.PageSize || c.SegmentPages != pgdata.SegmentPages:
		return fmt.Errorf("page checksums cannot be verified: pages have %d bytes, and files %d of them, not %d and %d",
			c.PageSize, c.SegmentPages, pgdata.PageSize, pgdata.SegmentPages)
	}
	return nil
}

// hasPages says whether a file has pages that are to be verified.
func (v *Verifier) hasPages(path string) bool {
	_, ok := relationSegment(path)
	return ok && v.o.PageChecksums
}

// relationSegment returns which segment of a relation a file is, or stands for.
func relationSegment(path string) (segment uint32, ok bool) {
	whole, _ := pgdata.CutIncremental(path)
	return pgdata.RelationSegment(whole)
}

// pages verifies the pages of one file, by the rule of the server when it takes a
// backup: a page that was changed after the backup began may be half written, and is
// mended by the log.
//
// Source: verify_page_checksum in src/backend/backup/basebackup.c, PostgreSQL 18.
type pages struct {
	path  string
	first uint32  // block of the first page of the segment
	start wal.LSN // of the backup
	next  int     // number of the next page in the file

	incremental bool
	size        int64    // of an incremental file, in bytes
	header      []byte   // of it, as far as it came
	blocks      []uint32 // of it, once the header came
	unreadable  bool     // its header is

	found []error
}

// newPages returns nil if a file has none.
func (v *Verifier) newPages(f manifest.File) *pages {
	if !v.hasPages(f.Path) {
		return nil
	}
	start := wal.LSN(math.MaxUint64)
	if n := len(v.manifest.Ranges); n > 0 {
		start = v.manifest.Ranges[n-1].Start // the oldest comes last
	}
	return newPages(f.Path, f.Size, start)
}

// newPages returns nil if the file at a path is not of a relation.
func newPages(path string, size int64, start wal.LSN) *pages {
	segment, ok := relationSegment(path)
	if !ok {
		return nil
	}
	_, isIncremental := pgdata.CutIncremental(path)
	return &pages{path: path, first: segment * pgdata.SegmentPages, start: start, incremental: isIncremental, size: size}
}

// problems returns what was found, in the order of blocks.
func (p *pages) problems() []error {
	if p == nil {
		return nil
	}
	return p.found
}

// block returns the block that the next page is.
func (p *pages) block() uint32 {
	if p.incremental {
		return p.first + p.blocks[p.next]
	}
	return p.first + uint32(p.next)
}

// add takes what follows, of which only the last piece is not of whole pages.
func (p *pages) add(content []byte) {
	if p == nil {
		return
	}
	if p.incremental && p.blocks == nil {
		content = p.addHeader(content)
	}
	for ; len(content) >= pgdata.PageSize; content = content[pgdata.PageSize:] {
		if p.incremental && p.next == len(p.blocks) {
			return // it has grown since its size was looked at, which is a problem of its own
		}
		page := pgdata.Page(content[:pgdata.PageSize])
		if !page.IsNew() && page.LSN() < p.start {
			if sum := page.ComputeChecksum(p.block()); sum != page.Checksum() {
				p.found = append(p.found, fmt.Errorf("checksum verification failed in file \"%s\", block %d: calculated %X but expected %X",
					p.path, p.block(), sum, page.Checksum()))
			}
		}
		p.next++
	}
	if len(content) > 0 && !p.incremental {
		p.found = append(p.found, fmt.Errorf("could not verify checksum in file \"%s\", block %d: read buffer size %d and page size %d differ",
			p.path, p.block(), len(content), pgdata.PageSize))
	}
}

// addHeader takes what follows of an incremental file, and returns the pages behind its
// header once that is whole.
func (p *pages) addHeader(content []byte) []byte {
	if p.unreadable {
		return nil
	}
	p.header = append(p.header, content...)
	if int64(len(p.header)) < min(p.size, pgdata.MaxIncrementalHeader) {
		return nil
	}
	header, err := pgdata.ReadIncremental(bytes.NewReader(p.header), p.size, p.path)
	if err != nil {
		p.found = append(p.found, err)
		p.unreadable = true // so that nothing more can be told of it
		return nil
	}
	p.blocks = header.Blocks
	return p.header[header.HeaderSize():]
}
