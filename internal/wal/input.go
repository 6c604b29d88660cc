package wal

import "io"

// inputSize is how many bytes are read at once: a few of the largest pages.
const inputSize = 4 * maxPageSize

// maxEmptyReads is how often in a row an input may yield neither bytes nor an error.
const maxEmptyReads = 100

// input is a part of the log, in pieces of any length up to a page.
type input struct {
	r      io.Reader
	at     LSN    // of the next byte
	buffer []byte // made with the first read
	lo, hi int    // of what is in it and not yet taken
	err    error  // why no more can be read
}

// have returns how many bytes can be taken without reading.
func (in *input) have() int { return in.hi - in.lo }

// need says whether there are n more bytes, at most maxPageSize; they are then in
// peek. What was taken before is no longer valid.
func (in *input) need(n int) bool { return in.hi-in.lo >= n || in.fill(n) }

func (in *input) fill(n int) bool {
	if in.buffer == nil {
		in.buffer = make([]byte, inputSize)
	}
	in.hi = copy(in.buffer, in.buffer[in.lo:in.hi])
	in.lo = 0
	for empty := 0; in.hi < n && in.err == nil; {
		read, err := in.r.Read(in.buffer[in.hi:])
		in.hi += read
		in.err = err
		if empty++; read > 0 {
			empty = 0
		}
		if empty == maxEmptyReads && err == nil {
			in.err = io.ErrNoProgress
		}
	}
	return in.hi >= n
}

// peek returns the next n bytes, which need has promised.
func (in *input) peek(n int) []byte { return in.buffer[in.lo : in.lo+n] }

// advance takes n bytes, which need has promised.
func (in *input) advance(n int) {
	in.lo += n
	in.at += LSN(n)
}

// retreat gives back the n bytes that were taken last, since which nothing was needed.
func (in *input) retreat(n int) {
	in.lo -= n
	in.at -= LSN(n)
}

// discardTo takes all bytes before l, and says whether there were as many.
func (in *input) discardTo(l LSN) bool {
	for in.at < l {
		if !in.need(1) {
			return false
		}
		in.advance(int(min(l-in.at, LSN(in.have()))))
	}
	return true
}
