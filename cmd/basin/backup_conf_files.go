package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"basin/internal/checkup"
	"basin/internal/connect"
	"basin/internal/live"
	"basin/internal/localfs"
	"basin/internal/pgconf"
)

// serverFiles are the files of a server's host: as this host has them, if that is the same, or else as the server
// gives them to who may read them. It is a pgconf.Files.
type serverFiles struct {
	ctx     context.Context
	session live.Session
	isHere  bool
	times   map[string]time.Time // is told when each file was written, if that is known
	lost    error                // why the session is of no use any more
}

// errMayNot is a role that may not read files by the server. It is not tried: each try would be an error in the server's log.
var errMayNot = errors.New("the role may not read files outside of the data directory")

// mayRead asks whether the role may read files by the server.
func (f *serverFiles) mayRead(version int) error {
	if version < 110000 {
		return errMayNot
	}
	rows, err := f.query(checkup.MayReadFiles)
	switch {
	case err != nil:
		return err
	case len(rows) != 1 || len(rows[0]) != 1 || string(rows[0][0]) != "t":
		return errMayNot
	}
	return nil
}

// Read returns the content of a file.
func (f *serverFiles) Read(name string) ([]byte, error) {
	if f.isHere {
		content, err := f.readHere(name)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return content, err
		}
	}
	f.stat(name)
	var content []byte
	for {
		part, err := f.readPart(name, len(content))
		if err != nil {
			return nil, err
		}
		if content = append(content, part...); len(part) < partSize || len(content) > pgconf.MaxFile {
			return content, nil
		}
	}
}

func (f *serverFiles) readHere(name string) ([]byte, error) {
	file, info, err := localfs.OpenRegular(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	f.times[name] = info.ModTime()
	return io.ReadAll(io.LimitReader(file, pgconf.MaxFile+1))
}

// partSize is how many bytes are asked for at once.
const partSize = 64 << 10

// readPart returns bytes of a file from an offset on.
func (f *serverFiles) readPart(name string, at int) ([]byte, error) {
	rows, err := f.query(fmt.Sprintf("SELECT pg_catalog.encode(pg_catalog.pg_read_binary_file(%s, %d, %d, true), 'hex')", literal(name), at, partSize))
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return nil, errors.New("the server does not answer with one row")
	}
	if rows[0][0] == nil {
		return nil, fs.ErrNotExist
	}
	return hex.DecodeString(string(rows[0][0]))
}

// stat learns when a file was written, if the role may.
func (f *serverFiles) stat(name string) {
	rows, err := f.query("SELECT pg_catalog.date_part('epoch', modification) FROM pg_catalog.pg_stat_file(" + literal(name) + ", true)")
	if err != nil || len(rows) != 1 || len(rows[0]) != 1 {
		return
	}
	if seconds, err := strconv.ParseFloat(string(rows[0][0]), 64); err == nil {
		f.times[name] = time.Unix(int64(seconds), 0)
	}
}

// List returns the names in a directory.
func (f *serverFiles) List(dir string) (names []string, err error) {
	if f.isHere {
		entries, err := os.ReadDir(filepath.FromSlash(dir))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			for _, e := range entries {
				if info, err := os.Stat(filepath.Join(dir, e.Name())); err != nil || !info.IsDir() {
					names = append(names, e.Name())
				}
			}
			return names, err
		}
	}
	rows, err := f.query("SELECT pg_catalog.pg_ls_dir(" + literal(dir) + ", false, false)")
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if len(row) == 1 {
			names = append(names, string(row[0]))
		}
	}
	return names, nil
}

// query runs a statement. Once the session has ended, or the time is over, none is run any more.
func (f *serverFiles) query(sql string) ([][][]byte, error) {
	if f.lost == nil {
		f.lost = f.ctx.Err()
	}
	if f.lost != nil {
		return nil, f.lost
	}
	rows, err := f.session.Query(f.ctx, sql)
	if err != nil && !errors.As(err, new(*connect.ServerError)) {
		f.lost = err
	}
	return rows, err
}

// literal returns a text as a literal of SQL, whatever standard_conforming_strings is.
func literal(text string) string {
	return " E'" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(text) + "'"
}
