package waldir

import (
	"bytes"
	"errors"
	"io"
	"sync/atomic"

	"basin/internal/seal"
	"basin/internal/wal"
)

// content is what a file holds, decompressed. An error of the file itself, rather
// than of what it holds, comes from Close too, so that the two can be told apart.
type content struct {
	io.Reader
	decoder io.Closer
	file    file
	failure atomic.Pointer[error] // of the file
}

// reader opens a file to read what it holds.
func (d *Directory) reader(e entry) (*content, error) {
	f, err := d.disk.open(e.name)
	if err != nil {
		return nil, err
	}
	c := &content{file: f}
	r, err := seal.NewReader(io.NewSectionReader(c, 0, 1<<62), e.method)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	c.Reader, c.decoder = r, r
	return c, nil
}

// ReadAt reads the file as it is.
func (c *content) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.file.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		c.failure.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Close lets go of the file, and returns its error if it could not be read.
func (c *content) Close() error {
	err := errors.Join(c.decoder.Close(), c.file.Close())
	if failure := c.failure.Load(); failure != nil {
		return *failure
	}
	return err
}

// measured passes on what a reader yields, and notes how much that is. What cannot
// be decompressed ends it.
type measured struct {
	r       io.Reader
	size    int64 // bytes that came
	written int64 // those up to the last that is not zero
	damage  error // why no more came, if that was not the end
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if last := len(bytes.TrimRight(p[:n], "\x00")); last > 0 {
		m.written = m.size + int64(last)
	}
	m.size += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		m.damage, err = err, io.EOF
	}
	return n, err
}

// A record that makes the server go on with the next segment.
//
// Source: RM_XLOG_ID in src/include/access/rmgrlist.h, XLOG_SWITCH in
// src/include/catalog/pg_control.h, XLR_RMGR_INFO_MASK in
// src/include/access/xlogrecord.h, PostgreSQL 10 to 18.
const (
	xlogManager  = 0
	xlogSwitch   = 0x40
	infoOfCaller = 0xF0
)

// lastRecord returns where the last whole valid record ends of the log that r
// yields from start on, and start if there is none. visit, unless nil, is called
// for every record.
func lastRecord(r io.Reader, start wal.LSN, size int64, visit func(wal.Record) error) (wal.LSN, error) {
	records := wal.NewRecordReader(r, start, size)
	end := start
	for {
		record, err := records.Next()
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return end, err
		}
		if visit != nil {
			if err := visit(record); err != nil {
				return end, err
			}
		}
		end = record.End
		if record.ResourceManager == xlogManager && record.Info&infoOfCaller == xlogSwitch {
			// It counts to the end of the segment, whether that has come or not. A file
			// holds what is before, and the server sends the rest again.
			end = record.LSN
		}
	}
}
