package verify

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/wal"
)

// LogInArchives is Log for a backup of tar files: the log is in pg_wal.tar or, where it
// was fetched with the backup, in base.tar. The archive is read once for each range.
func (v *Verifier) LogInArchives(ctx context.Context, dir string) error {
	return v.eachRange(ctx, func(r manifest.Range) error {
		a, err := logArchive(dir)
		if err != nil {
			return err
		}
		members, err := openArchive(ctx, dir, a, nil)
		if err != nil {
			return err
		}
		defer members.Close()
		return v.readArchivedRange(members.Reader, a, r)
	})
}

// logArchive returns the archive that has the log.
func logArchive(dir string) (archive, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return archive{}, localfs.Errorf(err, dir, "could not open directory \"%s\"", dir)
	}
	var base archive
	for _, e := range entries {
		a, ok := backup.ParseArchiveName(e.Name())
		switch {
		case a.Log:
			return archive{a, e.Name()}, nil
		case ok && a.Tablespace == 0:
			base = archive{a, e.Name()}
		}
	}
	if base.name == "" {
		return archive{}, fmt.Errorf("neither pg_wal.tar nor base.tar is in \"%s\": %w", dir, fs.ErrNotExist)
	}
	return base, nil
}

// readArchivedRange reads a range from an archive.
func (v *Verifier) readArchivedRange(members *tar.Reader, a archive, r manifest.Range) error {
	s := &archivedSegments{members: members, archive: a.name}
	first, err := s.find(func(seg wal.Segment, size int64) bool {
		return seg == wal.SegmentAt(wal.Position{LSN: r.Start, Timeline: r.Timeline}, size)
	})
	if err != nil {
		return fmt.Errorf("the segment with %v: %w", r.Start, err)
	}
	s.current = first
	return v.readRange(s, s.size, r)
}

// archivedSegments reads segments of one timeline that follow each other in an archive.
type archivedSegments struct {
	members *tar.Reader
	archive string
	size    int64
	current wal.Segment
}

// find goes to a member that is a wanted segment.
func (s *archivedSegments) find(wanted func(seg wal.Segment, size int64) bool) (wal.Segment, error) {
	for {
		member, err := s.members.Next()
		switch {
		case errors.Is(err, io.EOF):
			return wal.Segment{}, fmt.Errorf("not found in archive \"%s\": %w", s.archive, fs.ErrNotExist)
		case err != nil:
			return wal.Segment{}, fmt.Errorf("could not read archive \"%s\": %w", s.archive, err)
		case member.Typeflag != tar.TypeReg || !wal.ValidSegmentSize(member.Size):
			continue
		}
		seg, err := wal.ParseSegment(path.Base(member.Name), member.Size)
		if err == nil && wanted(seg, member.Size) {
			s.size = member.Size
			return seg, nil
		}
	}
}

func (s *archivedSegments) Read(p []byte) (int, error) {
	for {
		n, err := s.members.Read(p)
		if n > 0 || err != io.EOF {
			return n, err
		}
		next := wal.Segment{Timeline: s.current.Timeline, Number: s.current.Number + 1}
		if s.current, err = s.find(func(seg wal.Segment, size int64) bool { return seg == next && size == s.size }); err != nil {
			return 0, fmt.Errorf("segment %s: %w", next.Name(s.size), err)
		}
	}
}
