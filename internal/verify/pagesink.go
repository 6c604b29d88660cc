package verify

import (
	"context"
	"io"
	"sync"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/wal"
)

// PageSink verifies the checksums of all pages of a backup, and keeps nothing of it. It is
// a backup.Sink, and takes members side by side.
type PageSink struct {
	backup.Nowhere
	start wal.LSN
	mu    sync.Mutex
	tell  func(error) error
}

// NewPageSink returns a sink for a backup with that control file. tell is told each
// problem, from one goroutine at a time; an error of it ends the copy.
func NewPageSink(c pgdata.Control, tell func(error) error) (*PageSink, error) {
	return &PageSink{tell: tell}, checkPageSizes(c)
}

// Begin learns where the backup begins: pages that were changed later are not looked at.
func (s *PageSink) Begin(_ context.Context, start backup.Start) error {
	s.start = start.Position.LSN
	return nil
}

// PutApart is Put.
func (s *PageSink) PutApart(ctx context.Context, m backup.Member, r io.Reader) error {
	return s.Put(ctx, m, r)
}

// Put looks at the pages of a file, if it is of a relation, and reads it to its end.
func (s *PageSink) Put(ctx context.Context, m backup.Member, r io.Reader) error {
	if m.Kind != backup.File {
		return nil
	}
	path := backup.ManifestPath(m.Tablespace, m.Path)
	p := newPages(path, m.Size, s.start)
	w := &pageWriter{pages: p}
	if err := localfs.Copy(ctx, w, r, path, m.Size); err != nil {
		return err
	}
	p.add(w.rest)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, problem := range p.problems() {
		if err := s.tell(problem); err != nil {
			return err
		}
	}
	return nil
}

// pageWriter hands on whole pages.
type pageWriter struct {
	pages *pages
	rest  []byte
}

func (w *pageWriter) Write(p []byte) (int, error) {
	n := len(p)
	if len(w.rest) > 0 {
		take := min(len(p), pgdata.PageSize-len(w.rest))
		w.rest = append(w.rest, p[:take]...)
		p = p[take:]
		if len(w.rest) < pgdata.PageSize {
			return n, nil
		}
		w.pages.add(w.rest)
		w.rest = w.rest[:0]
	}
	whole := len(p) / pgdata.PageSize * pgdata.PageSize
	w.pages.add(p[:whole])
	w.rest = append(w.rest, p[whole:]...)
	return n, nil
}
