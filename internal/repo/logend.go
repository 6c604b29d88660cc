package repo

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"basin/internal/wal"
)

// LogEnd returns the beginning of the first segment that is not in the repository as a whole: behind the newest of
// the newest timeline that it has log of, or with a position, the first from the segment on that this is in. size is
// that of segments, in bytes. It returns false if there is no log, or none from the position on.
func (c *Cluster) LogEnd(ctx context.Context, size int64, from wal.Position) (wal.Position, bool, error) {
	if from.LSN != 0 {
		return c.followLog(ctx, size, from)
	}
	timelines, err := c.Timelines(ctx)
	if err != nil {
		return wal.Position{}, false, err
	}
	for _, t := range slices.Backward(timelines) {
		if end, ok, err := c.newestLog(ctx, size, t); ok || err != nil {
			return end, ok, err
		}
	}
	return wal.Position{}, false, nil
}

// followLog returns where the segments end that follow each other from one on.
func (c *Cluster) followLog(ctx context.Context, size int64, from wal.Position) (wal.Position, bool, error) {
	first := wal.SegmentAt(from, size)
	next := first
	for name, err := range c.LogNames(ctx, from.Timeline, first.Name(size)) {
		if err != nil {
			return wal.Position{}, false, err
		}
		if name[:min(len(name), 24)] > next.Name(size) {
			break
		}
		if name == next.Name(size) {
			next.Number++
		}
	}
	return wal.Position{LSN: next.Start(size), Timeline: from.Timeline}, next != first, nil
}

// newestLog returns where the newest segment of a timeline ends, or begins if only parts of it are there. What
// there is is not listed: the newest folder is looked for by halves.
func (c *Cluster) newestLog(ctx context.Context, size int64, t wal.Timeline) (end wal.Position, ok bool, err error) {
	folder := func(log uint64) string { return c.below(fmt.Sprintf("wal/%08X/%08X/", uint32(t), log)) }
	isThere := func(log uint64) (bool, error) { // log in that folder, or in one behind it
		for info, err := range c.repo.store.List(ctx, c.below(fmt.Sprintf("wal/%08X/", uint32(t))), strings.TrimSuffix(folder(log), "/")) {
			if err != nil || !isNoLog(info.Name) {
				return err == nil, err
			}
		}
		return false, nil
	}
	least, most := uint64(0), uint64(1)<<32 // in the first there may be one, in the last there is none
	for least+1 < most {
		middle := (least + most) / 2
		found, err := isThere(middle)
		if err != nil {
			return end, false, err
		}
		if found {
			least = middle
		} else {
			most = middle
		}
	}
	for info, err := range c.repo.store.List(ctx, folder(least), "") {
		if err != nil {
			return end, false, err
		}
		name := info.Name[strings.LastIndexByte(info.Name, '/')+1:]
		if len(name) < 24 || isNoLog(name) {
			continue
		}
		segment, err := wal.ParseSegment(name[:24], size)
		if err != nil {
			return end, false, err
		}
		if IsSegment(name) {
			segment.Number++
		}
		end = wal.Position{LSN: max(end.LSN, segment.Start(size)), Timeline: t}
		ok = true
	}
	return end, ok, nil
}

// isNoLog says whether a file that is kept with the log has none in it: a history, of a timeline or of a backup.
func isNoLog(name string) bool {
	return strings.HasSuffix(name, ".history") || strings.HasSuffix(name, ".backup")
}
