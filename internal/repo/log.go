package repo

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"basin/internal/seal"
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
