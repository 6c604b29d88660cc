package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"basin/internal/seal"
	"basin/internal/wal"
)

// packContent is what a pack has, as its trailer says.
type packContent struct {
	lengths map[int64]uint32 // of frames
	blocks  map[spot]block
}

// spot is where a block is in a pack.
type spot struct {
	frame  int64
	within uint32
}

// readContent reads what a trailer says.
func readContent(trailer *part) (*packContent, error) {
	p := &packContent{lengths: make(map[int64]uint32), blocks: make(map[spot]block)}
	for i := range trailer.groups {
		g, err := trailer.group(i)
		if err != nil {
			return nil, err
		}
		for _, x := range g.extents {
			p.lengths[x.at.frame] = x.at.length
			for n, b := range x.blocks {
				p.blocks[spot{x.at.frame, x.at.within + uint32(n*BlockSize)}] = b
			}
		}
	}
	return p, nil
}

// compare compares what an index says of blocks in the pack with what that has.
func (p *packContent) compare(x extent) error {
	if p.lengths[x.at.frame] != x.at.length {
		return fmt.Errorf("it has no frame of %d bytes at byte %d: %w", x.at.length, x.at.frame, seal.ErrDamaged)
	}
	for n, b := range x.blocks {
		have, ok := p.blocks[spot{x.at.frame, x.at.within + uint32(n*BlockSize)}]
		if !ok || have != b {
			return fmt.Errorf("it has another block than the index says in the frame at byte %d: %w", x.at.frame, seal.ErrDamaged)
		}
	}
	return nil
}

