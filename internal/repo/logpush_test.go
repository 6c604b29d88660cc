package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"basin/internal/object"
)

// measured is a store that takes files, and a file. They note how much is in memory, in bytes, when an object is made, and
// when the last bytes are read.
type measured struct {
	object.Store
	file io.ReaderAt
	size int64

	mu   sync.Mutex
	held []uint64
}

func (m *measured) CreateFrom(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	m.measure()
	return object.CreateFrom(ctx, m.Store, name, content, size)
}

func (m *measured) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) == m.size {
		m.measure()
	}
	return m.file.ReadAt(p, off)
}

func (m *measured) measure() {
	held := heldMemory()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = append(m.held, held)
}

// heldMemory returns how many bytes are in use.
func heldMemory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// largeName and largeSize are of a segment that is not in memory as a whole.
const (
	largeName = "000000010000000000000005"
	largeSize = 2 * WholeLog
)

// fileOf returns a file that has a content.
func fileOf(t *testing.T, content []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), largeName)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestLargeSegmentIsNotInMemory does not run beside others, whose memory would be counted.
func TestLargeSegmentIsNotInMemory(t *testing.T) {
	file := fileOf(t, randomLog(5, largeSize))
	for _, encrypted := range []bool{false, true} {
		c := newCluster(t, encrypted)
		m := &measured{Store: c.repo.store, file: file, size: largeSize}
		c = reopen(t, c, m)
		before := heldMemory()
		if err := c.PushLogFile(t.Context(), largeName, m, largeSize, 0); err != nil {
			t.Fatal(err)
		}
		if len(m.held) < 2 || slices.Max(m.held) > before+largeSize/4 {
			t.Errorf("before it are %d bytes in memory, meanwhile %d", before, m.held)
		}
	}
}

// TestPushLogFile pushes a segment that is read as it is sealed.
func TestPushLogFile(t *testing.T) {
	t.Parallel()
	content := randomLog(5, largeSize)
	file := fileOf(t, content)
	changed := func(at int) io.ReaderAt {
		other := bytes.Clone(content)
		other[at]++
		return bytes.NewReader(other)
	}
	errOther := func(err error) bool { return errors.As(err, new(*OtherLogError)) && errors.Is(err, fs.ErrExist) }
	for _, encrypted := range []bool{false, true} {
		c := newCluster(t, encrypted)
		push := func(file io.ReaderAt) error { return c.PushLogFile(t.Context(), largeName, file, largeSize, 0) }
		if err := push(changed(largeSize - BlockSize)); !errors.As(err, new(*NotLogError)) {
			t.Errorf("its last page is none: error %v", err)
		}
		if err := push(bytes.NewReader(content[:largeSize-1])); !errors.Is(err, io.EOF) {
			t.Errorf("the file ends early: error %v", err)
		}
		if _, err := c.LogFacts(t.Context(), largeName); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is there, error %v", err)
		}
		part := PartName(largeName, 0, 3*BlockSize)
		if err := c.PushLog(t.Context(), part, content[:3*BlockSize], largeSize); err != nil {
			t.Fatal(err)
		}
		if err := push(changed(BlockSize + 100)); !errOther(err) {
			t.Errorf("it begins as no part of it does: error %v", err)
		}
		filled := append(bytes.Clone(content[:3*BlockSize]), make([]byte, largeSize-3*BlockSize)...)
		if err := push(bytes.NewReader(filled)); err != nil {
			t.Errorf("it is that part and zeros: error %v", err)
		}
		if _, err := c.LogFacts(t.Context(), largeName); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("that is taken for the segment, error %v", err)
		}
		for _, reason := range []string{"at first", "again"} {
			if err := push(file); err != nil {
				t.Errorf("%s: %v", reason, err)
			}
		}
		if err := c.PushLog(t.Context(), largeName, content, 0); err != nil {
			t.Errorf("again, from memory: %v", err)
		}
		if err := push(changed(largeSize - 1)); !errOther(err) {
			t.Errorf("another content: %v", err)
		}
		if got, err := c.Log(t.Context(), largeName); err != nil || !bytes.Equal(got, content) {
			t.Errorf("it comes back as %d bytes, error %v", len(got), err)
		}
	}
}

// TestPushWithoutTemporaryFile has no room for what becomes of a segment.
func TestPushWithoutTemporaryFile(t *testing.T) {
	t.Parallel()
	content := randomLog(5, largeSize)
	c := newCluster(t, false)
	full := fileOf(t, nil) // it cannot be written to
	err := c.pushLog(t.Context(), largeName, logContent{file: bytes.NewReader(content), size: largeSize}, 0, &logObject{file: full})
	if !errors.As(err, new(*temporaryError)) {
		t.Errorf("a file without room: error %v", err)
	}
	c.repo.o.TempDir = filepath.Join(t.TempDir(), "nowhere")
	if err := c.PushLogFile(t.Context(), largeName, bytes.NewReader(content), largeSize, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Log(t.Context(), largeName); err != nil || !bytes.Equal(got, content) {
		t.Errorf("it comes back as %d bytes, error %v", len(got), err)
	}
}
