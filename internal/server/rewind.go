package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"strconv"

	"basin/internal/backup"
	"basin/internal/pgdata"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// FileSource is a Cluster of which pg_rewind can take files while it runs.
type FileSource interface {
	// Files returns the files for one client, once it is sure whose they are.
	Files(ctx context.Context) (Files, error)
}

// Files are those of a cluster's data directory, and what of the cluster is to be known to
// make use of them. Paths have slashes.
type Files interface {
	// Open opens a regular file. One that is not there is fs.ErrNotExist.
	Open(path string) (File, error)
	// All are all files and directories, in no order; those that come and go meanwhile may
	// be missing. An error is the last.
	All(ctx context.Context) iter.Seq2[FileEntry, error]
	// InsertLSN is the end of the log that is written to now, whether flushed or not. If the
	// cluster was restarted since Files, it is an error.
	InsertLSN(ctx context.Context) (wal.LSN, error)
	// FullPageWrites says whether the log has pages as a whole after each checkpoint.
	FullPageWrites(ctx context.Context) (bool, error)
}

// File is a file that is open.
type File interface {
	io.ReaderAt
	io.Closer
}

// FileEntry is a file or a directory.
type FileEntry struct {
	Path        string
	Size        int64 // in bytes
	IsDirectory bool
	LinkTarget  string // of a tablespace, as pg_tablespace_location returns it; else empty
}

// Limits of what one statement may ask for.
//
// Source: MAX_CHUNK_SIZE and MAX_CHUNKS_PER_QUERY in src/bin/pg_rewind/libpq_source.c,
// PostgreSQL 14 to 18.
const (
	maxChunkSize = 1 << 20 // bytes
	maxChunks    = 10_000  // pg_rewind asks for 1000
)

// listFiles is the statement that pg_rewind lists files with.
//
// Source: libpq_traverse_files in src/bin/pg_rewind/libpq_source.c, PostgreSQL 14 to 18.
const listFiles = "WITH RECURSIVE files (path, filename, size, isdir) AS (" +
	" SELECT '' AS path, filename, size, isdir FROM" +
	" (SELECT pg_ls_dir('.', true, false) AS filename) AS fn," +
	" pg_stat_file(fn.filename, true) AS this" +
	" UNION ALL" +
	" SELECT parent.path || parent.filename || '/' AS path, fn, this.size, this.isdir" +
	" FROM files AS parent," +
	" pg_ls_dir(parent.path || parent.filename, true, false) AS fn," +
	" pg_stat_file(parent.path || parent.filename || '/' || fn, true) AS this" +
	" WHERE parent.isdir = 't' )" +
	" SELECT path || filename, size, isdir, pg_tablespace_location(pg_tablespace.oid) AS link_target" +
	" FROM files" +
	" LEFT OUTER JOIN pg_tablespace ON files.path = 'pg_tblspc/' AND oid::text = files.filename"

// fetchChunks is the statement that pg_rewind gets pieces of files with.
//
// Source: init_libpq_conn in src/bin/pg_rewind/libpq_source.c, PostgreSQL 14 to 18.
const fetchChunks = "SELECT path, begin, pg_read_binary_file(path, begin, len, true) AS chunk" +
	" FROM unnest ($1::text[], $2::int8[], $3::int4[]) as x(path, begin, len)"

// rewinds are the statements of pg_rewind that checks does not have, with one space between
// words. There are no others.
//
// Source: src/bin/pg_rewind/libpq_source.c, PostgreSQL 14 to 18.
var rewinds = map[string]statement{
	"SHOW full_page_writes": one(column("full_page_writes", typeText), "SHOW", func(ctx context.Context, s *session) (any, error) {
		files, err := s.openFiles(ctx)
		if err != nil {
			return nil, err
		}
		on, err := files.FullPageWrites(ctx)
		return onOff(on), err
	}),
	"SELECT pg_current_wal_insert_lsn()": one(column("pg_current_wal_insert_lsn", typeLSN), "SELECT", func(ctx context.Context, s *session) (any, error) {
		files, err := s.openFiles(ctx)
		if err != nil {
			return nil, err
		}
		return files.InsertLSN(ctx)
	}),
	"SELECT pg_read_binary_file($1)": {
		columns: []protocol.Column{column("pg_read_binary_file", typeBytea)}, parameters: []uint32{typeText}, tag: "SELECT",
		rows: (*session).wholeFile,
	},
	listFiles: {
		columns: []protocol.Column{column("?column?", typeText), column("size", typeInt8), column("isdir", typeBool), column("link_target", typeText)},
		tag:     "SELECT", rows: (*session).listFiles,
	},
	fetchChunks: {
		columns:    []protocol.Column{column("path", typeText), column("begin", typeInt8), column("chunk", typeBytea)},
		parameters: []uint32{typeTextArray, typeInt8Array, typeInt4Array}, tag: "SELECT", rows: (*session).chunks,
	},
}

// openFiles returns where files come from, for as long as the session lasts. Statements that
// need it are answered only if there is one.
func (s *session) openFiles(ctx context.Context) (Files, error) {
	if s.files == nil {
		var err error
		if s.files, err = s.server.o.Cluster.(FileSource).Files(ctx); err != nil {
			return nil, err
		}
	}
	return s.files, nil
}

