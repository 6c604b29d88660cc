package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// PartialName returns the name of the part of a segment that ends at an offset in it.
func PartialName(segment string, end int64) string {
	return fmt.Sprintf("%s.partial.%08X", segment, end)
}

// PartName returns the name of the part of a segment that is from one offset in it to another, such as has
// come since the part before it.
func PartName(segment string, from, to int64) string {
	return fmt.Sprintf("%s.part.%08X.%08X", segment, from, to)
}

// logPart is a part of a segment of which it is known where it begins and ends.
type logPart struct {
	name, segment string
	from, to      int64 // offsets in the segment
}

// parseLogPart takes the name of such a part apart.
func parseLogPart(name string) (p logPart, ok bool) {
	if len(name) < 24 || !wal.IsDigits(name[:24], 24) {
		return p, false
	}
	p = logPart{name: name, segment: name[:24]}
	if to, isPartial := strings.CutPrefix(name[24:], ".partial."); isPartial {
		p.to, ok = parseOffset(to)
		return p, ok
	}
	rest, isPart := strings.CutPrefix(name[24:], ".part.")
	from, to, isPair := strings.Cut(rest, ".")
	if !isPart || !isPair {
		return p, false
	}
	var isFrom, isTo bool
	p.from, isFrom = parseOffset(from)
	p.to, isTo = parseOffset(to)
	return p, isFrom && isTo
}

// parseOffset reads eight hexadecimal digits.
func parseOffset(digits string) (int64, bool) {
	n, err := strconv.ParseUint(digits, 16, 32)
	return int64(n), err == nil && wal.IsDigits(digits, 8)
}

// cover returns the parts by which the beginning of a segment is there, and where that ends.
func cover(parts []logPart) (chosen []logPart, end int64) {
	for {
		next := logPart{to: end}
		for _, p := range parts {
			if p.from <= end && (p.to > next.to || p.to == next.to && next.name != "" && p.from < next.from) {
				next = p
			}
		}
		if next.to == end {
			return chosen, end
		}
		chosen, end = append(chosen, next), next.to
	}
}

// segmentParts returns the parts of a segment that are there. isWithoutEnd says that there is one, too, of
// which it is not known where it ends.
func (c *Cluster) segmentParts(ctx context.Context, segment string) (parts []logPart, isWithoutEnd bool, err error) {
	at, err := c.logName(segment)
	if err != nil {
		return nil, false, err
	}
	for info, err := range c.repo.store.List(ctx, at+".part", "") {
		if err != nil {
			return nil, false, err
		}
		name := info.Name[strings.LastIndexByte(info.Name, '/')+1:]
		if p, ok := parseLogPart(name); ok {
			parts = append(parts, p)
		} else {
			isWithoutEnd = true
		}
	}
	return parts, isWithoutEnd, nil
}

// LongestPartial returns the name by which the longest part of a segment that is there can be read,
// as a file or as several that make it up. There is none with fs.ErrNotExist.
func (c *Cluster) LongestPartial(ctx context.Context, segment string) (string, error) {
	parts, isWithoutEnd, err := c.segmentParts(ctx, segment)
	if err != nil {
		return "", err
	}
	_, end := cover(parts)
	switch {
	case end > 0:
		return PartialName(segment, end), nil
	case isWithoutEnd:
		return segment + ".partial", nil
	}
	return "", fs.ErrNotExist
}

// partsAtOnce is how many parts are read at the same time.
const partsAtOnce = 8

