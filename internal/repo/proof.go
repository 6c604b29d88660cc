package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"basin/internal/backup"
	"basin/internal/manifest"
)

// checksumOn returns the CRC-32C of what has one, and of bytes behind that.
func checksumOn(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }

// crcBytes returns a CRC-32C as manifests have it.
func crcBytes(crc uint32) []byte { return binary.LittleEndian.AppendUint32(nil, crc) }

// isUnproved says whether what a source's manifest says of a file is not looked at: it does not list segments of the
// log, and configuration from outside of the data directory.
func isUnproved(k key) bool { return isUnlisted(k) || isConfiguration(k) }

// isUnlisted says whether a manifest does not list a file: segments of the log.
func isUnlisted(k key) bool {
	return k.tablespace == 0 && strings.HasPrefix(k.path, "pg_wal/") && !strings.HasSuffix(k.path, ".history")
}

// readManifest keeps what the source's manifest says of files, for the backup to be compared
// with: then what is stored is proved to be what the server read.
func (s *Sink) readManifest(ctx context.Context, r io.Reader) error {
	read, err := manifest.Read(r, func(f manifest.File) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		m := member{kind: backup.File, size: f.Size}
		switch {
		case f.Algorithm == manifest.CRC32C && len(f.Checksum) == 4:
			m.crc = binary.LittleEndian.Uint32(f.Checksum)
		case len(f.Checksum) > 0:
			m.target = f.Algorithm.String() // which is not compared
		}
		tablespace, path := s.commit.CutPath(f.Path)
		listed := key{tablespace, path}
		whole, isIncremental := s.cutIncremental(backup.Member{Kind: backup.File}, listed)
		if !isIncremental {
			return s.listed.add(group{key: listed, member: &m})
		}
		if err := s.pieces.add(group{key: listed, member: &m}); err != nil {
			return err
		}
		return s.listed.add(group{key: whole, member: &member{}}) // of the whole it says nothing
	})
	if err != nil {
		return err
	}
	if read.SystemID != 0 && read.SystemID != s.cluster.name.SystemID {
		return fmt.Errorf("the manifest is of cluster %d, and the backup of %d", read.SystemID, s.cluster.name.SystemID)
	}
	s.commit.Ranges, s.hasManifest = read.Ranges, true
	return nil
}

// errUnproved is a backup that is not what its source says that it sent.
var errUnproved = errors.New("what came is not what the manifest lists")

// prove compares the backup with its manifest. An incremental file is compared as it came: of
// the whole, that its blocks are those of the parent is known by their digests.
func (s *Sink) prove(ctx context.Context) error {
	if !s.hasManifest {
		if s.commit.Start.Timeline == s.commit.Stop.Timeline {
			s.commit.Ranges = []manifest.Range{{Timeline: s.commit.Start.Timeline, Start: s.commit.Start.LSN, End: s.commit.Stop.LSN}}
		}
		return nil
	}
	if err := s.provePieces(ctx); err != nil {
		return err
	}
	next, stop := pull(s.cluster.index(&s.commit).all(ctx, key{}))
	defer stop()
	nextFile := func() (*group, error) {
		for {
			g, err := next()
			if err != nil || g == nil || g.member.kind == backup.File && !isUnproved(g.key) {
				return g, err
			}
		}
	}
	have, err := nextFile()
	if err != nil {
		return err
	}
	err = s.listed.each(ctx, func(g group) error {
		switch {
		case isUnproved(g.key):
			return nil
		case have == nil || have.key.compare(g.key) > 0:
			return fmt.Errorf("%w: file %v is missing", errUnproved, g.key)
		case have.key.compare(g.key) < 0:
			return fmt.Errorf("%w: file %v is not there", errUnproved, have.key)
		case g.member.kind == 0:
		case have.member.size != g.member.size || g.member.target == "" && have.member.crc != g.member.crc:
			return fmt.Errorf("%w: file %v has %d bytes with checksum %08x, and not %d with %08x", errUnproved,
				g.key, have.member.size, have.member.crc, g.member.size, g.member.crc)
		}
		var err error
		have, err = nextFile()
		return err
	})
	if err == nil && have != nil {
		err = fmt.Errorf("%w: file %v is not there", errUnproved, have.key)
	}
	return err
}
