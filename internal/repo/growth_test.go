package repo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/object"
	"basin/internal/object/disk"
	"basin/internal/wal"
)

const (
	// growthVariable, if it is set, is the growth that this process measures, and nothing else.
	growthVariable = "BASIN_GROWTH_OF"
	// growthLimit is what a backup may take, in bytes, as the command does.
	growthLimit = 240 << 20
)

func TestMain(m *testing.M) {
	if of := os.Getenv(growthVariable); of != "" {
		if err := growthProcess(of); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(powerVariable); dir != "" {
		if err := powerProcess(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// growth is a simulated cluster: files of as many pages each.
type growth struct {
	Files   int64
	Pages   int64 // of each file
	Listed  bool  // with a manifest
	Folder  int64 // files of each folder, a power of ten
	Garbage int   // per cent of what is in use that is not collected; zero is as always
	Spill   int   // bytes of groups in memory before they wait in a file; zero is as always
	Kept    int64 // bytes of the parent's index that are kept in memory, enough for a folder's; zero is as always
	Dir     string
}

// growthResult is what two backups of it took, in the second of which a thousandth of the pages changed.
type growthResult struct {
	First, Second growthBackup
	Temporary     int64 // bytes of temporary files that were there at once at most, seen each second
}

// growthBackup is what one backup took.
type growthBackup struct {
	Peak    int64 // bytes that were resident at most, since the process began
	Live    int64 // bytes of the heap that a collection found in use at most, since the process began
	Seconds float64
	Index   int64 // bytes of parts that it made
	Refers  int64 // bytes of parts that it consists of
	Commit  int64 // bytes of its commit
	Changed int64 // pages that are others than before
	Packs   int64 // bytes of packs
}

// key returns the name of a file. In a folder they come in no order.
func (g *growth) key(n int64) key {
	const step = 61_803 // has no divisor in common with a power of ten
	return key{path: fmt.Sprintf("base/%d/%d", 16384+n/g.Folder, 10_000_000+n%g.Folder*step%g.Folder)}
}

// version says which version of a page a backup has, the second of which is 1.
func (g *growth) version(n, page int64, second bool) uint64 {
	if !second {
		return 0
	}
	x := uint64(n*g.Pages+page+1) * 0x9e3779b97f4a7c15
	if x = (x ^ x>>29) * 0xbf58476d1ce4e5b9; (x^x>>32)%1000 == 0 {
		return 1
	}
	return 0
}

// growthReader reads a file. Its pages are distinct, and zeros behind the first bytes.
type growthReader struct {
	g       *growth
	second  bool
	changed *int64
	n, at   int64 // file, byte
}

func (r *growthReader) Read(p []byte) (int, error) {
	size := r.g.Pages * BlockSize
	if r.at == size {
		return 0, io.EOF
	}
	if len(p) < BlockSize || r.at%BlockSize != 0 {
		return 0, io.ErrShortBuffer
	}
	p = p[:min(int64(len(p)/BlockSize*BlockSize), size-r.at)]
	clear(p)
	for b := p; len(b) > 0; b = b[BlockSize:] {
		page := r.at / BlockSize
		version := r.g.version(r.n, page, r.second)
		*r.changed += int64(version)
		binary.LittleEndian.PutUint64(b, uint64(r.n*r.g.Pages+page+1))
		binary.LittleEndian.PutUint64(b[8:], version)
		r.at += BlockSize
	}
	return len(p), nil
}

// growthSource yields a simulated cluster. It is a backup.Source.
type growthSource struct {
	growth
	second  bool
	changed int64
	n       int64 // file that comes next
	cancel  func()
}

// Begin says what every cluster of its kind says.
func (s *growthSource) Begin(context.Context) (backup.Start, error) {
	return backup.Start{Position: wal.Position{LSN: 0x1000028, Timeline: 1}, ServerVersion: 180000, SegmentSize: wal.DefaultSegmentSize}, nil
}

// Next yields the next file, and the manifest behind the last.
func (s *growthSource) Next(context.Context) (backup.Member, io.Reader, error) {
	if s.n == s.Files {
		if !s.Listed {
			return backup.Member{}, nil, io.EOF
		}
		s.Listed = false
		r, w := io.Pipe()
		s.cancel = func() { _ = r.Close() }
		go func() { _ = w.CloseWithError(s.list(w)) }()
		return backup.Member{Path: manifest.Name, Kind: backup.Manifest, Size: -1}, r, nil
	}
	n := s.n
	s.n++
	m := backup.Member{Path: s.key(n).path, Kind: backup.File, Size: s.Pages * BlockSize, Mode: 0o600, ModTime: time.Unix(1_700_000_000+n%1_000_000, 0)}
	if m.Size == 0 {
		return m, bytes.NewReader(nil), nil
	}
	return m, &growthReader{g: &s.growth, second: s.second, changed: &s.changed, n: n}, nil
}

// list writes the manifest.
func (s *growthSource) list(w io.Writer) error {
	list := manifest.NewWriter(w, 42)
	page := make([]byte, BlockSize)
	var ignored int64
	for n := range s.Files {
		crc := uint32(0)
		r := growthReader{g: &s.growth, second: s.second, changed: &ignored, n: n}
		for range s.Pages {
			if _, err := r.Read(page); err != nil {
				return err
			}
			crc = checksumOn(crc, page)
		}
		f := manifest.File{Path: s.key(n).path, Size: s.Pages * BlockSize, Algorithm: manifest.CRC32C, Checksum: crcBytes(crc)}
		if err := list.Add(f, time.Unix(1_700_000_000, 0)); err != nil {
			return err
		}
	}
	return list.Finish([]manifest.Range{{Timeline: 1, Start: 0x1000028, End: 0x2000000}})
}

// End says where the backup ended.
func (s *growthSource) End(context.Context) (wal.Position, error) {
	return wal.Position{LSN: 0x2000000, Timeline: 1}, nil
}

// Close ends who writes the manifest.
func (s *growthSource) Close() error {
	if s.cancel != nil {
		s.cancel()
	}
	return nil
}

// growthStore keeps all but packs, and counts.
type growthStore struct {
	object.Store

	mutex                sync.Mutex
	packs, parts, commit int64 // bytes
}

// Create makes an object, or only counts it.
func (s *growthStore) Create(ctx context.Context, name string, data []byte) error {
	isPack := strings.Contains(name, "/packs/")
	s.mutex.Lock()
	switch {
	case isPack:
		s.packs += int64(len(data))
	case strings.Contains(name, "/parts/"):
		s.parts += int64(len(data))
	case strings.HasSuffix(name, "/commit"):
		s.commit = int64(len(data))
	}
	s.mutex.Unlock()
	if isPack {
		return ctx.Err()
	}
	return s.Store.Create(ctx, name, data)
}

// List lists no packs, as there are none.
func (s *growthStore) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	return s.Store.List(ctx, prefix, after)
}

// growthProcess measures a growth, and prints the result.
func growthProcess(of string) error {
	var g growth
	if err := json.Unmarshal([]byte(of), &g); err != nil {
		return err
	}
	debug.SetMemoryLimit(growthLimit)
	if g.Garbage > 0 {
		debug.SetGCPercent(g.Garbage)
	}
	ctx := context.Background()
	on, err := disk.Open(g.Dir, disk.Options{})
	if err != nil {
		return err
	}
	defer on.Close()
	store := &growthStore{Store: on}
	if _, err := Init(ctx, store, InitOptions{}); err != nil {
		return err
	}
	var result growthResult
	var parent *Commit
	watched, end := context.WithCancel(ctx)
	defer end()
	var live atomic.Int64
	go watchLive(watched, &live)
	seen := make(chan int64, 1)
	go func() { seen <- mostTemporary(watched, os.Getenv("TMPDIR"), g.Dir) }()
	for i, to := range []*growthBackup{&result.First, &result.Second} {
		r, err := Open(ctx, store, Options{TempDir: os.Getenv("TMPDIR")})
		if err != nil {
			return err
		}
		c, err := r.Cluster("main", 42)
		if err != nil {
			return err
		}
		c.parts.most = cmp.Or(g.Kept, c.parts.most)
		*store = growthStore{Store: on}
		if parent, err = to.measure(ctx, c, store, &growthSource{growth: g, second: i > 0}, parent); err != nil {
			return err
		}
		to.Live = live.Load()
	}
	end()
	result.Temporary = <-seen
	return json.NewEncoder(os.Stdout).Encode(result)
}

// watchLive keeps how many bytes of the heap a collection found in use at most until it is told to end.
func watchLive(ctx context.Context, most *atomic.Int64) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for tick := time.Tick(time.Millisecond); ctx.Err() == nil; <-tick {
		metrics.Read(sample)
		most.Store(max(most.Load(), int64(sample[0].Value.Uint64())))
	}
}

// mostTemporary returns how many bytes the files below a folder, but not below another, that this process has open had
// together at most until it was told to end.
func mostTemporary(ctx context.Context, dir, but string) (most int64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return most
		case <-tick.C:
		}
		var now int64
		open, _ := filepath.Glob("/proc/self/fd/*") // one that was closed meanwhile counts for nothing
		for _, name := range open {
			to, err := os.Readlink(name)
			if err != nil || !strings.HasPrefix(to, dir+"/") || strings.HasPrefix(to, but+"/") {
				continue
			}
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
				now += info.Size()
			}
		}
		most = max(most, now)
	}
}