// checkPack reads a pack, and compares all blocks with their digests, which were made with a key.
func (c *Cluster) checkPack(ctx context.Context, id PackID, key seal.KeyID) error {
	name := c.packName(id)
	data, err := c.repo.store.Get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	secret, err := c.repo.readKey(ctx, key)
	if err != nil {
		return err
	}
	digests, err := seal.NewDigester(secret)
	if err != nil {
		return err
	}
	box, err := c.repo.open(ctx, kindPack, name, data)
	if err != nil {
		return err
	}
	trailer, err := openTrailer(box, data, int64(len(data)))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	parsed, err := parsePart(trailer)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	content, err := readContent(parsed)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := content.check(data, box, digests); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// check opens all frames of a pack, and compares their blocks.
func (p *packContent) check(data []byte, box *seal.Box, digests *seal.Digester) error {
	spots := slices.SortedFunc(maps.Keys(p.blocks), func(a, b spot) int {
		return cmp.Or(cmp.Compare(a.frame, b.frame), cmp.Compare(a.within, b.within))
	})
	trailer, err := trailerLength(data[len(data)-footerSize:])
	if err != nil {
		return err
	}
	at, end := int64(seal.HeadSize), int64(len(data))-footerSize-trailer
	var buffer []byte
	for len(spots) > 0 {
		next := at + int64(p.lengths[at])
		if spots[0].frame != at || next > end {
			return fmt.Errorf("at byte %d is no frame: %w", at, errPart)
		}
		if buffer, err = box.Open(buffer[:0], data[at:next:next], at, frameSize+BlockSize); err != nil {
			return err
		}
		for len(spots) > 0 && spots[0].frame == at {
			from, to := int64(spots[0].within), int64(len(buffer))
			if len(spots) > 1 && spots[1].frame == at {
				to = int64(spots[1].within)
			}
			if from > to || to > int64(len(buffer)) || to-from > BlockSize {
				return fmt.Errorf("in the frame at byte %d: %w", at, errPart)
			}
			b := buffer[from:to]
			if k := p.blocks[spots[0]]; digests.Sum(b) != k.digest || checksum(b) != k.crc {
				return fmt.Errorf("a block in the frame at byte %d: %w", at, seal.ErrDamaged)
			}
			spots = spots[1:]
		}
		at = next
	}
	if at != end {
		return fmt.Errorf("at byte %d is something else: %w", at, errPart)
	}
	return nil
}

// trailersKept is of how many packs the content is kept in memory while indexes are gone over.
const trailersKept = 64

// trailer returns the content of a pack, from memory if it is there.
func (v *verifier) trailer(ctx context.Context, id PackID, size int64) (*packContent, error) {
	if p, ok := v.trailers[id]; ok {
		return p, nil
	}
	read, err := v.cluster.packTrailer(ctx, id, size)
	if err != nil {
		return nil, err
	}
	p, err := readContent(read)
	if err != nil {
		return nil, err
	}
	if len(v.order) == trailersKept {
		delete(v.trailers, v.order[0])
		v.order = v.order[1:]
	}
	v.trailers[id] = p
	v.order = append(v.order, id)
	return p, nil
}

// avoidDamaged has the next backup leave nothing in packs that are damaged or missing.
func (v *verifier) avoidDamaged(ctx context.Context) error {
	known, _, _, _ := v.cluster.packsOf(ctx, factDamaged) // a damaged fact is told of
	if err := v.store.failed(); err != nil {
		return err
	}
	damaged := make(map[PackID]bool)
	for name := range v.damages {
		var id PackID
		if text, ok := strings.CutPrefix(name, v.writer.below("packs/")); ok && id.UnmarshalText([]byte(text)) == nil && !known[id] {
			damaged[id] = true
		}
	}
	if len(damaged) == 0 {
		return nil
	}
	return v.writer.putPacks(ctx, factDamaged, damaged)
}

// verifiedFact says when packs were verified.
type verifiedFact struct {
	Packs   map[string]int64 `json:"packs"`             // seconds since 1970, by identifier
	At      time.Time        `json:"at,omitzero"`       // when this was written
	Damages []string         `json:"damages,omitempty"` // names of objects that were not sound when they were last looked at
	// Heads are CRC-32Cs of the first bytes that these had then, by their names; empty for those that were not there.
	Heads map[string]string `json:"heads,omitempty"`
}

// recall reads when packs were verified.
func (v *verifier) recall(ctx context.Context) error {
	v.verified, v.heads = make(map[PackID]int64), make(map[string]string)
	for f, err := range v.cluster.facts(ctx, factVerified) {
		if v.store.failed() != nil {
			return v.store.failed()
		}
		var fact verifiedFact
		if err == nil {
			err = f.read(&fact)
		}
		if err != nil {
			continue // that is told of all facts
		}
		v.recalled = append(v.recalled, fact.Damages...)
		maps.Copy(v.heads, fact.Heads)
		for text, when := range fact.Packs {
			var id PackID
			if id.UnmarshalText([]byte(text)) == nil && v.packs[id] != nil {
				v.verified[id] = max(v.verified[id], when)
			}
		}
	}
	return nil
}

// remember keeps when packs were verified and what is damaged, in place of what said so before.
func (v *verifier) remember(ctx context.Context) error {
	if len(v.verified) == 0 && len(v.damages) == 0 && len(v.recalled) == 0 {
		return nil
	}
	var names []string
	for info, err := range v.writer.repo.store.List(ctx, v.writer.below("facts/"+factVerified+"/"), "") {
		if err != nil {
			return err
		}
		if v.damages[info.Name] == nil {
			names = append(names, info.Name)
		}
	}
	fact := verifiedFact{Packs: make(map[string]int64), At: v.o.Now.UTC(), Damages: v.damagesLeft()}
	var err error
	if fact.Heads, err = v.headsLeft(ctx, fact.Damages); err != nil {
		return err
	}
	for id, when := range v.verified {
		fact.Packs[id.String()] = when
	}
	if _, err := v.writer.putFact(ctx, factVerified, fact); err != nil {
		return err
	}
	_, err = v.writer.remove(ctx, names)
	return err
}

// log reads the log, and sees that there is what backups need of it.
func (v *verifier) log(ctx context.Context) error {
	have := make(map[string]bool) // segments, and whether they are whole
	for info, err := range v.store.List(ctx, v.cluster.below("wal/"), "") {
		if err != nil {
			return err
		}
		name := info.Name[strings.LastIndexByte(info.Name, '/')+1:]
		if at, err := v.cluster.logName(name); err != nil || at != info.Name {
			return errForeign(info.Name)
		}
		if segment, _, isPart := strings.Cut(name, ".part"); isPart || IsSegment(name) {
			have[segment] = have[segment] || !isPart
		}
		if len(v.o.Backups) > 0 || !v.isSampled(name) {
			continue
		}
		if err := v.logFile(ctx, name); err != nil {
			return err
		}
	}
	for i := range v.commits {
		if err := v.gaps(ctx, &v.commits[i], have); err != nil {
			return err
		}
	}
	return nil
}

// isSampled says whether a file of the log is read.
func (v *verifier) isSampled(name string) bool {
	return v.o.Sample == 1 || float64(checksum(fmt.Append(nil, name, v.o.Now.UnixNano()))) < v.o.Sample*(1<<32)
}

// logFile reads a file of the log.
func (v *verifier) logFile(ctx context.Context, name string) error {
	v.report.Log++
	f, err := v.cluster.OpenLog(ctx, name, 0)
	if err == nil {
		err = f.Check(ctx)
	}
	v.o.Progress.Log.Add(1)
	if failed := v.store.failed(); failed != nil || err == nil || errors.Is(err, fs.ErrNotExist) {
		return failed
	}
	at, _ := v.cluster.logName(name) // which is one
	v.damage(at, err, "", "")
	for i := range v.commits {
		for segment := range v.commits[i].segments() {
			if segment == name {
				v.damage(at, err, v.commits[i].ID, "")
			}
		}
	}
	return nil
}

// segments yields the names of the segments of the log without which a backup cannot be restored.
func (c *Commit) segments() func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if !wal.ValidSegmentSize(c.SegmentSize) {
			return
		}
		for _, r := range c.Ranges {
			last := r.Start
			if r.End > r.Start {
				last = r.End - 1
			}
			first := wal.SegmentAt(wal.Position{LSN: r.Start, Timeline: r.Timeline}, c.SegmentSize)
			for s := first; s.Start(c.SegmentSize) <= last; s.Number++ {
				if !yield(s.Name(c.SegmentSize)) {
					return
				}
			}
		}
	}
}

