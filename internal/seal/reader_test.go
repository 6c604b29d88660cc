package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"basin/internal/usererr"
)

// Streams as the C tools, and with them a server, write them.
func TestReadsForeign(t *testing.T) {
	pages := heap(2*mib + 3)
	for command, a := range map[string]Algorithm{
		"gzip -c":                    Gzip,
		"gzip -9c":                   Gzip,
		"lz4 -c":                     LZ4,
		"lz4 -1c -B5 -BD":            LZ4, // linked blocks of 256 KiB, as the server's
		"lz4 -9c -B4 --no-frame-crc": LZ4,
		"zstd -c":                    Zstd,
		"zstd -1c --no-check":        Zstd,
		"zstd -19c --long=27":        Zstd,
		"zstd -3c -T2":               Zstd,
	} {
		t.Run(command, func(t *testing.T) {
			one := tool(t, pages, strings.Fields(command)...)
			nothing := tool(t, nil, strings.Fields(command)...)
			for name, stream := range map[string]struct{ in, want []byte }{
				"one":           {one, pages},
				"nothing":       {nothing, nil},
				"several":       {bytes.Join([][]byte{one, nothing, one}, nil), append(pages[:len(pages):len(pages)], pages...)},
				"nothing twice": {append(nothing[:len(nothing):len(nothing)], nothing...), nil},
			} {
				got, err := decompress(bytes.NewReader(stream.in), a)
				if err != nil || !bytes.Equal(got, stream.want) {
					t.Errorf("%s: %d bytes of %d, equal %t: %v", name, len(got), len(stream.want), bytes.Equal(got, stream.want), err)
				}
			}
		})
	}
}

// A stream cut at any byte is an error, except between whole frames.
func TestTruncated(t *testing.T) {
	pages := heap(3000)
	for _, a := range []Algorithm{Gzip, LZ4, Zstd} {
		one := compress(t, Spec{Algorithm: a}, pages, 0)
		two := append(one[:len(one):len(one)], one...)
		for cut := range two {
			got, err := decompress(bytes.NewReader(two[:cut]), a)
			if cut == len(one) {
				if err != nil || !bytes.Equal(got, pages) {
					t.Errorf("%v: the whole first stream: %v", a, err)
				}
				continue
			}
			want := fmt.Sprintf("decompress %v data: unexpected EOF", a)
			if err == nil || err.Error() != want || !errors.Is(err, io.ErrUnexpectedEOF) || usererr.Hint(err) == "" {
				t.Errorf("%v cut at %d of %d: %v, want %s", a, cut, len(two), err, want)
			}
		}
	}
}

func TestDamaged(t *testing.T) {
	pages := heap(600_000)
	window := binary.LittleEndian.AppendUint32(nil, 0xfd2fb528)
	for name, damage := range map[string]struct {
		a    Algorithm
		in   func(intact []byte) []byte
		want string // empty: none
	}{
		"gzip intact":                {Gzip, func(b []byte) []byte { return b }, ""},
		"lz4 intact":                 {LZ4, func(b []byte) []byte { return b }, ""},
		"zstd intact":                {Zstd, func(b []byte) []byte { return b }, ""},
		"gzip is text":               {Gzip, func([]byte) []byte { return []byte("no compressed stream at all") }, "decompress gzip data: "},
		"lz4 is text":                {LZ4, func([]byte) []byte { return []byte("no compressed stream at all") }, "decompress lz4 data: "},
		"zstd is text":               {Zstd, func([]byte) []byte { return []byte("no compressed stream at all") }, "decompress zstd data: "},
		"gzip with a wrong sum":      {Gzip, flip(-8), "decompress gzip data: "},
		"gzip with a wrong length":   {Gzip, flip(-1), "decompress gzip data: "},
		"gzip with a bad block":      {Gzip, flip(10), "decompress gzip data: "},
		"lz4 with a bad header":      {LZ4, flip(6), "decompress lz4 data: "},
		"lz4 with a huge block":      {LZ4, flip(9), "decompress lz4 data: "},
		"zstd with a bad block":      {Zstd, flip(9), "decompress zstd data: "},
		"gzip followed by text":      {Gzip, func(b []byte) []byte { return append(b, "trailing garbage"...) }, "decompress gzip data: "},
		"lz4 followed by text":       {LZ4, func(b []byte) []byte { return append(b, "trailing garbage"...) }, "decompress lz4 data: "},
		"zstd followed by text":      {Zstd, func(b []byte) []byte { return append(b, "trailing garbage"...) }, "decompress zstd data: "},
		"zstd with a window of 128M": {Zstd, func([]byte) []byte { return append(window, 0, 17<<3, 1, 0, 0) }, ""},
		"zstd with a window of 256M": {Zstd, func([]byte) []byte { return append(window, 0, 18<<3, 1, 0, 0) }, "decompress zstd data: its window is larger than 128 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			intact := compress(t, Spec{Algorithm: damage.a}, pages, 0)
			_, err := decompress(bytes.NewReader(damage.in(intact)), damage.a)
			if damage.want == "" && err != nil {
				t.Fatal(err)
			}
			if damage.want != "" && (err == nil || !strings.HasPrefix(err.Error(), damage.want)) {
				t.Fatalf("%v, want %s…", err, damage.want)
			}
		})
	}
}