// wholeFile answers pg_read_binary_file(path). The control file may be written at the very
// moment: then it is read again.
//
// Source: pg_read_binary_file_all in src/backend/utils/adt/genfile.c, PostgreSQL 18.
func (s *session) wholeFile(ctx context.Context, parameters [][]byte, emit emitter) error {
	path := string(parameters[0])
	for attempt := 0; ; attempt++ {
		content, err := s.readFile(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			return &Error{Code: codeUndefinedFile, Message: fmt.Sprintf("could not open file \"%s\" for reading: No such file or directory", path)}
		}
		if err != nil {
			return err
		}
		if _, err := pgdata.ParseControl(content); path == "global/pg_control" && err != nil && attempt < 10 {
			continue
		}
		return emit(content)
	}
}

// readFile reads a small file.
func (s *session) readFile(ctx context.Context, path string) ([]byte, error) {
	files, err := s.openFiles(ctx)
	if err != nil {
		return nil, err
	}
	f, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.NewSectionReader(f, 0, maxChunkSize+1))
	if err != nil {
		return nil, readError(path, err)
	}
	if len(content) > maxChunkSize {
		return nil, &Error{Code: codeProgramLimit, Message: "file length too large",
			Detail: fmt.Sprintf("Of file \"%s\" at most %d bytes can be read at once.", path, maxChunkSize)}
	}
	return content, s.paced(ctx, len(content))
}

// paced waits until so many bytes may go.
func (s *session) paced(ctx context.Context, n int) error {
	if s.server.pace == nil || n == 0 {
		return ctx.Err()
	}
	return backup.Wait(ctx, s.server.pace, n)
}

// readError is the error of a file that cannot be read.
func readError(path string, err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = p.Err // the path here is nothing that a client knows
	}
	return &Error{Code: codeIO, Message: fmt.Sprintf("could not read file \"%s\": %v", path, err)}
}

// listFiles answers with all files.
func (s *session) listFiles(ctx context.Context, _ [][]byte, emit emitter) error {
	files, err := s.openFiles(ctx)
	if err != nil {
		return err
	}
	for f, err := range files.All(ctx) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		var target any
		if f.LinkTarget != "" {
			target = f.LinkTarget
		}
		if err := emit(f.Path, f.Size, f.IsDirectory, target); err != nil {
			return err
		}
	}
	return nil
}

// chunk is a piece of a file.
type chunk struct {
	path   string
	begin  int64 // in bytes
	length int   // in bytes
}

// chunks answers with pieces of files. What of a piece is behind the end of the file is not
// there; a file that is gone is NULL.
//
// Source: pg_read_binary_file_off_len_missing in src/backend/utils/adt/genfile.c, PostgreSQL 18.
func (s *session) chunks(ctx context.Context, parameters [][]byte, emit emitter) error {
	wanted, err := parseChunks(parameters)
	if err != nil {
		return err
	}
	files, err := s.openFiles(ctx)
	if err != nil {
		return err
	}
	buffer := make([]byte, maxChunkSize)
	var file File // the one that is open, and what it is called
	var open string
	defer func() {
		if file != nil {
			_ = file.Close() // it was only read
		}
	}()
	for _, c := range wanted {
		if file == nil || c.path != open {
			if file != nil {
				_ = file.Close() // it was only read
			}
			file, err = files.Open(c.path)
			if errors.Is(err, fs.ErrNotExist) {
				file = nil
				if err := emit(c.path, c.begin, nil); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				file = nil
				return err
			}
			open = c.path
		}
		n, err := file.ReadAt(buffer[:c.length], c.begin)
		if err != nil && !errors.Is(err, io.EOF) {
			return readError(c.path, err)
		}
		if err := s.paced(ctx, n); err != nil {
			return err
		}
		if err := emit(c.path, c.begin, buffer[:n]); err != nil {
			return err
		}
	}
	return nil
}

// parseChunks reads the three arrays that say which pieces are wanted.
func parseChunks(parameters [][]byte) ([]chunk, error) {
	var arrays [3][]string
	for i := range arrays {
		var err error
		if arrays[i], err = parseArray(string(parameters[i])); err != nil {
			return nil, err
		}
	}
	paths, begins, lengths := arrays[0], arrays[1], arrays[2]
	if len(paths) != len(begins) || len(paths) != len(lengths) {
		return nil, &Error{Code: codeInvalidParameter, Message: "the arrays of paths, offsets and lengths are not of one length"}
	}
	all := make([]chunk, len(paths))
	for i, path := range paths {
		begin, err := strconv.ParseInt(begins[i], 10, 64)
		if err != nil || begin < 0 || begin > math.MaxInt64-maxChunkSize {
			return nil, &Error{Code: codeInvalidParameter, Message: fmt.Sprintf("invalid offset \"%s\" in file \"%s\"", begins[i], path)}
		}
		length, err := strconv.ParseInt(lengths[i], 10, 32)
		if err != nil || length < 0 {
			return nil, &Error{Code: codeInvalidParameter, Message: fmt.Sprintf("invalid length \"%s\" of a piece of file \"%s\"", lengths[i], path)}
		}
		if length > maxChunkSize {
			return nil, &Error{Code: codeProgramLimit, Message: "requested length too large",
				Detail: fmt.Sprintf("Of file \"%s\" at most %d bytes can be read at once.", path, maxChunkSize)}
		}
		all[i] = chunk{path: path, begin: begin, length: int(length)}
	}
	return all, nil
}
