package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"basin/internal/backup"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// BaseBackup is a base backup that a server sends over BASE_BACKUP, as a
// backup.Source. The connection is used up by it and not closed.
type BaseBackup struct {
	conn *Conn
	o    BaseBackupOptions

	start backup.Start
	end   wal.Position
	bad   error // what End returns

	ctx         context.Context // of the Begin or Next call in hand; while an archive is unpacked, of the one that opened it
	stream      archives
	tar         *backup.TarReader
	unpack      io.Closer       // decompressor of the archive in hand
	came        map[string]bool // archives, by name without compression
	hasManifest bool
	done        bool
}

// BaseBackupOptions say which backup is wanted.
type BaseBackupOptions struct {
	Command protocol.BaseBackup
	Segment int64 // size of the server's WAL segments, in bytes

	// Manifest is the earlier backup's manifest that an incremental backup is
	// made against. Nil for a full one.
	Manifest io.Reader
	// Raw asks for whole archives as the server compressed them instead of the
	// files in them.
	Raw bool
	// Decompress unpacks an archive that the server compressed. suffix is what
	// follows .tar in its name.
	Decompress func(r io.Reader, suffix string) (io.ReadCloser, error)

	Progress *backup.Progress // must not be nil
}

// archives is how the two forms of the protocol differ: one COPY for each
// archive before 15, one for everything since.
type archives interface {
	// next moves on to the next archive. io.EOF ends the backup.
	next() (archive, error)
	// Piece hands out the bytes of the archive, io.EOF at its end.
	backup.Pieces
}

// archive is one tablespace, or the manifest.
type archive struct {
	name     string
	manifest bool
}

// NewBaseBackup returns the source; nothing is sent before Begin.
func NewBaseBackup(conn *Conn, o BaseBackupOptions) *BaseBackup {
	return &BaseBackup{conn: conn, o: o}
}

// Begin starts the backup and waits for the server's checkpoint.
//
// Source: BaseBackup in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func (b *BaseBackup) Begin(ctx context.Context) (backup.Start, error) {
	b.ctx = ctx
	if b.o.Manifest != nil {
		if err := b.conn.uploadManifest(ctx, b.o.Manifest); err != nil {
			return backup.Start{}, err
		}
	}
	if err := b.conn.send(b.o.Command.Command(b.conn.Version)); err != nil {
		return backup.Start{}, fmt.Errorf("could not send replication command \"BASE_BACKUP\": %w", err)
	}
	rows, err := b.conn.rows(ctx)
	if err != nil {
		return backup.Start{}, fmt.Errorf("could not initiate base backup: %w", err)
	}
	b.came = make(map[string]bool)
	b.start = backup.Start{ServerVersion: b.conn.Version, SegmentSize: b.o.Segment}
	if b.start.Position, err = position(rows); err != nil {
		return backup.Start{}, err
	}
	rows, err = b.conn.rows(ctx)
	if err != nil {
		return backup.Start{}, fmt.Errorf("could not get backup header: %w", err)
	}
	if err := b.tablespaces(rows); err != nil {
		return backup.Start{}, err
	}
	b.o.Progress.Total.Store(b.start.Size)
	b.o.Progress.Count.Store(int32(len(rows)))
	if b.conn.Version >= protocol.VersionOptionList {
		b.stream = &oneCopy{b: b}
	} else {
		b.stream = &manyCopies{b: b, archives: archiveNames(b.start.Tablespaces), manifest: b.o.Command.Manifest != ""}
	}
	return b.start, nil
}

// position reads the row that tells where a backup starts or ends.
func position(rows []Row) (p wal.Position, err error) {
	if len(rows) != 1 || len(rows[0]) < 2 {
		return p, fmt.Errorf("server returned unexpected response to BASE_BACKUP command; got %s, expected 1 rows and 2 fields", shape(rows))
	}
	if p.LSN, err = wal.ParseLSN(rows[0].text(0)); err != nil {
		return p, fmt.Errorf("server returned unexpected response to BASE_BACKUP command: %w", err)
	}
	if p.Timeline, err = parseTimeline(rows[0].text(1)); err != nil {
		return p, fmt.Errorf("server returned unexpected response to BASE_BACKUP command: %w", err)
	}
	return p, nil
}

