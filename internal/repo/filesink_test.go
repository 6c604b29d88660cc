package repo

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"basin/internal/backup"
)

// TestFileOfAnotherSize puts files that do not have as many bytes as was said of them.
func TestFileOfAnotherSize(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("page"), 3*BlockSize/4)
	lost := errors.New("the connection is lost")
	for name, test := range map[string]struct {
		size int64
		r    io.Reader
		want string // in the error; empty for none
	}{
		"as said":          {int64(len(content)), bytes.NewReader(content), ""},
		"byte by byte":     {int64(len(content)), iotest.OneByteReader(bytes.NewReader(content)), ""},
		"end with a byte":  {int64(len(content)), iotest.DataErrReader(bytes.NewReader(content)), ""},
		"part of a page":   {int64(len(content)) - 100, bytes.NewReader(content[100:]), ""},
		"empty":            {0, bytes.NewReader(nil), ""},
		"nothing":          {0, nil, ""},
		"less":             {int64(len(content)) + 1, bytes.NewReader(content), "was to have 24577 bytes, but has 24576"},
		"broken off":       {int64(len(content)) + 1, io.MultiReader(bytes.NewReader(content), iotest.ErrReader(io.ErrUnexpectedEOF)), "but has 24576"},
		"broken off later": {int64(len(content)), io.MultiReader(bytes.NewReader(content), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF.Error()},
		"more":             {int64(len(content)) - 1, bytes.NewReader(content), "was to have 24575 bytes, but has more"},
		"more, a byte":     {int64(len(content)) - 1, iotest.OneByteReader(bytes.NewReader(content)), "but has more"},
		"some, not none":   {0, bytes.NewReader(content), "was to have 0 bytes, but has more"},
		"none, not some":   {1, nil, "has no bytes, but is to have 1"},
		"lost":             {int64(len(content)), io.MultiReader(bytes.NewReader(content[:5]), iotest.ErrReader(lost)), lost.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, false)
			sink := c.NewSink(SinkOptions{})
			defer sink.Close()
			if err := sink.Begin(t.Context(), newTreeSource(nil, rng(1)).start); err != nil {
				t.Fatal(err)
			}
			err := sink.Put(t.Context(), backup.Member{Path: "base/5/1", Kind: backup.File, Size: test.size, Mode: 0o600}, test.r)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v; want %q", err, test.want)
			}
		})
	}
}
