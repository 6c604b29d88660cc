package inplace

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"basin/internal/localfs"
	"basin/internal/wal"
)

// LogFile is a file of the log in a data directory.
type LogFile struct {
	Name     string
	Archived bool // the server has noted so
}

// Log returns the files of the log that the directory has, segments that are not whole yet and histories
// among them, sorted. A segment that the server has set aside for later under a name to come is
// none.
func (d *Directory) Log() ([]LogFile, error) {
	dir := filepath.Join(d.Path, "pg_wal")
	names, err := readNames(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, localfs.Errorf(err, dir, `could not read directory "%s"`, dir)
	}
	slices.Sort(names)
	var found []LogFile
	for _, name := range names {
		isLog, err := d.isLog(name)
		if err != nil {
			return nil, err
		}
		if !isLog {
			continue
		}
		_, err = os.Lstat(filepath.Join(dir, "archive_status", name+".done"))
		found = append(found, LogFile{Name: name, Archived: err == nil})
	}
	return found, nil
}

// isLog says whether a name in pg_wal is that of a file of the log which is what its name says.
func (d *Directory) isLog(name string) (bool, error) {
	path := filepath.Join(d.Path, "pg_wal", name)
	digits, rest, _ := strings.Cut(name, ".")
	if rest == "history" && len(digits) == 8 {
		return true, nil
	}
	if len(digits) != 24 || rest != "" && rest != "partial" {
		return false, nil
	}
	f, info, err := localfs.OpenRegularHere(path)
	if errors.Is(err, localfs.ErrNotRegular) {
		return false, nil
	}
	if err != nil {
		return false, localfs.Errorf(err, path, `could not open file "%s"`, path)
	}
	defer f.Close()
	segment, err := wal.ParseSegment(digits, info.Size())
	if err != nil {
		return false, nil
	}
	page := make([]byte, 8192) // XLOG_BLCKSZ of nearly all servers
	n, err := f.ReadAt(page, 0)
	if err != nil && n == 0 {
		return false, localfs.Errorf(err, path, `could not read file "%s"`, path)
	}
	rules := wal.PageRules{SystemID: d.SystemID, SegmentSize: info.Size(), Timeline: segment.Timeline}
	return wal.NewPageChecker(rules, segment.Start(info.Size())).Check(page[:n]) == nil, nil
}

// ReadLog returns the content of a file of the log in the data directory.
func (d *Directory) ReadLog(name string) ([]byte, error) {
	path := filepath.Join(d.Path, "pg_wal", name)
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, localfs.Errorf(err, path, `could not read file "%s"`, path)
	}
	return content, nil
}

// Summary returns what is in a segment that the directory has, as far as that is whole.
func (d *Directory) Summary(name string) (wal.Summary, error) {
	content, err := d.ReadLog(name)
	if err != nil {
		return wal.Summary{}, err
	}
	size := int64(len(content))
	digits, _, _ := strings.Cut(name, ".")
	segment, err := wal.ParseSegment(digits, size)
	if err != nil {
		return wal.Summary{}, err
	}
	return wal.SummarizePart(bytes.NewReader(content), segment, wal.PageRules{SystemID: d.SystemID, SegmentSize: size, Timeline: segment.Timeline})
}
