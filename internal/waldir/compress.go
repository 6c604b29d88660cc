package waldir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"basin/internal/localfs"
	"basin/internal/seal"
)

// compressMemory bounds, in bytes, what the compression of a segment holds beside
// the stream. Two thirds of it are the writer's.
const compressMemory = 24 << 20

// compressor compresses complete segments one after the other, in a goroutine that
// lasts as long as there are any.
type compressor struct {
	compress func(name string) bool // says whether it was done

	mu      sync.Mutex
	changed *sync.Cond
	next    []string // segments that were finished, in that order, and are not taken yet
	backlog []string // segments that could not be compressed before
	stalled bool     // the backlog has to wait until a segment was compressed again
	held    bool     // all have to wait
	running bool
}

// locked locks c, and returns what unlocks it.
func (c *compressor) locked() (unlock func()) {
	c.mu.Lock()
	if c.changed == nil {
		c.changed = sync.NewCond(&c.mu)
	}
	return c.mu.Unlock
}

// add has a segment compressed. It does not wait: log that comes faster than it can
// be compressed stays as it is for longer, and no commit waits for that.
func (c *compressor) add(name string) {
	defer c.locked()()
	c.next = append(c.next, name)
	c.start()
}

// drain waits until all that was added was tried.
func (c *compressor) drain() {
	defer c.locked()()
	for c.running {
		c.changed.Wait()
	}
}

// Backlog returns how many complete segments are yet to be compressed, with the one
// that is being compressed. It may be called at any time.
func (d *Directory) Backlog() int { return d.jobs.length() }

func (c *compressor) length() int {
	defer c.locked()()
	n := len(c.next) + len(c.backlog)
	if c.running {
		n++ // which is in neither
	}
	return n
}

// hold waits until no segment is being compressed, which none is until release.
func (c *compressor) hold() {
	defer c.locked()()
	c.held = true
	for c.running {
		c.changed.Wait()
	}
}

// drop forgets about segments that are to be compressed, while none is.
func (c *compressor) drop(names []string) {
	defer c.locked()()
	isDropped := func(name string) bool { return slices.Contains(names, name) }
	c.next, c.backlog = slices.DeleteFunc(c.next, isDropped), slices.DeleteFunc(c.backlog, isDropped)
}

func (c *compressor) release() {
	defer c.locked()()
	c.held = false
	c.start()
}

// start starts the goroutine if there is something to do. c is locked.
func (c *compressor) start() {
	if !c.running && c.hasWork() {
		c.running = true
		go c.run()
	}
}

func (c *compressor) hasWork() bool {
	return !c.held && (len(c.next) > 0 || len(c.backlog) > 0 && !c.stalled)
}

func (c *compressor) run() {
	defer c.locked()()
	for c.hasWork() {
		from := &c.next
		if len(c.next) == 0 {
			from = &c.backlog
		}
		name := (*from)[0]
		*from = (*from)[1:]
		c.changed.Broadcast()
		c.mu.Unlock()
		done := c.compress(name)
		c.mu.Lock()
		c.stalled = !done
		if !done {
			c.backlog = append([]string{name}, c.backlog...)
		}
	}
	c.running = false
	c.changed.Broadcast()
}

// compressSegment replaces a complete segment by its compressed form. It returns
// false if it has to be tried again; Warn was told why.
func (d *Directory) compressSegment(name string) bool {
	err := d.replaceCompressed(name, name+seal.Suffix(d.o.Compression.Algorithm))
	if errors.Is(err, fs.ErrNotExist) {
		return true // somebody has removed it, who needs it no more
	}
	if err != nil {
		d.warn(fmt.Errorf("segment %s stays uncompressed for now: %w", name, err))
	}
	return err == nil
}

// compressPartials replaces the partial segments of this process by their
// compressed form, under the name that pg_receivewal gives them.
func (d *Directory) compressPartials() {
	for _, name := range slices.Sorted(maps.Keys(d.left)) {
		to := d.left[name] + seal.Suffix(d.o.Compression.Algorithm) + partialSuffix
		if err := d.replaceCompressed(name, to); err != nil {
			d.warn(fmt.Errorf("\"%s\" stays uncompressed: %w", d.path(name), err))
		}
	}
}