// flip inverts one byte, counted from the end if negative.
func flip(i int) func([]byte) []byte {
	return func(intact []byte) []byte {
		b := bytes.Clone(intact)
		b[(i+len(b))%len(b)] ^= 0xff
		return b
	}
}

func TestSourceFails(t *testing.T) {
	lost := errors.New("connection lost")
	pages := heap(mib)
	for _, a := range []Algorithm{None, Gzip, LZ4, Zstd} {
		stream := compress(t, Spec{Algorithm: a}, pages, 0)
		for _, cut := range []int{0, 3, 20, len(stream) / 2, len(stream) - 1} {
			src := io.MultiReader(bytes.NewReader(stream[:cut]), iotest.ErrReader(lost))
			r, err := NewReader(src, a)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // it stays
				if _, err := io.Copy(io.Discard, r); err == nil || err.Error() != lost.Error() {
					t.Errorf("%v, cut at %d: %v", a, cut, err)
				}
			}
			r.Close()
		}
	}
}

func TestReadByBytes(t *testing.T) {
	pages := heap(20_000)
	for _, a := range []Algorithm{None, Gzip, LZ4, Zstd} {
		stream := compress(t, Spec{Algorithm: a}, pages, 0)
		r, err := NewReader(iotest.OneByteReader(bytes.NewReader(stream)), a)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(iotest.OneByteReader(r)); err != nil || !bytes.Equal(got, pages) {
			t.Errorf("%v: %d bytes: %v", a, len(got), err)
		}
		r.Close()
	}
}

func TestReaderClosedEarly(t *testing.T) {
	pages := heap(9 * mib)
	for _, a := range []Algorithm{Gzip, LZ4, Zstd} {
		stream := compress(t, Spec{Algorithm: a}, pages, 0)
		for _, wanted := range []int{0, 1, mib} {
			r, err := NewReader(bytes.NewReader(stream), a)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, wanted)); err != nil {
				t.Errorf("%v: %v", a, err)
			}
			for range 2 {
				if err := r.Close(); err != nil {
					t.Errorf("%v: Close: %v", a, err)
				}
			}
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%v: Read after Close: %v", a, err)
			}
			goleak.VerifyNone(t)
		}
	}
	if _, err := NewReader(strings.NewReader(""), 9); err == nil {
		t.Error("there is no algorithm 9")
	}
}

