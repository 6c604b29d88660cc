package backup

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// oneFile is a source of one file.
type oneFile struct {
	Source
	content io.Reader
}

func (f oneFile) Next(context.Context) (Member, io.Reader, error) {
	return Member{Kind: File}, f.content, nil
}

func TestRate(t *testing.T) {
	for _, test := range []struct {
		reason    string
		perSecond int64
		size      int
		least     time.Duration
		most      time.Duration
	}{
		{"less than a portion", 1 << 20, 1 << 10, 0, 0},
		{"two seconds' worth, the first eighth of which is free", 1 << 20, 2 << 20, 1850 * time.Millisecond, 1900 * time.Millisecond},
		{"so slow that a portion is 4 KiB", 32 << 10, 64 << 10, 1850 * time.Millisecond, 1900 * time.Millisecond},
	} {
		t.Run(test.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := WithRate(oneFile{content: bytes.NewReader(make([]byte, test.size))}, test.perSecond)
				_, r, err := src.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				begun := time.Now()
				n, err := io.Copy(io.Discard, struct{ io.Reader }{r})
				if err != nil || n != int64(test.size) {
					t.Fatalf("%d bytes, %v", n, err)
				}
				if took := time.Since(begun); took < test.least || took > test.most {
					t.Errorf("took %v, not %v to %v", took, test.least, test.most)
				}
			})
		})
	}
}

func TestRateEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, r, err := WithRate(oneFile{content: bytes.NewReader(make([]byte, 1<<20))}, 32<<10).Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); err == nil {
			t.Error("reading did not end with its context")
		}
	})
}
