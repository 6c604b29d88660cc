package sinktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"path/filepath"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/wal"
)

// OIDs of the tablespaces in the suite's backup.
const (
	OIDElsewhere = 16384 // its location is absolute, a directory that is not there
	OIDInPlace   = 16385 // its location is relative, inside the data directory
)

// fault is what goes wrong at a member.
type fault uint8

const (
	nextFails     fault = iota // Next returns an error instead of the member
	readerFails                // the reader fails half-way
	readerShort                // the reader ends a byte early
	readerLong                 // the reader goes on for a byte
	readerMissing              // there is no reader
	contextEnds                // the context is cancelled half-way; the source does not care
	faultCount
	noFault = faultCount
)

func (f fault) String() string {
	return [...]string{"next fails", "reader fails", "reader is short", "reader is long", "reader is missing", "context ends", "nothing"}[f]
}

// errFault is the error of the source.
var errFault = errors.New("the server went away")

// wants returns what the error of a copy must be, or nil if any will do.
func (f fault) wants() error {
	switch f {
	case nextFails, readerFails:
		return errFault
	case contextEnds:
		return context.Canceled
	}
	return nil
}

// member is one with its bytes.
type member struct {
	backup.Member
	content string
}

// script is a backup, and what goes wrong in it.
type script struct {
	start   backup.Start
	members []member
	fault   fault
	at      int // the member the fault strikes
	cancel  context.CancelFunc
}

// script returns the suite's backup. Its tablespace is in a new directory.
func (s Suite) script(t *testing.T) script {
	location := filepath.Join(t.TempDir(), "with space")
	start := backup.Start{
		Position:      wal.Position{LSN: 0x2000028, Timeline: 1},
		ServerVersion: 180000,
		SegmentSize:   wal.DefaultSegmentSize,
	}
	main := []member{
		dir(0, "base", 0o700), dir(0, "base/1", 0o700),
		file(0, "base/1/1259", 0o600, 3*8192), file(0, "base/1/empty", 0o600, 0), file(0, "base/1/odd", 0o640, 300_001),
		dir(0, "base/5", 0o750), file(0, "base/5/1259", 0o600, 511),
		dir(0, "./pg_wal", 0o700), dir(0, "./pg_wal/archive_status", 0o700), dir(0, "pg_tblspc", 0o700),
	}
	if !s.Single {
		start.Tablespaces = []backup.Tablespace{
			{OID: OIDElsewhere, Location: location},
			{OID: OIDInPlace, Location: "pg_tblspc/16385"},
		}
		main = append([]member{
			dir(OIDElsewhere, "PG_18_202506291", 0o700), file(OIDElsewhere, "PG_18_202506291/1", 0o600, 8192),
			dir(OIDInPlace, "PG_18_202506291", 0o700), file(OIDInPlace, "PG_18_202506291/2", 0o600, 100),
		}, main...)
		main = append(main,
			member{Member: backup.Member{Path: "pg_tblspc/16384", Kind: backup.Symlink, Mode: 0o777, Target: location, ModTime: modTime}},
			dir(0, "pg_tblspc/16385", 0o700),
		)
	}
	main = append(main, dir(0, "global", 0o700), file(0, "global/pg_control", 0o600, 8192), manifest())
	return script{start: start, members: main, fault: noFault}
}

// modTime is when every member was last changed.
var modTime = time.Unix(1_700_000_000, 0)

func dir(tablespace uint32, name string, mode fs.FileMode) member {
	return member{Member: backup.Member{Tablespace: tablespace, Path: name, Kind: backup.Dir, Mode: mode, ModTime: modTime}}
}

func file(tablespace uint32, name string, mode fs.FileMode, size int) member {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%032d", size)))).Read(content) // which does not compress, and never fails
	return member{backup.Member{Tablespace: tablespace, Path: name, Kind: backup.File, Mode: mode, Size: int64(size), ModTime: modTime}, string(content)}
}

func manifest() member {
	return member{
		backup.Member{Path: "backup_manifest", Kind: backup.Manifest, Size: -1, Mode: 0o600, ModTime: modTime},
		"{ \"PostgreSQL-Backup-Manifest-Version\": 2 }\n",
	}
}

// strike sets the fault, unless it makes no difference at that member.
func (s *script) strike(f fault, at int) bool {
	if f == readerFails || f == readerShort || f == readerLong || f == readerMissing {
		if at == len(s.members) || s.members[at].content == "" {
			return false
		}
		if f != readerFails && s.members[at].Size < 0 {
			return false
		}
	}
	s.fault, s.at = f, at
	return true
}

// entries returns what can be read back of the backup.
func (s *script) entries() map[Key]Entry {
	entries := map[Key]Entry{}
	for _, m := range s.members {
		e := Entry{Kind: m.Kind, Mode: m.Mode, Content: m.content}
		if m.Kind == backup.Symlink {
			e.Mode, e.Content = 0, m.Target
		}
		entries[Key{m.Tablespace, path.Clean(m.Path)}] = e
	}
	return entries
}

func (s *script) source() *source { return &source{script: s} }

// source is a backup.Source of a script.
type source struct {
	script *script
	next   int
}

func (s *source) Begin(context.Context) (backup.Start, error) { return s.script.start, nil }

func (s *source) Next(context.Context) (backup.Member, io.Reader, error) {
	k := s.next
	s.next++
	fault := fault(noFault)
	if k == s.script.at {
		fault = s.script.fault
	}
	if fault == nextFails {
		return backup.Member{}, nil, errFault
	}
	if k == len(s.script.members) {
		if fault == contextEnds {
			s.script.cancel()
		}
		return backup.Member{}, nil, io.EOF
	}
	m := s.script.members[k]
	if m.Kind == backup.Dir || m.Kind == backup.Symlink {
		if fault == contextEnds {
			s.script.cancel()
		}
		return m.Member, nil, nil
	}
	if fault == readerMissing {
		return m.Member, nil, nil
	}
	return m.Member, m.reader(&fault, k, s.script.cancel), nil
}

func (s *source) End(context.Context) (wal.Position, error) {
	return wal.Position{LSN: 0x2000120, Timeline: 1}, nil
}

func (s *source) Close() error { return nil }

// reader returns a reader of the member's bytes. Every other one writes by itself.
func (m member) reader(f *fault, k int, cancel context.CancelFunc) io.Reader {
	r := &reader{rest: m.content, at: -1}
	if f != nil {
		switch *f {
		case readerFails:
			r.at, r.strike = len(m.content)/2, func() error { return errFault }
		case readerShort:
			r.rest = r.rest[1:]
		case readerLong:
			r.rest += "x"
		case contextEnds:
			r.at, r.strike = len(m.content)/2, func() error { cancel(); return nil }
		}
	}
	if k%2 == 0 {
		return r
	}
	return writerTo{r}
}

// reader gives pieces of at most 20000 bytes.
type reader struct {
	rest   string
	at     int          // bytes left at which the fault strikes, or less than zero
	strike func() error // happens once
}

func (r *reader) Read(p []byte) (int, error) {
	if len(r.rest) <= r.at {
		r.at = -1
		if err := r.strike(); err != nil {
			return 0, err
		}
	}
	if r.rest == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 20_000)], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// writerTo is a reader that hands over its pieces.
type writerTo struct{ *reader }

func (r writerTo) WriteTo(w io.Writer) (n int64, err error) {
	buf := make([]byte, 20_000)
	for {
		k, err := r.Read(buf)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		k, err = w.Write(buf[:k])
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
}
