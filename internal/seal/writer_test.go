package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"runtime"
	"testing"

	"go.uber.org/goleak"
)

const mib = 1 << 20

var errFull = errors.New("no space left on device")

func mustSpec(t testing.TB, option string) Spec {
	t.Helper()
	spec, err := ParseRequest(option).Spec()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// compress writes data in pieces of the given size, or as one with zero.
func compress(t testing.TB, spec Spec, data []byte, piece int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, spec)
	if err != nil {
		t.Fatal(err)
	}
	scratch := make([]byte, piece)
	for len(data) > 0 {
		part := data
		if piece > 0 {
			part = scratch[:copy(scratch, data)]
		}
		if n, err := w.Write(part); n != len(part) || err != nil {
			t.Fatalf("wrote %d of %d: %v", n, len(part), err)
		}
		data = data[len(part):]
		clear(scratch) // what Write keeps, it has copied
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decompress(src io.Reader, a Algorithm) ([]byte, error) {
	r, err := NewReader(src, a)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

// tools are the C programs that read what is written here.
var tools = map[Algorithm][]string{
	Gzip: {"gzip", "-dc"},
	LZ4:  {"lz4", "-dc"},
	Zstd: {"zstd", "-dc"},
}

// tool runs a C program from in to what it writes.
func tool(t testing.TB, in []byte, command ...string) []byte {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("the tests need the program %s on PATH: %v", command[0], err)
	}
	if err != nil {
		t.Fatalf("%v: %v: %s", command, err, &stderr)
	}
	return out
}

func noise(n int) []byte {
	out := make([]byte, n)
	x := uint64(0x9e3779b97f4a7c15)
	for i := range out {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out[i] = byte(x)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	random := noise(zstdBlock + 1)
	for option, block := range map[string]int{
		"none":                lz4Block,
		"gzip":                gzipBlock,
		"lz4":                 lz4Block,
		"zstd":                zstdBlock,
		"zstd:workers=0":      lz4Block,
		"zstd:workers=1":      lz4Block,
		"zstd:workers=2":      zstdBlock,
		"zstd:workers=7":      lz4Block,
		"zstd:long":           zstdLongBlock,
		"zstd:long,workers=2": zstdLongBlock,
	} {
		t.Run(option, func(t *testing.T) {
			spec := mustSpec(t, option)
			for _, length := range []int{0, 1, 12, 13, 511, 512, block - 1, block, block + 1} {
				checkRoundTrip(t, spec, random[:length], 0)
				checkRoundTrip(t, spec, heap(length), 0)
			}
			checkRoundTrip(t, spec, heap(9*mib), 70_001)
			checkRoundTrip(t, spec, make([]byte, 2*block), 0)
		})
	}
}

func TestRoundTripLevels(t *testing.T) {
	pages := heap(lz4Block + 70_000)
	for a, levels := range map[Algorithm][]int{
		Gzip: {-1, 1, 2, 3, 4, 5, 6, 7, 8, 9},
		LZ4:  {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
		Zstd: {-131072, -1, 0, 1, 2, 3, 5, 6, 7, 9, 10, 22},
	} {
		for _, level := range levels {
			t.Run(fmt.Sprintf("%v:%d", a, level), func(t *testing.T) {
				checkRoundTrip(t, Spec{Algorithm: a, Level: level, LevelSet: true}, pages, 100_000)
			})
		}
	}
}

func checkRoundTrip(t *testing.T, spec Spec, data []byte, piece int) {
	t.Helper()
	compressed := compress(t, spec, data, piece)
	got, err := decompress(bytes.NewReader(compressed), spec.Algorithm)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes come back as %d, equal %t: %v", len(data), len(got), bytes.Equal(got, data), err)
	}
	if command, ok := tools[spec.Algorithm]; ok {
		if !bytes.Equal(tool(t, compressed, command...), data) {
			t.Fatalf("%s reads other bytes of %d", command[0], len(data))
		}
	}
	if limit := len(data) + len(data)/1000 + 64; len(compressed) > limit {
		t.Errorf("%d bytes became %d", len(data), len(compressed))
	}
}

// A server may have many more processors than a test machine.
func TestManyProcessors(t *testing.T) {
	processors := runtime.GOMAXPROCS(96)
	defer runtime.GOMAXPROCS(processors)
	for _, option := range []string{"gzip", "lz4", "lz4:3", "zstd", "zstd:6"} {
		checkRoundTrip(t, mustSpec(t, option), heap(5*mib), 0)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	for processors := 1; processors <= 1024; processors *= 2 {
		for name, want := range map[string]struct {
			f       format
			workers int // at least, with as many processors
			limit   int
		}{
			"gzip":    {gzipFormat(6), 16, memoryLimit},
			"lz4":     {lz4Format(0), 32, memoryLimit},
			"lz4:9":   {lz4Format(9), 32, memoryLimit},
			"zstd:1":  {zstdFormat(1, processors, memoryLimit), 16, memoryLimit},
			"zstd:3":  {zstdFormat(3, processors, memoryLimit), 16, memoryLimit},
			"zstd:6":  {zstdFormat(6, processors, memoryLimit), 8, memoryLimit},
			"zstd:10": {zstdFormat(10, processors, memoryLimit), 2, 73 * mib},
		} {
			workers := want.f.workersWithin(processors, memoryLimit)
			if held := want.f.holds(workers); held > want.limit {
				t.Errorf("%s on %d processors: %d workers hold %d MiB", name, processors, workers, held/mib)
			}
			if workers < min(processors, want.workers) {
				t.Errorf("%s on %d processors: only %d workers", name, processors, workers)
			}
		}
	}
	for _, level := range []int{1, 10} {
		if held := zstdLongFormat(level, memoryLimit).holds(1); held > 80*mib {
			t.Errorf("zstd:%d,long: %d MiB", level, held/mib)
		}
	}
}

// TestLittleMemory is about writers that run beside a stream.
func TestLittleMemory(t *testing.T) {
	const memory = 24 * mib
	for processors := 1; processors <= 1024; processors *= 2 {
		for name, c := range map[string]struct {
			f     format
			limit int
		}{
			"gzip":      {gzipFormat(6), memory},
			"lz4":       {lz4Format(0), memory},
			"lz4:9":     {lz4Format(9), memory},
			"zstd:1":    {zstdFormat(1, processors, memory), memory},
			"zstd:3":    {zstdFormat(3, processors, memory), memory},
			"zstd:6":    {zstdFormat(6, processors, memory), memory},
			"zstd:10":   {zstdFormat(10, processors, memory), 38 * mib},
			"zstd long": {zstdLongFormat(6, memory), memory},
		} {
			workers := c.f.workersWithin(processors, memory)
			if name == "zstd long" {
				workers = 1
			}
			if held := c.f.holds(workers); held > c.limit {
				t.Errorf("%s on %d processors: %d workers hold %d MiB", name, processors, workers, held/mib)
			}
		}
	}
	data := heap(5 * mib)
	for _, option := range []string{"gzip", "lz4", "zstd", "zstd:long", "zstd:level=19,long"} {
		spec := mustSpec(t, option)
		var out bytes.Buffer
		w, err := NewWriterWithin(&out, spec, mib)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(data)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		if got, err := decompress(&out, spec.Algorithm); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", option, len(got), err)
		}
	}
}

// One member, so that programs that read no more than the first see all.
func TestGzipIsOneMember(t *testing.T) {
	data := heap(3*gzipBlock + 5)
	compressed := compress(t, Spec{Algorithm: Gzip}, data, 0)
	for i := 1; i < len(compressed)-10; i++ {
		if bytes.Equal(compressed[i:i+10], compressed[:10]) {
			t.Fatalf("a second header at %d", i)
		}
	}
	tool(t, compressed, "gzip", "-t")
}

func TestZeroSpecIsNone(t *testing.T) {
	data := []byte("as it is")
	if got := compress(t, Spec{}, data, 0); !bytes.Equal(got, data) {
		t.Errorf("%q", got)
	}
}

func TestNewWriterErrors(t *testing.T) {
	for want, spec := range map[string]Spec{
		`invalid compression specification: compression algorithm "gzip" expects a compression level between 1 and 9 (default at -1)`: {Algorithm: Gzip, Level: 12, LevelSet: true},
		`invalid compression specification: compression algorithm "lz4" does not accept a worker count`:                               {Algorithm: LZ4, Workers: 2, WorkersSet: true},
		"cannot compress with algorithm 9": {Algorithm: 9},
	} {
		if _, err := NewWriter(io.Discard, spec); err == nil || err.Error() != want {
			t.Errorf("%+v: %v, want %s", spec, err, want)
		}
	}
}

// limited takes a number of bytes and then fails, or claims success having
// written less.
type limited struct {
	room  int
	short bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(l.room, len(p))
	l.room -= n
	if n < len(p) && !l.short {
		return n, errFull
	}
	return n, nil
}

func TestDestinationFails(t *testing.T) {
	for option, pages := range map[string][]byte{
		"gzip": heap(4 * gzipBlock), "lz4": heap(9 * lz4Block), "zstd": heap(9 * mib), "zstd:long": heap(3 * zstdLongBlock),
	} {
		spec := mustSpec(t, option)
		whole := len(compress(t, spec, pages, 0))
		for _, room := range []int{0, 10, whole / 2, whole - 1} {
			for _, dst := range []*limited{{room: room}, {room: room, short: true}} {
				want := errFull
				if dst.short {
					want = io.ErrShortWrite
				}
				w, err := NewWriter(dst, spec)
				if err != nil {
					t.Fatal(err)
				}
				_, writeErr := w.Write(pages)
				if writeErr != nil && !errors.Is(writeErr, want) {
					t.Errorf("%s, room for %d: Write: %v", option, room, writeErr)
				}
				if writeErr != nil {
					goleak.VerifyNone(t) // before Close
					if _, err := w.Write([]byte{1}); !errors.Is(err, want) {
						t.Errorf("%s, room for %d: the next Write: %v", option, room, err)
					}
				}
				for range 2 {
					if err := w.Close(); !errors.Is(err, want) {
						t.Errorf("%s, room for %d: Close: %v", option, room, err)
					}
				}
				goleak.VerifyNone(t)
			}
		}
	}
}

// The encoders do not fail in truth.
func TestEncoderFails(t *testing.T) {
	broken := errors.New("broken")
	for name, f := range map[string]format{
		"when made": {block: 10, newEncoder: func() (encoder, error) { return nil, broken }},
		"in a block": {block: 10, newEncoder: func() (encoder, error) {
			return func(_, _, _ []byte) ([]byte, error) { return nil, broken }, nil
		}},
		"at the end": {
			block: 10,
			newEncoder: func() (encoder, error) {
				return func(_, _, src []byte) ([]byte, error) { return src, nil }, nil
			},
			trailer: func(int64) ([]byte, error) { return nil, broken },
		},
	} {
		w := newBlockWriter(io.Discard, f, 3)
		w.Write(make([]byte, 1000))
		for range 2 {
			if err := w.Close(); !errors.Is(err, broken) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestWriteAfterClose(t *testing.T) {
	for _, option := range []string{"gzip", "lz4", "zstd", "zstd:long"} {
		var out bytes.Buffer
		w, err := NewWriter(&out, mustSpec(t, option))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		length := out.Len()
		if _, err := w.Write([]byte("late")); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: %v", option, err)
		}
		if err := w.Close(); err != nil || out.Len() != length {
			t.Errorf("%s: a second Close: %v, %d bytes after %d", option, err, out.Len(), length)
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	pages := heapPages(64 * mib)
	for _, option := range []string{"gzip", "gzip:1", "lz4", "lz4:3", "zstd:1", "zstd", "zstd:workers=1", "zstd:6", "zstd:long"} {
		spec := mustSpec(b, option)
		b.Run(option, func(b *testing.B) {
			b.SetBytes(int64(len(pages)))
			written := counter(0)
			for b.Loop() {
				written = 0
				w, err := NewWriter(&written, spec)
				if err != nil {
					b.Fatal(err)
				}
				for p := pages; len(p) > 0; p = p[32<<10:] {
					if _, err := w.Write(p[:32<<10]); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(pages))/float64(written), "ratio")
		})
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
