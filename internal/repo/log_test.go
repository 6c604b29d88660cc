package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

// forgedLog returns a segment of cluster 42, with pages that a server could have written but for
// their records.
func forgedLog(number uint64, random *rand.Rand) []byte {
	const size = 4 << 20
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(random.IntN(6))
	}
	for at := 0; at < size; at += 8192 {
		header := []byte{0x18, 0xD1, 0, 0, 1, 0, 0, 0}
		long := at == 0
		if long {
			header[2] = 2
		}
		address := number*size + uint64(at)
		for i := range 8 {
			header = append(header, byte(address>>(8*i)))
		}
		header = append(header, make([]byte, 8)...) // xlp_rem_len
		if long {
			header = append(header, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, size>>16&0xFF, 0, 0, 0x20, 0, 0)
		}
		copy(p[at:], header)
	}
	return p
}

// TestLogComesBack pushes files of the log and gets them.
func TestLogComesBack(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprint(encrypted), func(t *testing.T) {
			c := newCluster(t, encrypted)
			random := rand.New(rand.NewPCG(1, 2))
			for number := range uint64(8) {
				name := wal.Segment{Timeline: 1, Number: number + 5}.Name(4 << 20)
				content := forgedLog(number+5, random)
				for range 2 { // the same again is no error
					if err := c.PushLog(t.Context(), name, content, 0); err != nil {
						t.Fatal(err)
					}
				}
				for range 4 {
					if got, err := c.Log(t.Context(), name); err != nil || !bytes.Equal(got, content) {
						t.Fatalf("%s comes back as %d bytes, error %v", name, len(got), err)
					}
				}
				other := bytes.Clone(content)
				other[len(other)-1]++
				err := c.PushLog(t.Context(), name, other, 0)
				if !errors.Is(err, fs.ErrExist) || !errors.As(err, new(*OtherLogError)) {
					t.Errorf("%s with another content: %v", name, err)
				}
			}
		})
	}
}