// joined returns the first part of a segment, which is made up of others. If they were removed while they were
// read, since the segment is there now, it is taken from that.
func (c *Cluster) joined(ctx context.Context, wanted logPart) ([]byte, error) {
	parts, _, err := c.segmentParts(ctx, wanted.segment)
	if err != nil {
		return nil, err
	}
	chosen, end := cover(parts)
	if end < wanted.to {
		return nil, fmt.Errorf("%s: %w", wanted.name, fs.ErrNotExist)
	}
	contents := make([][]byte, len(chosen))
	group, ctxOfGroup := errgroup.WithContext(ctx)
	group.SetLimit(partsAtOnce)
	for i, p := range chosen {
		group.Go(func() (err error) {
			contents[i], err = c.logFile(ctxOfGroup, p.name)
			if err == nil && int64(len(contents[i])) != p.to-p.from {
				err = fmt.Errorf("%s: %w", p.name, seal.ErrDamaged)
			}
			return err
		})
	}
	err = group.Wait()
	if errors.Is(err, fs.ErrNotExist) {
		whole, failed := c.logFile(ctx, wanted.segment)
		if failed != nil || int64(len(whole)) < wanted.to {
			return nil, fmt.Errorf("a part of %s was removed while it was read", wanted.segment) // which is no proof that it is absent
		}
		return whole[:wanted.to], nil
	}
	if err != nil {
		return nil, err
	}
	var content []byte
	for i, p := range chosen {
		overlap := int64(len(content)) - p.from
		if was, is := content[p.from:], contents[i][:overlap]; !bytes.Equal(was, is) {
			return nil, otherLog(p.name, was, is)
		}
		content = append(content, contents[i][overlap:]...)
	}
	return content[:wanted.to], nil
}

// joinedWithFacts is joined, and what is known of that.
func (c *Cluster) joinedWithFacts(ctx context.Context, wanted logPart) ([]byte, LogFacts, error) {
	content, err := c.joined(ctx, wanted)
	if err != nil {
		return nil, LogFacts{}, err
	}
	sum := sha256.Sum256(content)
	facts := LogFacts{Name: wanted.name, Size: int64(len(content)), SHA256: sum[:]}
	size, ok := wal.SegmentSize(content)
	if !ok {
		facts.Problem = "it is less than the header of a page"
		return content, facts, nil
	}
	if err := c.summarize(&facts, bytes.NewReader(content), facts.Size, size); err != nil {
		facts.Problem = err.Error()
	}
	return content, facts, nil
}

func otherLog(name string, have, refused []byte) error {
	was, is := sha256.Sum256(have), sha256.Sum256(refused)
	return &OtherLogError{name, was[:], is[:]}
}

