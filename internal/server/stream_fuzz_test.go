package server

import (
	"bytes"
	"testing"
	"time"

	"basin/internal/protocol"
)

// FuzzStreamClient has a client say anything.
func FuzzStreamClient(f *testing.F) {
	f.Add([]byte("c"))
	f.Add(append([]byte("d"), protocol.Status{Write: 1, Reply: true}.Append(nil, time.Time{})...))
	f.Add([]byte("dh\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("dz"))
	f.Add([]byte("X"))
	f.Fuzz(func(t *testing.T, m []byte) {
		if len(m) == 0 {
			return
		}
		h := parseClient(m[0], m[1:])
		switch {
		case h.err != nil && h.done:
			t.Error("done, and an error")
		case h.done != (m[0] == 'c'):
			t.Errorf("done %t", h.done)
		case m[0] != 'd' && h.status != nil:
			t.Error("a status from no CopyData")
		case h.err == nil && h.status != nil:
			again := h.status.Append(nil, time.Time{})
			if !bytes.Equal(again[:25], m[1:26]) || (again[33] != 0) != (m[34] != 0) {
				t.Errorf("read %+v from %q", h.status, m)
			}
		}
		if h.err != nil && h.err.Error() == "" {
			t.Error("an error without words")
		}
	})
}