// TestLogIsWhatItsNameSays refuses what is of another place, cluster or form.
func TestLogIsWhatItsNameSays(t *testing.T) {
	c := newCluster(t, false)
	content := forgedLog(5, rand.New(rand.NewPCG(1, 2)))
	other := bytes.Clone(content)
	other[24]++
	for _, test := range []struct {
		reason, name string
		content      []byte
		ok           bool
	}{
		{"it is", "000000010000000000000005", content, true},
		{"another number", "000000010000000000000006", content, false},
		{"another timeline", "000000020000000000000005", content, true}, // whose first pages may be of the one before
		{"an older timeline", "000000000000000000000005", content, false},
		{"another cluster", "000000010000000000000005", other, false},
		{"too short", "000000010000000000000005", content[:len(content)-1], false},
		{"no segment", "00000001000000000000000", content, false},
		{"a path", "../000000010000000000000005", content, false},
		{"a part of it", PartialName("000000010000000000000005", 8192), content[:8192], true},
		{"what PostgreSQL archives at a promotion", "000000010000000000000005.partial", content, true},
		{"a backup's history", "000000010000000000000005.00000028.backup", []byte("START WAL LOCATION"), true},
		{"a timeline's history", "00000002.history", []byte("1\t0/5000000\tno recovery target specified\n"), true},
	} {
		size := int64(0)
		if len(test.name) > 24 {
			size = 4 << 20
		}
		if err := c.PushLog(t.Context(), test.name, test.content, size); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
}

// TestWritersKnowWhatTheyPushed pushes a file twice from hosts without the private key.
func TestWritersKnowWhatTheyPushed(t *testing.T) {
	c := newCluster(t, true)
	content := forgedLog(5, rand.New(rand.NewPCG(1, 2)))
	other := bytes.Clone(content)
	other[len(other)-1]++
	const name = "000000010000000000000005"
	for i := range 2 {
		r, err := Open(t.Context(), c.repo.store, Options{})
		if err != nil {
			t.Fatal(err)
		}
		writer, err := r.Cluster("main", 42)
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.PushLog(t.Context(), name, content, 0); err != nil {
			t.Errorf("push %d: %v", i, err)
		}
		if err := writer.PushLog(t.Context(), name, other, 0); !errors.As(err, new(*OtherLogError)) {
			t.Errorf("another content: %v", err)
		}
	}
	if got, err := c.Log(t.Context(), name); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
}

// TestTwoClustersDoNotWriteOneLog is about a copy of a cluster that goes on beside the original.
func TestTwoClustersDoNotWriteOneLog(t *testing.T) {
	const name, size = "000000010000000000000005", 4 << 20
	content := forgedLog(5, rand.New(rand.NewPCG(1, 2)))
	other := bytes.Clone(content)
	other[100000]++
	part := PartialName(name, 200000)
	for _, test := range []struct {
		reason        string
		first, second string
		content       []byte // of the second
		ok            bool
	}{
		{"the segment of a part", part, name, content, true},
		{"the segment of another one's part", part, name, other, false},
		{"a part of the segment", name, part, content[:200000], true},
		{"a part of another one's segment", name, part, other[:200000], false},
		{"a part before they differ", name, PartialName(name, 65536), other[:65536], true},
	} {
		c := newCluster(t, false)
		first := content
		if test.first == part {
			first = content[:200000]
		}
		if err := c.PushLog(t.Context(), test.first, first, size); err != nil {
			t.Fatal(err)
		}
		err := c.PushLog(t.Context(), test.second, test.content, size)
		if (err == nil) != test.ok || !test.ok && !errors.As(err, new(*OtherLogError)) {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
}

// TestLogLeavesNoKeys pushes from many processes into an encrypted repository: each file of the log is one object,
// which has its key in it, and is written with one call.
func TestLogLeavesNoKeys(t *testing.T) {
	c := newCluster(t, true)
	store := &object.Failing{Store: c.repo.store}
	random := rand.New(rand.NewPCG(1, 2))
	for number := range uint64(4) {
		r, err := Open(t.Context(), store, Options{})
		if err != nil {
			t.Fatal(err)
		}
		writer, err := r.Cluster("main", 42)
		if err != nil {
			t.Fatal(err)
		}
		name := wal.Segment{Timeline: 1, Number: number}.Name(4 << 20)
		content := forgedLog(number, random)
		if err := writer.PushLog(t.Context(), name, content, 0); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Log(t.Context(), name); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s comes back as %d bytes, error %v", name, len(got), err)
		}
		if _, err := c.LogFacts(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if calls := store.Calls(); len(calls) != 8 { // what the repository is, and the object
		t.Errorf("%d calls: %v", len(calls), calls)
	}
	for info, err := range c.repo.store.List(t.Context(), "keys/", "") {
		t.Errorf("%s is left behind (%v)", info.Name, err)
	}
}

// BenchmarkLogKeys measures what it takes to seal a data key, as each process does that pushes, and to open one.
func BenchmarkLogKeys(b *testing.B) {
	c := newCluster(b, true)
	public := c.repo.o.PrivateKey.Public()
	b.Run("seal", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := public.NewDataKey(); err != nil {
				b.Fatal(err)
			}
		}
	})
	key, sealed, err := public.NewDataKey()
	if err != nil || len(sealed) != seal.SealedKeySize {
		b.Fatal(len(sealed), err)
	}
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.repo.o.PrivateKey.OpenDataKey(key.ID, sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// asked counts what a store is asked.
type asked struct {
	object.Store
	gets atomic.Int64
}

func (s *asked) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	s.gets.Add(1)
	return s.Store.Get(ctx, name, off, n)
}

// TestFactsAreReadOnce tries the same log several times, as for one backup after another.
func TestFactsAreReadOnce(t *testing.T) {
	c, random := newCluster(t, false), rng(1)
	var r Reach
	for n := range uint64(20) {
		name := wal.Segment{Timeline: 1, Number: n + 1}.Name(4 << 20)
		if err := c.PushLog(t.Context(), name, forgedLog(n+1, random), 0); err != nil {
			t.Fatal(err)
		}
		r.Segments = append(r.Segments, name)
	}
	r.Last = r.Segments[len(r.Segments)-1]
	store := &asked{Store: c.repo.store}
	c = reopen(t, c, store)
	for round := range 3 {
		next := len(r.Segments)
		for facts, err := range c.Facts(t.Context(), r) {
			if err != nil {
				t.Fatal(err)
			}
			if next--; facts.Name != r.Segments[next] {
				t.Fatalf("got %s, want %s", facts.Name, r.Segments[next])
			}
		}
		if n := store.gets.Swap(0); next != 0 || (n > 0) != (round == 0) {
			t.Errorf("round %d: %d files are left, and the store was asked %d times", round, next, n)
		}
	}
}
