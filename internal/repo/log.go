package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

const (
	// logFrame is how many bytes of a file of the log a frame has.
	logFrame = 1 << 20
	// logHead is how many bytes the head and a digest have.
	logHead = seal.HeadSize + sha256.Size
)

// logDigest returns what is told of a file of the log to those who have no key: by it they know
// one that they pushed before, and nothing else.
func (r *Repository) logDigest(name string, sum []byte) []byte {
	mac := hmac.New(sha256.New, slices.Concat([]byte("basin log"), r.info.ID[:], r.info.PublicKey, r.info.Secret))
	_, _ = mac.Write(slices.Concat([]byte(name), []byte{0}, sum)) // never fails
	return mac.Sum(nil)
}

// LogFacts are what is known of a file of the log without reading it.
type LogFacts struct {
	Name   string  `json:"name"`
	Size   int64   `json:"size"`             // in bytes
	SHA256 []byte  `json:"sha256"`           // of the content
	CRC32C *uint32 `json:"crc32c,omitempty"` // of the content; nil if it was stored before that was kept
	Frames []int64 `json:"frames"`           // lengths of the frames that the content is in

	// Summary is what is in a segment, or in a part of one. Problem is why there is none, or why
	// recovery will not go on behind a place in it: it was pushed so.
	Summary *wal.Summary `json:"summary,omitempty"`
	Problem string       `json:"problem,omitempty"`
}

// isOfSegment says whether a name is one that is kept of a segment: those that an archive_command is called with, and
// parts of a segment that was being received.
func isOfSegment(name string) bool {
	switch wal.KindOf(name) {
	case wal.SegmentFile, wal.PartialFile, wal.BackupFile:
		return true
	case wal.HistoryFile:
		return false
	}
	_, ok := parseLogPart(name)
	return ok
}

// isHistory says whether a name is that of a timeline's history.
func isHistory(name string) bool { return wal.KindOf(name) == wal.HistoryFile }

// logName returns the name of the object that has a file of the log.
func (c *Cluster) logName(name string) (string, error) {
	switch {
	case isOfSegment(name):
		return c.below("wal/" + name[:8] + "/" + name[8:16] + "/" + name), nil
	case isHistory(name):
		return c.below("wal/" + name[:8] + "/" + name), nil
	}
	return "", fmt.Errorf("%q is not the name of a file of the log", name)
}

// IsSegment says whether a name is that of a whole segment.
func IsSegment(name string) bool { return wal.KindOf(name) == wal.SegmentFile }

// OtherLogError is a file of the log that is there with another content.
type OtherLogError struct {
	Name          string
	Have, Refused []byte // digests of what is there, and of what was to be pushed
}

func (e *OtherLogError) Error() string {
	return fmt.Sprintf("%s is in the repository with another content: %x is there, and %x was to be pushed", e.Name, e.Have[:8], e.Refused[:8])
}

// NotLogError is a file that is not what its name says, so that it cannot be pushed whatever the store does.
type NotLogError struct{ error }

// Unwrap returns what is wrong.
func (e *NotLogError) Unwrap() error { return e.error }

// Is says that it is an fs.ErrExist.
func (e *OtherLogError) Is(target error) bool { return target == fs.ErrExist }

