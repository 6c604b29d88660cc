package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/localfs"
	"basin/internal/usererr"
)

// spaceNeed is how much of a file system a restore takes.
type spaceNeed struct {
	dir    string // in it
	device uint64
	need   int64 // bytes
	there  int64 // bytes of files that are there already, which make room or stay
	free   int64 // bytes
}

// String tells it.
func (n spaceNeed) String() string {
	there := ""
	if n.there > 0 {
		there = fmt.Sprintf(", of which up to %s are there", humanize.IBytes(uint64(n.there)))
	}
	return fmt.Sprintf("%s%s; %s are free in \"%s\"", humanize.IBytes(uint64(n.need)), there, humanize.IBytes(uint64(n.free)), n.dir)
}

// fits says whether there is room for it.
func (n spaceNeed) fits() bool { return n.need <= n.there+n.free }

// How it is found out how long a restore takes.
const (
	longSize   = 1 << 30 // bytes of a backup from which on it is: what is smaller is soon there
	sampleTime = time.Second
	sampleSize = 128 << 20 // bytes
)

// rate restores a sample of the backup, into files without a name, and returns how many bytes of it came in a second. It is zero where that does
// not tell how long it takes: if only some of it is restored, or little. That it cannot be done is no error: who restores is told why.
func (r *restoreRun) rate(ctx context.Context, p *restorePlan) int64 {
	if r.part != nil || r.into != nil && r.into.Exists || p.commit.Size < longSize || len(p.space) == 0 {
		return 0
	}
	most := slices.MaxFunc(p.space, func(a, b spaceNeed) int { return cmp.Compare(a.need, b.need) })
	files := make([]*os.File, r.o.Jobs)
	for i := range files {
		f, err := os.CreateTemp(most.dir, ".basin-*")
		if err != nil {
			return 0
		}
		defer f.Close() // it has no name, and is gone
		if err := os.Remove(f.Name()); err != nil {
			return 0
		}
		files[i] = f
	}
	begun := time.Now()
	n, err := r.cluster.Sample(ctx, p.commit, r.o.Jobs, sampleTime, min(sampleSize, most.free/2), func(worker int, content []byte) error {
		_, err := files[worker].Write(content)
		return err
	})
	for _, f := range files {
		if err == nil && !r.o.NoSync {
			err = f.Sync()
		}
	}
	if err != nil {
		return 0
	}
	return int64(float64(n) / time.Since(begun).Seconds())
}

// space finds out what the restore needs of each file system that tells how much is free.
func (r *restoreRun) space(ctx context.Context, p *restorePlan) (needs []spaceNeed, err error) {
	if r.part != nil {
		return nil, nil // zeros take no room
	}
	if r.o.Format == formatTar {
		if r.o.Directory == "-" || r.o.Compression.Algorithm != 0 {
			return nil, nil // who can tell
		}
		return addSpace(nil, r.o.Directory, p.commit.Size, false), nil
	}
	sizes := map[uint32]int64{0: p.commit.Size}
	if len(p.commit.Tablespaces) > 0 {
		if sizes, err = r.cluster.Sizes(ctx, p.commit); err != nil {
			return nil, err
		}
	}
	const segments = 2 // of the log, that recovery has in pg_wal at once
	main := sizes[0] + segments*p.commit.SegmentSize
	for _, t := range p.commit.Tablespaces {
		if filepath.IsAbs(t.Location) {
			place := r.mapped(t)
			needs = addSpace(needs, place, sizes[t.OID], r.into.Holds(t.OID, place))
		} else {
			main += sizes[t.OID]
		}
	}
	return addSpace(needs, r.o.Directory, main, r.into.Exists), nil
}

// addSpace adds what a directory is to hold. isOurs says that what is in it makes room.
func addSpace(needs []spaceNeed, path string, size int64, isOurs bool) []spaceNeed {
	free, dir, ok := localfs.Free(path)
	info, err := os.Stat(dir)
	if !ok || err != nil {
		return needs
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return needs
	}
	n := spaceNeed{dir: dir, device: uint64(st.Dev), need: size, free: free}
	if isOurs {
		n.there = usedBy(path, n.device)
	}
	for i := range needs {
		if needs[i].device == n.device {
			needs[i].need += n.need
			needs[i].there += n.there
			return needs
		}
	}
	return append(needs, n)
}

// usedBy returns how many bytes of a file system the files in a directory have that have no other names.
func usedBy(dir string, device uint64) (used int64) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil // what cannot be looked at makes no room
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink == 1 && uint64(st.Dev) == device {
			used += st.Blocks * 512
		}
		return nil
	})
	return used
}

// checkSpace refuses what does not fit.
func (r *restoreRun) checkSpace(p *restorePlan) error {
	if r.o.NoSpaceCheck {
		return nil
	}
	var errs []error
	for _, n := range p.space {
		if !n.fits() {
			errs = append(errs, fmt.Errorf("the file system of \"%s\" is too small: %s", n.dir, n))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	hint := []string{"Make room, or name another directory; -T moves tablespaces.", "On a file system that compresses, --no-space-check tries it."}
	return &usererr.Error{Err: errors.Join(errs...), Hint: strings.Join(hint, " ")}
}