// replaceCompressed makes a compressed form of the file called from, and removes that
// once the compressed one is durable under the name to. If that fails, what there
// was is still there.
func (d *Directory) replaceCompressed(from, to string) error {
	there, err := d.isThere(from, to)
	if err != nil {
		return err
	}
	if !there {
		temporary := localfs.Temporary(to)
		err := d.writeCompressed(from, temporary)
		if err == nil {
			err = d.give(temporary, to)
		}
		if err != nil {
			_ = d.removeFile(temporary) // or it is when the directory is opened again
			return err
		}
	}
	if err := d.rely(entry{name: to}); err != nil {
		return err
	}
	return d.disk.remove(from)
}

// isThere says whether the file called to holds the same as the one called from. If
// it holds something else, that is an error.
func (d *Directory) isThere(from, to string) (bool, error) {
	if _, err := d.disk.stat(to); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	a, _ := parseEntry(from, d.o.SegmentSize)
	b, _ := parseEntry(to, d.o.SegmentSize)
	same, err := d.same(a, b)
	if err == nil && !same {
		err = fmt.Errorf(`"%s" is there, and is not the same`, d.path(to))
	}
	return same, err
}

// writeCompressed writes a compressed form of the file called from to a new file,
// makes that durable, and reads it back.
func (d *Directory) writeCompressed(from, to string) error {
	if err := d.removeStale(to); err != nil {
		return err
	}
	source, err := d.disk.open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	f, err := d.disk.create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := seal.NewWriterWithin(io.NewOffsetWriter(f, 0), d.o.Compression, compressMemory*2/3)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(onlyWriter{w}, whole(source), make([]byte, compareBuffer))
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := d.syncFile(f); err != nil {
		return err
	}
	f.forget()
	back, err := seal.NewReader(whole(f), d.o.Compression.Algorithm)
	if err != nil {
		return err
	}
	defer back.Close()
	if at, err := difference(whole(source), back); err != nil || at >= 0 {
		return fmt.Errorf("what was written to \"%s\" cannot be read back: %w", d.path(to), errors.Join(err, differs(at)))
	}
	return nil
}

// removeStale removes a file that is left from an attempt that failed.
func (d *Directory) removeStale(name string) error {
	if err := d.removeFile(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// onlyWriter hides all methods of a writer but Write.
type onlyWriter struct{ io.Writer }

// whole returns a reader of all of a file.
func whole(f file) io.Reader { return io.NewSectionReader(f, 0, 1<<62) }

// compareBuffer is how many bytes of each side are compared at once.
const compareBuffer = 256 << 10

// difference returns at which byte two readers differ, and less than zero if they
// do not. One that ends before the other differs there.
func difference(a, b io.Reader) (int64, error) {
	left, right := make([]byte, compareBuffer), make([]byte, compareBuffer)
	for at := int64(0); ; at += compareBuffer {
		n, errA := io.ReadFull(a, left)
		m, errB := io.ReadFull(b, right)
		for _, err := range []error{errA, errB} {
			// Readers that decompress wrap what a file cut short ends with.
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return 0, err
			}
		}
		if i := firstDifference(left[:n], right[:m]); i >= 0 {
			return at + int64(i), nil
		}
		if n < compareBuffer {
			return -1, nil
		}
	}
}

// firstDifference returns the index of the first byte that differs, or at which one
// of the two ends, and less than zero if there is none.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// differs is the error of a difference.
func differs(at int64) error {
	if at < 0 {
		return nil
	}
	return fmt.Errorf("it differs at byte %d", at)
}

// same says whether two files hold the same bytes, once decompressed.
func (d *Directory) same(a, b entry) (bool, error) {
	left, err := d.reader(a)
	if err != nil {
		return false, err
	}
	defer left.Close()
	right, err := d.reader(b)
	if err != nil {
		return false, err
	}
	defer right.Close()
	at, err := difference(left, right)
	return at < 0, err
}