// PushLog keeps a file of the log. The same content again is no error; another one is an
// *OtherLogError, and nothing is changed. When it returns nil the file is in the repository.
// segmentSize is in bytes; zero is that of the content, which is a whole segment then.
func (c *Cluster) PushLog(ctx context.Context, name string, content []byte, segmentSize int64) error {
	at, err := c.logName(name)
	if err != nil {
		return err
	}
	if err := c.checkLog(name, content, segmentSize); err != nil {
		return &NotLogError{err}
	}
	if err := c.checkParts(ctx, name, content); err != nil {
		return err
	}
	box, sealed, err := c.repo.newLogBox(at)
	if err != nil {
		return err
	}
	packer, err := smallPacker()
	if err != nil {
		return err
	}
	facts := LogFacts{Name: name, Size: int64(len(content))}
	var working sync.WaitGroup // each goes over all of it
	var sum [sha256.Size]byte
	working.Go(func() { sum = sha256.Sum256(content) })
	working.Go(func() {
		if err := c.summarize(&facts, content, segmentSize); err != nil {
			facts.Problem = err.Error()
		}
	})
	data, frames, err := sealLog(ctx, box, packer, content, append(make([]byte, logHead), sealed...))
	working.Wait()
	if err != nil {
		return err
	}
	crc := checksum(content)
	facts.SHA256, facts.CRC32C, facts.Frames = sum[:], &crc, frames
	if facts.Problem != "" {
		if err := c.checkFilledUp(ctx, name, at, content); err != nil {
			return err
		}
	}
	copy(data, box.Head())
	copy(data[seal.HeadSize:], c.repo.logDigest(name, sum[:]))
	text, err := json.Marshal(facts)
	if err != nil {
		return err
	}
	if err := c.noteMinimal(ctx, &facts); err != nil {
		return err
	}
	err = c.repo.store.Create(ctx, at, appendTrailer(data, box, packer, text))
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return c.compareLog(ctx, name, at, sum[:], cmp.Or(segmentSize, int64(len(content))))
}