// gaps sees that the log that a backup needs is there: in the repository, or in the backup. If a part of a segment
// is, it is to lead to where the backup ends.
func (v *verifier) gaps(ctx context.Context, commit *Commit, have map[string]bool) error {
	part, isMissing := "", false
	for name := range commit.segments() {
		isWhole, isThere := have[name]
		if isWhole {
			if len(v.o.Backups) > 0 {
				if err := v.logFile(ctx, name); err != nil {
					return err
				}
			}
			continue
		}
		m, err := v.cluster.index(commit).member(ctx, key{path: "pg_wal/" + name})
		if failed := v.store.failed(); failed != nil {
			return failed
		}
		switch {
		case m != nil || err != nil: // a part that cannot be read is told of
		case isThere:
			part = name
		default:
			isMissing = true
			at, _ := v.cluster.logName(name) // which is one
			v.damage(at, fmt.Errorf("%s: %w", at, fs.ErrNotExist), commit.ID, "")
		}
	}
	if part == "" || isMissing || commit.Stop.LSN == 0 {
		return nil
	}
	_, err := v.cluster.Reach(ctx, *commit, commit.Stop.Timeline)
	if failed := v.store.failed(); failed != nil {
		return failed
	}
	if err != nil {
		at, _ := v.cluster.logName(part) // which is one
		v.damage(at, err, commit.ID, "")
	}
	return nil
}