// tablespaces reads the list of them. The main directory, last, has no OID.
func (b *BaseBackup) tablespaces(rows []Row) error {
	if len(rows) == 0 {
		return errors.New("no data returned from server")
	}
	for i, row := range rows {
		if len(row) != 3 {
			return fmt.Errorf("could not get backup header: got %s, expected 3 fields", shape(rows))
		}
		size := int64(0)
		if row[2] != nil {
			var err error
			size, err = strconv.ParseInt(row.text(2), 10, 53)
			if err != nil || size < 0 {
				return fmt.Errorf("could not get backup header: invalid size \"%s\"", row[2])
			}
			size <<= 10
			b.start.Size += size
		}
		if row[0] == nil {
			if i != len(rows)-1 {
				return errors.New("could not get backup header: the main data directory is not the last in the list")
			}
			continue
		}
		oid, err := strconv.ParseUint(row.text(0), 10, 32)
		if err != nil || oid == 0 {
			return fmt.Errorf("could not get backup header: invalid tablespace OID \"%s\"", row[0])
		}
		b.start.Tablespaces = append(b.start.Tablespaces, backup.Tablespace{OID: uint32(oid), Location: row.text(1), Size: size})
	}
	return nil
}

// archiveNames returns the names of all archives in the order they come.
func archiveNames(tablespaces []backup.Tablespace) []string {
	var names []string
	for _, t := range tablespaces {
		names = append(names, archiveName(t.OID))
	}
	return append(names, archiveName(0))
}

func archiveName(oid uint32) string {
	if oid == 0 {
		return "base.tar"
	}
	return fmt.Sprintf("%d.tar", oid)
}

// Next returns the next member.
func (b *BaseBackup) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	if b.unpack == nil { // else a decompressor may be reading, in a goroutine of its own
		b.ctx = ctx
	}
	for {
		if b.tar != nil {
			m, err := b.tar.Next()
			if err == nil && (m.Kind == backup.Dir || m.Kind == backup.Symlink) {
				return m, nil, nil
			}
			if err == nil {
				return m, b.tar, nil
			}
			if err != io.EOF {
				return backup.Member{}, nil, err
			}
			if err := b.endArchive(); err != nil {
				return backup.Member{}, nil, err
			}
		}
		if b.done {
			return backup.Member{}, nil, io.EOF
		}
		a, err := b.stream.next()
		if err == io.EOF {
			b.done = true
			if err := b.finish(); err != nil {
				return backup.Member{}, nil, err
			}
			continue
		}
		if err != nil {
			return backup.Member{}, nil, err
		}
		if a.manifest {
			b.hasManifest = true
			return backup.Member{Kind: backup.Manifest, Path: "backup_manifest", Size: -1, Mode: 0o600}, &pieceReader{src: b.stream}, nil
		}
		oid, suffix, err := b.belongsTo(a.name)
		if err != nil {
			return backup.Member{}, nil, err
		}
		if b.came[archiveName(oid)] {
			return backup.Member{}, nil, fmt.Errorf("server sent archive \"%s\" twice", a.name)
		}
		b.came[archiveName(oid)] = true
		if b.o.Raw {
			m := backup.Member{Tablespace: oid, Path: a.name, Kind: backup.Archive, Size: -1}
			return m, &pieceReader{src: b.stream, ended: b.countArchive}, nil
		}
		if err := b.openArchive(a.name, oid, suffix); err != nil {
			return backup.Member{}, nil, err
		}
	}
}

// belongsTo returns the tablespace that an archive's name stands for, and what
// follows .tar in it.
func (b *BaseBackup) belongsTo(name string) (oid uint32, suffix string, err error) {
	stem, suffix, ok := strings.Cut(name, ".tar")
	if !ok {
		return 0, "", fmt.Errorf("cannot parse archive \"%s\": only tar archives can be parsed", name)
	}
	if stem == "base" {
		return 0, suffix, nil
	}
	n, err := strconv.ParseUint(stem, 10, 32)
	if err != nil || !b.knows(uint32(n)) {
		return 0, "", fmt.Errorf("cannot parse archive \"%s\": it belongs to no tablespace that the server listed", name)
	}
	return uint32(n), suffix, nil
}