// Frames side by side give what they give one after the other, errors too.
func TestFrameReader(t *testing.T) {
	small := compress(t, Spec{Algorithm: Zstd}, heap(9*mib), 0) // three frames
	other := tool(t, heap(2*mib), "zstd", "-c")                 // tells its size only at its end
	summed := tool(t, heap(2*mib), "zstd", "-c", "--stream-size=2097152")
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "skip"...)
	nothing := compress(t, Spec{Algorithm: Zstd}, nil, 0)
	streams := map[string][]byte{
		"empty": nil, "nothing": nothing, "small": small, "other": other, "summed": summed,
		"small, other, small": bytes.Join([][]byte{small, other, small}, nil),
		"skippable, small":    bytes.Join([][]byte{skippable, small, skippable, nothing, small}, nil),
		"followed by text":    append(small[:len(small):len(small)], "trailing garbage"...),
		"damaged header":      flip(5)(small), "damaged sum": flip(-1)(summed), "no reserved bit": flip(4)(small),
	}
	for _, at := range []int{9, 10, 30, 5000, len(small) / 2, len(small) - 1} {
		streams[fmt.Sprintf("damaged at %d", at)] = flip(at)(small)
		streams[fmt.Sprintf("cut at %d", at)] = small[:at]
	}
	for name, stream := range streams {
		want, wantErr := decompress(bytes.NewReader(stream), Zstd)
		for _, atOnce := range []int{2, 5} {
			r, err := NewFrameReader(bytes.NewReader(stream), Zstd, atOnce)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if fmt.Sprint(err) != fmt.Sprint(wantErr) || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes of %d, %v, want %v", name, len(got), len(want), err, wantErr)
			}
			r.Close()
		}
	}
	for _, wanted := range []int{0, 1, 5 * mib} {
		r, err := NewFrameReader(bytes.NewReader(small), Zstd, 3)
		if err != nil {
			t.Fatal(err)
		}
		_, readErr := io.ReadFull(r, make([]byte, wanted))
		if err := errors.Join(readErr, r.Close()); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t)
	}
	lost := errors.New("connection lost")
	r, err := NewFrameReader(io.MultiReader(bytes.NewReader(small[:len(small)-9]), iotest.ErrReader(lost)), Zstd, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, lost) {
		t.Error(err)
	}
	r.Close()
}

func FuzzReadGzip(f *testing.F) { fuzzReader(f, Gzip) }
func FuzzReadLZ4(f *testing.F)  { fuzzReader(f, LZ4) }
func FuzzReadZstd(f *testing.F) { fuzzReader(f, Zstd) }

// fuzzReader looks for panics, hangs and goroutines left behind, in the first
// megabytes that a damaged stream gives.
func fuzzReader(f *testing.F, a Algorithm) {
	f.Add([]byte{})
	for _, n := range []int{0, 1, 700, 20_000} {
		stream := compress(f, Spec{Algorithm: a}, heap(n), 0)
		f.Add(stream)
		f.Add(append(stream, stream...))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		r, err := NewReader(bytes.NewReader(stream), a)
		if err != nil {
			t.Fatal(err)
		}
		n, ended := io.CopyN(io.Discard, r, 8*mib)
		if ended == io.EOF && len(stream) == 0 {
			t.Errorf("nothing at all is a stream of %d bytes", n)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if a != Zstd {
			return
		}
		frames, err := NewFrameReader(bytes.NewReader(stream), a, 2)
		if err != nil {
			t.Fatal(err)
		}
		again, errAgain := io.CopyN(io.Discard, frames, 8*mib)
		if n != again || fmt.Sprint(ended) != fmt.Sprint(errAgain) {
			t.Errorf("%d bytes, %v; frames side by side: %d bytes, %v", n, ended, again, errAgain)
		}
		frames.Close()
	})
}

func BenchmarkReader(b *testing.B) {
	pages := heapPages(64 * mib)
	for _, a := range []Algorithm{Gzip, LZ4, Zstd} {
		stream := compress(b, Spec{Algorithm: a}, pages, 0)
		b.Run(a.String(), func(b *testing.B) {
			b.SetBytes(int64(len(pages)))
			buffer := make([]byte, 64<<10)
			for b.Loop() {
				r, err := NewReader(bytes.NewReader(stream), a)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buffer); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}

// A name tells the method, and that reads the file.
func TestFileBySuffix(t *testing.T) {
	pages := heap(100_000)
	for a := None; a <= Zstd; a++ {
		name := filepath.Join(t.TempDir(), "base.tar"+Suffix(a))
		if err := os.WriteFile(name, compress(t, Spec{Algorithm: a}, pages, 0), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decompress(file, BySuffix(name))
		if err != nil || !bytes.Equal(got, pages) {
			t.Errorf("%s: %v", name, err)
		}
		file.Close()
	}
}