// measure makes a backup.
func (b *growthBackup) measure(ctx context.Context, c *Cluster, store *growthStore, source *growthSource, parent *Commit) (*Commit, error) {
	began := time.Now()
	sink := c.NewSink(SinkOptions{Parent: parent, Workers: 2})
	for _, r := range []*runs{&sink.members, &sink.blocks, &sink.seen, &sink.listed} {
		r.most = source.Spill
	}
	err := backup.Copy(ctx, sink, source, backup.Options{})
	if closed := source.Close(); err == nil {
		err = closed
	}
	if closed := sink.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, err
	}
	b.Seconds = time.Since(began).Seconds()
	b.Index, b.Commit, b.Packs, b.Changed = store.parts, store.commit, store.packs, source.changed
	commit := sink.Written()
	for _, levels := range [][]Level{commit.Members, commit.Blocks} {
		for _, l := range levels {
			b.Refers += l.size()
		}
	}
	b.Peak, err = peakMemory()
	return commit, err
}

// peakMemory returns how many bytes of this process were resident at most.
func peakMemory() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	digits, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kib, err := strconv.ParseInt(digits, 10, 64)
	return kib << 10, err
}

// measureGrowth measures a growth in a process of its own.
func measureGrowth(t *testing.T, g growth, timeout time.Duration) (result growthResult) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	if g.Dir = filepath.Join(temp, "repository"); os.Mkdir(g.Dir, 0o700) != nil {
		t.Fatal("no folder")
	}
	of, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	command := exec.CommandContext(ctx, self)
	command.Env = append(os.Environ(), growthVariable+"="+string(of), "TMPDIR="+temp)
	var failure bytes.Buffer
	command.Stderr = &failure
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, failure.Bytes())
	}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%d files of %d pages: %+v", g.Files, g.Pages, result)
	return result
}
