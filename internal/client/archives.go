package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	"basin/internal/backup"
	"basin/internal/protocol"
)

var longAgo = time.Unix(1, 0)

// manyCopies is the protocol before 15: one COPY for each tablespace in the
// order of the list, then one for the manifest. Nothing marks what they are.
type manyCopies struct {
	b        *BaseBackup
	archives []string // that are to come
	manifest bool     // comes after them
	open     bool     // a COPY is in hand
	payload  bool     // so is a message of it
}

func (s *manyCopies) next() (archive, error) {
	if s.open {
		if err := skipPieces(s); err != nil {
			return archive{}, err
		}
	}
	var a archive
	switch {
	case len(s.archives) > 0:
		a.name, s.archives = s.archives[0], s.archives[1:]
	case s.manifest:
		a.manifest, s.manifest = true, false
	default:
		return archive{}, io.EOF
	}
	if err := s.b.conn.expect(s.b.ctx, 'H'); err != nil {
		return archive{}, fmt.Errorf("could not get COPY data stream: %w", err)
	}
	s.open = true
	return a, nil
}

func (s *manyCopies) Piece(limit int) ([]byte, error) {
	if !s.open {
		return nil, io.EOF
	}
	c := s.b.conn
	for !s.payload || c.left == 0 {
		s.payload = false
		kind, err := s.b.nextInCopy()
		if err != nil {
			return nil, err
		}
		switch kind {
		case 'd':
			s.payload = true
			s.b.o.Progress.Done.Add(int64(c.left))
		case 'c':
			s.open = false
			return nil, io.EOF
		default:
			return nil, errUnexpected(kind)
		}
	}
	return c.fragment(s.b.ctx, limit)
}

// oneCopy is the protocol since 15: one COPY, whose messages say what they are.
//
// Source: ReceiveArchiveStreamChunk in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
type oneCopy struct {
	b       *BaseBackup
	begun   bool
	ended   bool
	inPart  bool     // payload belongs to an archive or the manifest
	payload bool     // the message in hand is payload
	coming  *archive // announced, and not yet handed out
	last    bool     // the manifest was announced
}

func (s *oneCopy) next() (archive, error) {
	if !s.begun {
		if err := s.b.conn.expect(s.b.ctx, 'H'); err != nil {
			return archive{}, fmt.Errorf("could not get COPY data stream: %w", err)
		}
		s.begun = true
	}
	if s.coming == nil && !s.ended {
		if err := skipPieces(s); err != nil {
			return archive{}, err
		}
	}
	if s.coming == nil {
		return archive{}, io.EOF
	}
	a := *s.coming
	s.coming, s.inPart = nil, true
	return a, nil
}

func (s *oneCopy) Piece(limit int) ([]byte, error) {
	for !s.payload || s.b.conn.left == 0 {
		if s.coming != nil || s.ended {
			return nil, io.EOF
		}
		if err := s.message(); err != nil {
			return nil, err
		}
	}
	return s.b.conn.fragment(s.b.ctx, limit)
}

// message reads the next message up to its payload.
func (s *oneCopy) message() error {
	c, ctx := s.b.conn, s.b.ctx
	s.payload = false
	kind, err := s.b.nextInCopy()
	if err != nil {
		return err
	}
	switch kind {
	case 'd':
	case 'c':
		s.ended = true
		return nil
	default:
		return errUnexpected(kind)
	}
	if c.left == 0 {
		return errors.New("empty COPY message")
	}
	length := c.left
	first, err := c.peek(ctx)
	switch {
	case err != nil:
		return err
	case first == protocol.CopyPayload:
		if !s.inPart || s.b.o.Command.Target != "" {
			return errors.New("unexpected payload data")
		}
		s.payload = true
		_, err = c.bytes(ctx, 1)
		return err
	case length > maxCopyHead:
		return &protocol.MalformedError{Kind: first, Length: length}
	}
	msg, err := c.body(ctx)
	if err != nil {
		return err
	}
	return s.announce(msg)
}

// maxCopyHead is longer than any message but payload: a name and a path.
const maxCopyHead = 8 << 10

// announce takes in a message that is not payload.
func (s *oneCopy) announce(msg []byte) error {
	switch msg[0] {
	case protocol.CopyArchive:
		if s.last {
			return errors.New("archives must precede manifest")
		}
		a, err := protocol.ParseArchive(msg)
		if err != nil {
			return err
		}
		s.coming = &archive{name: a.Name}
	case protocol.CopyManifest:
		if len(msg) != 1 || s.last {
			return &protocol.MalformedError{Kind: msg[0], Length: len(msg)}
		}
		s.coming, s.last = &archive{manifest: true}, true
	case protocol.CopyProgress:
		done, err := protocol.ParseProgress(msg)
		if err != nil {
			return err
		}
		s.b.o.Progress.Done.Store(done)
	default:
		return &protocol.MalformedError{Kind: msg[0], Length: len(msg)}
	}
	return nil
}

// pieceReader reads pieces as an io.Reader.
type pieceReader struct {
	src   backup.Pieces
	ended func() // called once at the end; may be nil
}

func (r *pieceReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	piece, err := r.src.Piece(len(p))
	if err == io.EOF && r.ended != nil {
		r.ended()
		r.ended = nil
	}
	return copy(p, piece), err
}

// WriteTo writes all pieces without copying them.
func (r *pieceReader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		piece, err := r.src.Piece(1 << 20)
		if err == io.EOF {
			if r.ended != nil {
				r.ended()
				r.ended = nil
			}
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(piece)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
}

func skipPieces(src backup.Pieces) error {
	for {
		if _, err := src.Piece(1 << 20); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// readerPieces hands out what a reader yields.
type readerPieces struct{ r *bufio.Reader }

func newReaderPieces(r io.Reader) readerPieces {
	return readerPieces{bufio.NewReaderSize(r, blockSize)}
}

func (p readerPieces) Piece(limit int) ([]byte, error) {
	if _, err := p.r.Peek(1); err != nil {
		return nil, err
	}
	piece, err := p.r.Peek(min(limit, p.r.Buffered()))
	if err != nil {
		return nil, err
	}
	_, err = p.r.Discard(len(piece)) // they stay valid until the buffer is filled again
	return piece, err
}