// compareLog compares a file of the log that is there with one that was to be pushed, which has a digest.
func (c *Cluster) compareLog(ctx context.Context, name, at string, sum []byte, segmentSize int64) error {
	if c.repo.CanRead() {
		have, err := c.OpenLog(ctx, name, segmentSize)
		if err == nil {
			err = have.Check(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s is in the repository already, and cannot be compared: %w", name, err)
		}
		if !bytes.Equal(have.Facts.SHA256, sum) {
			return &OtherLogError{name, have.Facts.SHA256, sum}
		}
		return nil
	}
	head, err := c.repo.store.Get(ctx, at, 0, logHead)
	if err != nil {
		return fmt.Errorf("%s is in the repository already, and cannot be compared: %w", name, err)
	}
	digest := c.repo.logDigest(name, sum)
	if !bytes.Equal(head[seal.HeadSize:], digest) {
		return &OtherLogError{name, head[seal.HeadSize:], digest}
	}
	return nil
}

// summarize notes what is in a segment. It is an error if that is damaged.
func (c *Cluster) summarize(facts *LogFacts, content []byte, size int64) error {
	if !isOfSegment(facts.Name) || strings.HasSuffix(facts.Name, ".backup") {
		return nil
	}
	size = cmp.Or(size, int64(len(content)))
	segment, err := wal.ParseSegment(facts.Name[:24], size)
	if err != nil {
		return err
	}
	read := wal.SummarizePart
	if IsSegment(facts.Name) {
		read = wal.Summarize
	} else if p, ok := parseLogPart(facts.Name); ok && p.from > 0 {
		return nil // it is read with what is before it
	}
	s, err := read(bytes.NewReader(content), segment, wal.PageRules{SystemID: c.name.SystemID, SegmentSize: size, Timeline: segment.Timeline})
	if err != nil {
		return err
	}
	facts.Summary = &s
	return nil
}

// sealLog returns an object that begins as it is told to, and goes on with the frames of a content, whose lengths are returned too. What
// of them is packed is sealed at once, so that little is there twice.
func sealLog(ctx context.Context, box *seal.Box, packer *seal.Packer, content, begin []byte) (data []byte, lengths []int64, err error) {
	ahead := runtime.GOMAXPROCS(0)
	ring := make(buffers, ahead+1)
	pieces := func(yield func([]byte, error) bool) {
		for piece := range slices.Chunk(content, logFrame) {
			if !yield(piece, nil) {
				return
			}
		}
	}
	pack := func(_ context.Context, piece []byte) ([]byte, error) { return packer.Pack(ring.take(0), piece), nil }
	data = begin
	for packed, err := range inSequence(ctx, pieces, ahead, pack) {
		if err != nil {
			return nil, nil, err
		}
		begun := len(data)
		if frame := len(packed) + seal.Overhead; cap(data)-begun < frame { // the others are expected to be like those before
			count := len(lengths) + 1
			all := int64(begun-len(begin)+frame) * int64(len(content)) / int64(min(count*logFrame, len(content)))
			data = slices.Grow(data, int(all+all/8)-begun+len(begin)+tailSize)
		}
		data = box.Seal(data, packed, int64(begun))
		lengths = append(lengths, int64(len(data)-begun))
		ring.give(packed)
	}
	return data, lengths, nil
}

// checkLog sees that a file of the log is what its name says: its pages have the addresses, the
// timeline and the cluster. Of a part of a segment, what follows the log may be anything.
func (c *Cluster) checkLog(name string, content []byte, size int64) error {
	if !isOfSegment(name) || strings.HasSuffix(name, ".backup") {
		return nil
	}
	if size == 0 {
		size = int64(len(content))
	}
	if IsSegment(name) && int64(len(content)) != size {
		return fmt.Errorf("%s has %d bytes, and is to have %d", name, len(content), size)
	}
	if !wal.ValidSegmentSize(size) {
		return fmt.Errorf("%s has %d bytes, and a segment is a power of two from 1 MiB to 1 GiB", name, len(content))
	}
	segment, err := wal.ParseSegment(name[:24], size)
	if err != nil {
		return err
	}
	checked, start := len(content), segment.Start(size)
	p, isPart := parseLogPart(name)
	switch {
	case isPart && (p.to-p.from != int64(len(content)) || p.to <= p.from || p.to > size):
		return fmt.Errorf("%s has %d bytes", name, len(content))
	case isPart:
		start += wal.LSN(p.from)
	case !IsSegment(name):
		checked = min(checked, BlockSize)
	}
	rules := wal.PageRules{SystemID: c.name.SystemID, SegmentSize: size, Timeline: segment.Timeline}
	if err := wal.NewPageChecker(rules, start).Check(content[:checked]); err != nil {
		return usererr.Hinted("Is this the log of another cluster, or was the file written to?", "%s: %w", name, err)
	}
	return nil
}

// LogFacts returns what is known of a file of the log, or of what is there as Log says. One that is not there is
// fs.ErrNotExist.
func (c *Cluster) LogFacts(ctx context.Context, name string) (LogFacts, error) {
	facts, err := c.fileFacts(ctx, name)
	if p, ok := parseLogPart(name); ok && p.from == 0 && errors.Is(err, fs.ErrNotExist) {
		_, facts, err := c.joinedWithFacts(ctx, p)
		return facts, err
	}
	return facts, err
}

// fileFacts returns what is known of a file of the log without reading it.
func (c *Cluster) fileFacts(ctx context.Context, name string) (LogFacts, error) {
	f, err := c.openFacts(ctx, name)
	if err != nil {
		return LogFacts{}, err
	}
	return f.Facts, nil
}

// openFacts opens a file of the log of which only the beginning and the end are read.
func (c *Cluster) openFacts(ctx context.Context, name string) (*LogFile, error) {
	at, err := c.logName(name)
	if err != nil {
		return nil, err
	}
	size := int64(-1)
	for info, err := range c.repo.store.List(ctx, at, "") {
		if err != nil {
			return nil, err
		}
		if info.Name == at {
			size = info.Size
		}
		break // it is the first, if it is there
	}
	switch {
	case size < 0:
		return nil, fmt.Errorf("%s: %w", at, fs.ErrNotExist)
	case size < c.repo.logBegin()+footerSize:
		return nil, fmt.Errorf("%s: %w", at, seal.ErrDamaged)
	}
	var head, tail []byte
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		head, err = c.repo.store.Get(groupCtx, at, 0, c.repo.logBegin())
		return err
	})
	group.Go(func() (err error) {
		tail, err = c.logTail(groupCtx, at, size, tailSize)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	box, err := c.repo.openLog(ctx, at, head)
	if err != nil {
		return nil, err
	}
	length, err := trailerLength(tail[len(tail)-footerSize:])
	if err == nil && length > int64(len(tail)-footerSize) {
		tail, err = c.logTail(ctx, at, size, length+footerSize)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	facts, err := c.readFacts(name, at, box, head, tail, size)
	return &LogFile{Facts: facts, cluster: c, at: at, box: box, size: size}, err
}

// tailSize is how much is read of the end of a file of the log for what is known of it, in bytes.
const tailSize = 16 << 10

// logTail reads the last bytes of an object, at most so many.
func (c *Cluster) logTail(ctx context.Context, at string, size, most int64) ([]byte, error) {
	n := min(size-c.repo.logBegin(), most)
	return c.repo.store.Get(ctx, at, size-n, n)
}

// readFacts reads the trailer of a file of the log.
func (c *Cluster) readFacts(name, at string, box *seal.Box, head, tail []byte, size int64) (facts LogFacts, err error) {
	content, err := openTrailer(box, tail, size)
	if err != nil {
		return facts, fmt.Errorf("%s: %w", at, err)
	}
	if err := json.Unmarshal(content, &facts); err != nil {
		return facts, fmt.Errorf("%s: %w", at, err)
	}
	if facts.Name != name || !bytes.Equal(head[seal.HeadSize:logHead], c.repo.logDigest(name, facts.SHA256)) {
		return facts, fmt.Errorf("%s: %w", at, seal.ErrDamaged)
	}
	return facts, nil
}

// openTrailer returns the content of the trailer of an object, of which tail is the end, and
// which has so many bytes.
func openTrailer(box *seal.Box, tail []byte, size int64) ([]byte, error) {
	if len(tail) < footerSize {
		return nil, errTrailer
	}
	length, err := trailerLength(tail[len(tail)-footerSize:])
	if err != nil {
		return nil, err
	}
	if length > int64(len(tail)-footerSize) {
		return nil, errTrailer
	}
	at := size - footerSize - length
	frame := slices.Clone(tail[int64(len(tail))-footerSize-length : len(tail)-footerSize])
	return box.Open(nil, frame, at, maxPart)
}

// LogNames yields the names of the files of the log of a timeline, sorted, from one on.
func (c *Cluster) LogNames(ctx context.Context, t wal.Timeline, from string) iter.Seq2[string, error] {
	prefix := c.below(fmt.Sprintf("wal/%08X/", uint32(t)))
	after := ""
	if len(from) >= 16 {
		after = prefix + from[8:16] + "/" + from[:len(from)-1]
	}
	return func(yield func(string, error) bool) {
		for info, err := range c.repo.store.List(ctx, prefix, after) {
			if err != nil {
				yield("", err)
				return
			}
			name := info.Name[strings.LastIndexByte(info.Name, '/')+1:]
			if name < from {
				continue
			}
			if !yield(name, nil) {
				return
			}
		}
	}
}

// Timelines returns the timelines that the log is there of, sorted.
func (c *Cluster) Timelines(ctx context.Context) ([]wal.Timeline, error) {
	prefix := c.below("wal/")
	var found []wal.Timeline
	for after := ""; ; {
		next := ""
		for info, err := range c.repo.store.List(ctx, prefix, after) {
			if err != nil {
				return nil, err
			}
			next = info.Name
			break
		}
		if next == "" {
			return found, nil
		}
		digits, _, _ := strings.Cut(next[len(prefix):], "/")
		t, err := strconv.ParseUint(digits, 16, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is not of a repository", next)
		}
		found = append(found, wal.Timeline(t))
		after = prefix + digits + "0"
	}
}
