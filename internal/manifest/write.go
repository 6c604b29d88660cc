package manifest

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strconv"
	"time"
	"unicode/utf8"
)

// Writer writes a manifest, in the form that servers give it. It is for one goroutine.
//
// Source: src/backend/backup/backup_manifest.c and
// src/bin/pg_combinebackup/write_manifest.c, PostgreSQL 18.
type Writer struct {
	// EncodePaths writes every path in hexadecimal digits, and not only those that are not
	// UTF-8: --manifest-force-encode. It is to be set before the first file.
	EncodePaths bool

	out   *bufio.Writer
	sum   hash.Hash // of all that was written so far
	line  []byte
	files int
}

// NewWriter begins a manifest of version 2, of a cluster.
func NewWriter(w io.Writer, systemID uint64) *Writer {
	m := newWriter(w)
	fmt.Fprintf(m.out, "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": %d,\n\"Files\": [", systemID)
	return m
}

// NewWriterVersion1 begins a manifest of version 1, as servers from 13 to 16 have it. Their
// programs read no other.
func NewWriterVersion1(w io.Writer) *Writer {
	m := newWriter(w)
	_, _ = m.out.WriteString("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [") // an error stays, for Flush
	return m
}

func newWriter(w io.Writer) *Writer {
	m := &Writer{sum: sha256.New()}
	m.out = bufio.NewWriterSize(io.MultiWriter(w, m.sum), 128<<10)
	return m
}

// Add adds a file, without a checksum if that has no bytes.
func (m *Writer) Add(f File, modified time.Time) error {
	p := m.line[:0]
	if m.files > 0 {
		p = append(p, ',')
	}
	m.files++
	if utf8.ValidString(f.Path) && !m.EncodePaths {
		p = append(p, "\n{ \"Path\": "...)
		p = appendJSON(p, f.Path)
	} else {
		p = append(p, "\n{ \"Encoded-Path\": \""...)
		p = hex.AppendEncode(p, []byte(f.Path))
		p = append(p, '"')
	}
	p = append(p, ", \"Size\": "...)
	p = strconv.AppendInt(p, f.Size, 10)
	p = append(p, ", \"Last-Modified\": \""...)
	p = modified.UTC().AppendFormat(p, "2006-01-02 15:04:05")
	p = append(p, " GMT\""...)
	if len(f.Checksum) > 0 {
		p = append(p, ", \"Checksum-Algorithm\": \""...)
		p = append(p, f.Algorithm.String()...)
		p = append(p, "\", \"Checksum\": \""...)
		p = hex.AppendEncode(p, f.Checksum)
		p = append(p, '"')
	}
	m.line = append(p, " }"...)
	_, err := m.out.Write(m.line)
	return err
}

// Finish ends the manifest with the ranges of log that the backup needs.
func (m *Writer) Finish(ranges []Range) error {
	_, _ = m.out.WriteString("\n],\n\"WAL-Ranges\": [\n") // an error stays, for Flush
	for i, r := range ranges {
		if i > 0 {
			_, _ = m.out.WriteString(",\n")
		}
		fmt.Fprintf(m.out, "{ \"Timeline\": %d, \"Start-LSN\": \"%v\", \"End-LSN\": \"%v\" }", r.Timeline, r.Start, r.End)
	}
	_, _ = m.out.WriteString("\n],\n")
	if err := m.out.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(m.out, "\"Manifest-Checksum\": \"%x\"}\n", m.sum.Sum(nil))
	return m.out.Flush()
}

// appendJSON appends a string as PostgreSQL writes it.
//
// Source: escape_json in src/bin/pg_combinebackup/write_manifest.c, PostgreSQL 18.
func appendJSON(p []byte, s string) []byte {
	p = append(p, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '\b':
			p = append(p, `\b`...)
		case '\f':
			p = append(p, `\f`...)
		case '\n':
			p = append(p, `\n`...)
		case '\r':
			p = append(p, `\r`...)
		case '\t':
			p = append(p, `\t`...)
		case '"', '\\':
			p = append(p, '\\', c)
		default:
			if c < ' ' {
				p = fmt.Appendf(p, `\u%04x`, c)
			} else {
				p = append(p, c)
			}
		}
	}
	return append(p, '"')
}