// checkParts sees that a segment begins with what was received of it before, and the other way
// round: else two clusters write one log. Who cannot read does not see it. Of a part that goes on
// where others end that is not seen, but when the segment comes.
func (c *Cluster) checkParts(ctx context.Context, name string, content logContent) error {
	p, isPart := parseLogPart(name)
	if !c.repo.CanRead() || !isPart && !IsSegment(name) || p.from > 0 {
		return nil
	}
	segment := name[:24]
	other, have := segment, []byte(nil)
	err := fs.ErrNotExist
	if isPart {
		have, err = c.logFile(ctx, segment)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if other, err = c.LongestPartial(ctx, segment); err == nil && strings.HasSuffix(other, ".partial") {
			return nil // what follows the log in it may be anything
		}
		if err == nil {
			have, err = c.Log(ctx, other)
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, seal.ErrDamaged) {
		return nil // what cannot be read is for verify to tell
	}
	if err != nil {
		return err
	}
	have = have[:min(int64(len(have)), content.size)]
	begin, err := content.begin(int64(len(have)))
	if err != nil || bytes.Equal(have, begin) {
		return err
	}
	return otherLog(other, have, begin)
}

// isFilledUp says whether a segment in which the log ends early is no more than the part that is there, filled with zeros: what a server got from here, or was
// rewound to. A standby that archives what it restores pushes that, and so does a server that was promoted to another timeline, which archives nothing more before.
// All that is in it is in the repository, and it does not take the place of the segment itself.
func (c *Cluster) isFilledUp(ctx context.Context, name, at string, content logContent) (bool, error) {
	const least = 8 // all records begin at a multiple of it
	if !IsSegment(name) || content.size < least {
		return false, nil
	}
	if isFilled, err := content.isZeros(content.size - least); err != nil || !isFilled {
		return false, err
	}
	parts, _, err := c.segmentParts(ctx, name)
	if err != nil {
		return false, err
	}
	chosen, end := cover(parts)
	if end == 0 || end >= content.size {
		return false, nil
	}
	if isFilled, err := content.isZeros(end); err != nil || !isFilled {
		return false, err
	}
	if _, err := c.repo.store.Get(ctx, at, 0, 1); err == nil {
		return false, nil // it is compared with that
	}
	begin, err := content.begin(end)
	if err != nil {
		return false, err
	}
	if c.repo.CanRead() {
		have, err := c.Log(ctx, PartialName(name, end))
		n := len(bytes.TrimRight(begin, "\x00"))
		return err == nil && bytes.Equal(have[:n], begin[:n]), err
	}
	for _, part := range chosen { // each of which is known by its digest
		of, err := c.logName(part.name)
		if err != nil {
			return false, err
		}
		sum := sha256.Sum256(begin[part.from:part.to])
		if err := c.compareLog(ctx, part.name, of, sum[:], content.size); err != nil {
			return false, usererr.Hinted("If this server is no standby that gets the rest from its primary, push it on a host with the repository's private key (--key-file): basin wal push FILE.",
				"%s has no more than the first %d bytes of it, of which the repository has a part, and zeros behind them: %w", name, end, err)
		}
	}
	return true, nil
}

// supersededFor is how long the whole of a segment, or a longer part of it, has been there when a part is removed:
// nobody who saw the part before that is about to read it.
const supersededFor = time.Hour

// superseded returns the parts of segments that are in others, which have been there for a while at a time, and in which
// each is. That one is kept, whoever else removes parts at the same time: none is removed that is in no other.
func superseded(files []object.Info, now time.Time) map[string]string {
	since := now.Add(-supersededFor)
	whole := make(map[string]string)    // names of objects
	parts := make(map[string][]logPart) // by segment; their names are those of the objects
	for _, info := range files {
		if info.Time.After(since) {
			continue
		}
		name := info.Name[strings.LastIndexByte(info.Name, '/')+1:]
		if p, ok := parseLogPart(name); ok {
			p.name = info.Name
			parts[p.segment] = append(parts[p.segment], p)
		} else if IsSegment(name) {
			whole[name] = info.Name
		}
	}
	gone := make(map[string]string)
	for segment, of := range parts {
		// The longest of those that begin together comes first. Of equal ones that is the last by name.
		slices.SortFunc(of, func(a, b logPart) int {
			if a.from != b.from {
				return int(a.from - b.from)
			}
			if a.to != b.to {
				return int(b.to - a.to)
			}
			return strings.Compare(b.name, a.name)
		})
		end, longest := int64(-1), ""
		for _, p := range of {
			switch {
			case whole[segment] != "":
				gone[p.name] = whole[segment]
			case p.to <= end:
				gone[p.name] = longest
			}
			if p.to > end {
				end, longest = p.to, p.name
			}
		}
	}
	return gone
}

// soundOnly returns the parts of which those that they are in are sound, as far as that can be known without reading
// all of it: their heads and trailers are what was written, and basin verify has not found them damaged.
func (c *Cluster) soundOnly(ctx context.Context, parts map[string]string) (map[string]bool, error) {
	verified, err := c.Verification(ctx)
	if err != nil {
		return nil, err
	}
	isSound := make(map[string]bool)
	for _, in := range parts {
		isSound[in] = !slices.Contains(verified.Damages, in)
	}
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(partsAtOnce)
	for _, in := range slices.Sorted(maps.Keys(isSound)) {
		group.Go(func() error {
			_, err := c.fileFacts(groupCtx, in[strings.LastIndexByte(in, '/')+1:])
			if errors.Is(err, seal.ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
				mu.Lock()
				isSound[in] = false
				mu.Unlock()
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	sound := make(map[string]bool)
	for part, in := range parts {
		sound[part] = isSound[in]
	}
	return sound, nil
}
