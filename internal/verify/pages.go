package verify

import (
	"errors"
	"fmt"
	"math"

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
	_, ok := pgdata.RelationSegment(path)
	return ok && v.o.PageChecksums
}

// pages verifies the pages of one file, by the rule of the server when it takes a
// backup: a page that was changed after the backup began may be half written, and is
// mended by the log.
//
// Source: verify_page_checksum in src/backend/backup/basebackup.c, PostgreSQL 18.
type pages struct {
	path  string
	block uint32  // of the next page
	start wal.LSN // of the backup
	found []error
}

// newPages returns nil if a file has none.
func (v *Verifier) newPages(path string) *pages {
	if !v.hasPages(path) {
		return nil
	}
	p := newPages(path, math.MaxUint64)
	if n := len(v.manifest.Ranges); n > 0 {
		p.start = v.manifest.Ranges[n-1].Start // the oldest comes last
	}
	return p
}

// newPages returns nil if the file at a path is not of a relation.
func newPages(path string, start wal.LSN) *pages {
	segment, ok := pgdata.RelationSegment(path)
	if !ok {
		return nil
	}
	return &pages{path: path, block: segment * pgdata.SegmentPages, start: start}
}

// problems returns what was found, in the order of blocks.
func (p *pages) problems() []error {
	if p == nil {
		return nil
	}
	return p.found
}

func (p *pages) add(content []byte) {
	if p == nil {
		return
	}
	for ; len(content) >= pgdata.PageSize; content = content[pgdata.PageSize:] {
		page := pgdata.Page(content[:pgdata.PageSize])
		if !page.IsNew() && page.LSN() < p.start {
			if sum := page.ComputeChecksum(p.block); sum != page.Checksum() {
				p.found = append(p.found, fmt.Errorf("checksum verification failed in file \"%s\", block %d: calculated %X but expected %X",
					p.path, p.block, sum, page.Checksum()))
			}
		}
		p.block++
	}
	if len(content) > 0 {
		p.found = append(p.found, fmt.Errorf("could not verify checksum in file \"%s\", block %d: read buffer size %d and page size %d differ",
			p.path, p.block, len(content), pgdata.PageSize))
	}
}
