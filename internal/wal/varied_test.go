package wal

import (
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

//go:embed testdata/varied.sql
var variedSQL string

//go:embed testdata/varied_round.sql
var variedRoundSQL string

//go:embed testdata/varied_seldom.sql
var variedSeldomSQL string

// variedLog is the log of a server that has stopped, as the segments of its pg_wal.
type variedLog struct {
	dir         string
	segmentSize int64 // bytes
	names       []string
	start       LSN // of the first
}

// writeVaried lets a server of 15 or later write at least size bytes of log, with records
// of all resource managers, and of all lengths.
func writeVaried(t testing.TB, major int, size int64) *variedLog {
	t.Helper()
	l := &variedLog{segmentSize: MinSegmentSize}
	if size >= 256<<20 {
		l.segmentSize = DefaultSegmentSize
	}
	s := pgtest.Start(t, pgtest.Config{
		Major: major, Checksums: true, WALSegmentSizeMB: int(l.segmentSize >> 20),
		Conf: map[string]string{
			"wal_level":                 "logical",
			"wal_keep_size":             "1TB",
			"track_commit_timestamp":    "on",
			"max_prepared_transactions": "5",
			"autovacuum_naptime":        "1s",
		},
	})
	s.Tablespace(t, "elsewhere")
	s.Exec(t, strings.Split(variedSQL, ";\n")...)
	begin := lsnOf(t, s, "pg_current_wal_lsn()")
	for n := 1; n <= 5 || lsnOf(t, s, "pg_current_wal_lsn()") < begin+LSN(size); n++ {
		load := pgtest.StartLoad(t.Context(), t, s, 2)
		big := int64(1 << 20)
		if n%25 == 2 { // and not so much of the log that it is all there is
			big = 2*l.segmentSize + l.segmentSize/2
		}
		values := strings.NewReplacer(
			":packed", []string{"off", "pglz", "lz4", "zstd"}[n%4],
			":big", fmt.Sprint(big),
			":n", fmt.Sprint(n),
		)
		share(t, s)
		s.Exec(t, strings.Split(values.Replace(variedRoundSQL), ";\n")...)
		if n%5 == 2 {
			s.Exec(t, strings.Split(values.Replace(variedSeldomSQL), ";\n")...)
		}
		if n == 3 {
			s.Set(t, "full_page_writes", "off")
		}
		load.Stop(t)
		switch n {
		case 3:
			s.Stop(t, pgtest.Immediate)
			s.Start(t)
		case 4:
			s.Set(t, "full_page_writes", "on")
		}
	}
	s.Stop(t, pgtest.Fast)
	l.dir = filepath.Join(s.DataDir, "pg_wal")
	paths, err := filepath.Glob(filepath.Join(l.dir, strings.Repeat("[0-9A-F]", 24))) // in order
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no segments: %v", err)
	}
	for _, path := range paths {
		l.names = append(l.names, filepath.Base(path))
	}
	first, err := ParseSegment(l.names[0], l.segmentSize)
	if err != nil {
		t.Fatal(err)
	}
	l.start = first.Start(l.segmentSize)
	return l
}

// share lets two transactions lock the same rows.
func share(t testing.TB, s *pgtest.Server) {
	t.Helper()
	for range 2 {
		conn := s.Connect(t, "")
		defer conn.Close(t.Context())
		lock := conn.Exec(t.Context(), "BEGIN; SELECT count(*) FROM (SELECT * FROM small WHERE id > 400 FOR SHARE) locked")
		if _, err := lock.ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
}

// open returns the segments, one after the other.
func (l *variedLog) open() io.Reader { return &segmentFiles{dir: l.dir, names: l.names} }

// segmentFiles reads files one after the other.
type segmentFiles struct {
	dir   string
	names []string // yet to open
	file  *os.File
}

func (r *segmentFiles) Read(p []byte) (int, error) {
	for {
		if r.file == nil {
			if len(r.names) == 0 {
				return 0, io.EOF
			}
			file, err := os.Open(filepath.Join(r.dir, r.names[0]))
			if err != nil {
				return 0, err
			}
			r.file, r.names = file, r.names[1:]
		}
		n, err := r.file.Read(p)
		if n > 0 || err != io.EOF {
			return n, err
		}
		if err := r.file.Close(); err != nil {
			return 0, err
		}
		r.file = nil
	}
}