// openArchive starts to read the files in an archive.
func (b *BaseBackup) openArchive(name string, oid uint32, suffix string) error {
	var src backup.Pieces = b.stream
	if suffix != "" {
		r, err := b.o.Decompress(&pieceReader{src: b.stream}, suffix)
		if err != nil {
			return fmt.Errorf("cannot parse archive \"%s\": %w", name, err)
		}
		b.unpack, src = r, newReaderPieces(r)
	}
	b.tar = backup.NewTarReader(src, oid)
	return nil
}

func (b *BaseBackup) knows(oid uint32) bool {
	for _, t := range b.start.Tablespaces {
		if t.OID == oid {
			return true
		}
	}
	return false
}

func (b *BaseBackup) endArchive() error {
	b.tar = nil
	if b.unpack != nil {
		err := b.unpack.Close()
		b.unpack = nil
		if err != nil {
			return err
		}
		if err := skipPieces(b.stream); err != nil {
			return err
		}
	}
	b.countArchive()
	return nil
}

func (b *BaseBackup) countArchive() { b.o.Progress.Tablespace.Add(1) }

// finish reads what follows the data: where the backup ends, and whether the
// server is content with it.
func (b *BaseBackup) finish() error {
	rows, err := b.conn.rows(b.ctx)
	if err != nil {
		return fmt.Errorf("backup failed: %w", err)
	}
	if len(rows) == 0 {
		return errors.New("no write-ahead log end position returned from server")
	}
	if b.end, err = position(rows); err != nil {
		return err
	}
	err = b.conn.expect(b.ctx, 'C')
	switch {
	case sqlState(err) == "XX001": // ERRCODE_DATA_CORRUPTED
		b.bad = backup.ErrPageChecksums
		return b.missing()
	case err != nil:
		return fmt.Errorf("final receive failed: %w", err)
	}
	if err := b.missing(); err != nil {
		return err
	}
	return b.conn.expect(b.ctx, 'Z')
}

// missing returns an error if something that was announced did not come.
func (b *BaseBackup) missing() error {
	for _, name := range archiveNames(b.start.Tablespaces) {
		if !b.came[name] {
			return fmt.Errorf("server ended the backup without archive \"%s\"", name)
		}
	}
	if b.o.Command.Manifest != "" && !b.hasManifest {
		return errors.New("server ended the backup without the manifest")
	}
	return nil
}

// nextInCopy returns the next message of a COPY. It shows the server's error
// where the original complains of a stream cut short.
func (b *BaseBackup) nextInCopy() (byte, error) {
	kind, err := b.conn.next(b.ctx)
	if sqlState(err) != "" {
		return 0, fmt.Errorf("backup failed: %w", err)
	}
	return kind, err
}

// End returns where the backup ends.
func (b *BaseBackup) End(context.Context) (wal.Position, error) { return b.end, b.bad }

// Close lets go of the archive in hand. The connection, which the caller
// closes, carries the rest: without it the server abandons the backup.
func (b *BaseBackup) Close() error {
	if b.unpack != nil {
		err := b.unpack.Close()
		b.unpack = nil
		return err
	}
	return nil
}

// uploadManifest gives the server the manifest that an incremental backup is
// made against.
//
// Source: BaseBackup in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func (c *Conn) uploadManifest(ctx context.Context, manifest io.Reader) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetWriteDeadline(longAgo) })
	defer stop()
	if err := c.send("UPLOAD_MANIFEST"); err != nil {
		return fmt.Errorf("could not send replication command \"%s\": %w", "UPLOAD_MANIFEST", err)
	}
	if err := c.expect(ctx, 'G'); err != nil {
		return fmt.Errorf("could not upload manifest: %w", err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := manifest.Read(buf)
		if n > 0 {
			if err := c.writeCopyData(buf[:n]); err != nil {
				return fmt.Errorf("could not send COPY data: %w", err)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("could not read manifest: %w", err)
		}
	}
	if err := c.writeCopyDone(); err != nil {
		return fmt.Errorf("could not send end-of-COPY: %w", err)
	}
	if err := c.expect(ctx, 'C'); err != nil {
		return fmt.Errorf("could not upload manifest: %w", err)
	}
	if err := c.expect(ctx, 'Z'); err != nil {
		return fmt.Errorf("could not upload manifest: %w", err)
	}
	return nil
}
