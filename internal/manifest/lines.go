package manifest

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"io"
	"strconv"
	"strings"
)

// lineBuffer is how much of a manifest is held to find its lines, in bytes. A longer line
// is none of those that are looked for.
const lineBuffer = 64 << 10

// lines reads the files of a manifest as long as each is on a line of the form that
// servers write, which is much faster than to take JSON apart. From the first other
// line on, and the last file is one, all is left to package json.
func (p *parser) lines() error {
	if p.noLines {
		return nil
	}
	r := bufio.NewReaderSize(io.MultiReader(p.json.Buffered(), p.src), lineBuffer)
	p.offset = p.begin + p.json.InputOffset()
	if first, _ := r.Peek(1); string(first) == "\n" {
		_, _ = r.Discard(1)
		p.offset++
	}
	for {
		line, ok := nextLine(r)
		if !ok {
			break
		}
		f, ok := parseLine(line)
		if !ok {
			break
		}
		if err := p.each(f, p.offset); err != nil {
			return err
		}
		_, _ = r.Discard(len(line) + 1)
		p.offset += int64(len(line)) + 1
	}
	// Package json is to know that it is in the array, where an object follows.
	const before = `{"Files":[`
	p.parse(io.MultiReader(strings.NewReader(before), r))
	p.begin = p.offset - int64(len(before))
	for range 3 {
		if _, err := p.next(); err != nil {
			return err
		}
	}
	return nil
}

// nextLine returns the line that r is at, without its end. ok says that it is there as a
// whole, and that another object follows: a comma before the array's end is for package
// json to complain about.
func nextLine(r *bufio.Reader) (line []byte, ok bool) {
	for {
		held, _ := r.Peek(r.Buffered())
		end := bytes.IndexByte(held, '\n')
		if end >= 0 && end+1 < len(held) {
			return held[:end], held[end+1] == '{'
		}
		if _, err := r.Peek(len(held) + 1); err != nil {
			return nil, false
		}
	}
}

// parseLine returns the file that a line is about, if it has the one form that is looked
// for, and nothing in it needs a second thought.
//
// Source: AddFileToBackupManifest in src/backend/backup/backup_manifest.c, PostgreSQL 18.
func parseLine(line []byte) (f File, ok bool) {
	path, rest := quoted(line, `{ "Path": "`)
	size, rest := until(rest, `", "Size": `, ',')
	_, rest = quoted(rest, `, "Last-Modified": "`)
	if path == nil || rest == nil || len(size) == 0 || size[0] == '0' && len(size) > 1 {
		return f, false
	}
	bytesOf, err := strconv.ParseUint(string(size), 10, 63)
	if err != nil {
		return f, false
	}
	f = File{Path: string(path), Size: int64(bytesOf)}
	if string(rest) == `" },` {
		return f, true
	}
	algorithm, rest := quoted(rest, `", "Checksum-Algorithm": "`)
	sum, rest := quoted(rest, `", "Checksum": "`)
	if string(rest) != `" },` {
		return f, false
	}
	if f.Algorithm, err = ParseAlgorithm(string(algorithm)); err != nil {
		return f, false
	}
	f.Checksum = make([]byte, hex.DecodedLen(len(sum)))
	_, err = hex.Decode(f.Checksum, sum)
	return f, err == nil
}

// quoted returns the text that follows before in line up to a quote, and the rest from
// that on; nil if before does not come first, or the text has what JSON writes otherwise.
func quoted(line []byte, before string) (text, rest []byte) {
	text, rest = until(line, before, '"')
	for _, b := range text {
		if b < ' ' || b > '~' || b == '\\' {
			return nil, nil
		}
	}
	return text, rest
}

// until returns what follows before in line up to a byte, and the rest from that on; nil
// if before does not come first.
func until(line []byte, before string, end byte) (text, rest []byte) {
	rest, ok := bytes.CutPrefix(line, []byte(before))
	at := bytes.IndexByte(rest, end)
	if !ok || at < 0 {
		return nil, nil
	}
	return rest[:at], rest[at:]
}
