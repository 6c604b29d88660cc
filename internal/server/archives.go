package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync/atomic"

	"basin/internal/backup"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// archives is the client that a base backup goes to, as tar archives: a backup.Sink.
//
// Source: perform_base_backup in src/backend/backup/basebackup.c, PostgreSQL 18.
type archives struct {
	out      *copyOut
	version  int  // of the cluster, as server_version_num
	sizes    bool // the client is told the sizes of tablespaces
	compress func(io.Writer) (io.WriteCloser, error)
	suffix   string      // of archives that are compressed
	target   backup.Sink // takes the members in place of the client, who is told of them alone; nil is the client

	salvaged bool // all that came was sent, and the COPY has ended

	start  backup.Start
	begun  int            // archives
	tar    io.Writer      // the archive in hand
	closer io.WriteCloser // what compresses it; nil is nothing
	done   atomic.Int64   // bytes of archives
	header []byte
}

// zeros pads and ends archives.
var zeros [backup.TarEnd]byte

// Begin tells the client where the backup begins, and what it will be.
func (a *archives) Begin(ctx context.Context, start backup.Start) error {
	a.start = start
	a.out.done = &a.done
	if err := a.position(start.Position); err != nil {
		return err
	}
	if err := a.tablespaces(); err != nil {
		return err
	}
	if a.out.single {
		if err := a.out.begin(); err != nil {
			return err
		}
	}
	if err := a.out.conn.Flush(); err != nil {
		return err
	}
	if a.target != nil {
		return a.target.Begin(ctx, start)
	}
	return nil
}

// position sends one of the two positions between which the backup lies.
//
// Source: SendXlogRecPtrResult in src/backend/backup/basebackup_copy.c, PostgreSQL 18.
func (a *archives) position(p wal.Position) error {
	return a.out.conn.queueRows(protocol.BackupPositionColumns(a.version), "SELECT",
		[]any{p.LSN.String(), strconv.FormatUint(uint64(p.Timeline), 10)})
}

// tablespaces sends the list of archives there will be.
//
// Source: SendTablespaceList in src/backend/backup/basebackup_copy.c, PostgreSQL 18.
func (a *archives) tablespaces() error {
	var rows [][]any
	main := a.start.Size
	size := func(bytes int64) any {
		if !a.sizes {
			return nil
		}
		return strconv.FormatInt(bytes/1024, 10)
	}
	for _, t := range a.start.Tablespaces {
		rows = append(rows, []any{strconv.FormatUint(uint64(t.OID), 10), t.Location, size(t.Size)})
		main -= t.Size
	}
	rows = append(rows, []any{nil, nil, size(main)})
	return a.out.conn.queueRows(protocol.TablespaceColumns(a.version), "SELECT", rows...)
}

// Put sends a member.
func (a *archives) Put(ctx context.Context, m backup.Member, r io.Reader) error {
	if m.Kind == backup.Manifest {
		return a.putManifest(ctx, m, r)
	}
	if err := a.reach(m.Tablespace); err != nil {
		return err
	}
	if a.target != nil {
		return a.putTarget(ctx, m, r)
	}
	var err error
	if a.header, err = backup.AppendTarHeader(a.header[:0], m); err != nil {
		return &Error{Code: codeProgramLimit, Message: err.Error()}
	}
	if _, err := a.Write(a.header); err != nil {
		return err
	}
	if m.Kind != backup.File {
		return nil
	}
	n, err := io.Copy(a, r)
	if err != nil {
		return err
	}
	if n != m.Size {
		return fmt.Errorf("file \"%s\" was to have %d bytes, but has %d", m.Path, m.Size, n)
	}
	_, err = a.Write(zeros[:backup.TarPadding(n)])
	return err
}

// Write adds bytes to the archive in hand.
func (a *archives) Write(p []byte) (int, error) {
	a.done.Add(int64(len(p)))
	return a.tar.Write(p)
}

// putTarget puts a member where the client wants it, and tells him how far it is.
func (a *archives) putTarget(ctx context.Context, m backup.Member, r io.Reader) error {
	a.done.Add(backup.TarBlock)
	if r != nil {
		r = &countingReader{r, a}
		a.done.Add(int64(backup.TarPadding(m.Size)))
	}
	return a.target.Put(ctx, m, r)
}

// countingReader counts what is read for a target.
type countingReader struct {
	io.Reader
	a *archives
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.a.done.Add(int64(n))
	if waited := c.a.out.wait(n); waited != nil {
		return n, waited
	}
	if told := c.a.out.progress(false); told != nil {
		return n, told
	}
	return n, err
}

// reach begins the archive of a tablespace, and before it those that nothing came for.
func (a *archives) reach(tablespace uint32) error {
	index := len(a.start.Tablespaces)
	if tablespace != 0 {
		index = slices.IndexFunc(a.start.Tablespaces, func(t backup.Tablespace) bool { return t.OID == tablespace })
	}
	if index < a.begun-1 {
		return fmt.Errorf("a member of tablespace %d comes after its archive", tablespace)
	}
	for a.begun <= index {
		if err := a.next(); err != nil {
			return err
		}
	}
	return nil
}

// next ends the archive in hand and begins another one.
func (a *archives) next() error {
	if err := a.endArchive(); err != nil {
		return err
	}
	head := protocol.Archive{Name: "base.tar" + a.suffix}
	if a.begun < len(a.start.Tablespaces) {
		t := a.start.Tablespaces[a.begun]
		head = protocol.Archive{Name: strconv.FormatUint(uint64(t.OID), 10) + ".tar" + a.suffix, Location: t.Location}
	}
	a.begun++
	if err := a.out.archive(head); err != nil {
		return err
	}
	a.tar = a.out
	if a.compress == nil || a.target != nil {
		return nil
	}
	var err error
	a.closer, err = a.compress(a.out)
	a.tar = a.closer
	return err
}

// endArchive ends the archive in hand, if there is one.
func (a *archives) endArchive() error {
	if a.tar == nil {
		return nil
	}
	if a.out.single { // older servers leave the end to the client
		if a.target != nil {
			a.done.Add(backup.TarEnd)
		} else if _, err := a.Write(zeros[:]); err != nil {
			return err
		}
	}
	a.tar = nil
	if c := a.closer; c != nil {
		a.closer = nil
		if err := c.Close(); err != nil {
			return err
		}
	}
	return a.out.endArchive()
}

// endArchives ends the archive in hand, and sends those that nothing came for.
func (a *archives) endArchives() error {
	if err := a.reach(0); err != nil {
		return err
	}
	return a.endArchive()
}

// putManifest sends the manifest.
func (a *archives) putManifest(ctx context.Context, m backup.Member, r io.Reader) error {
	if err := a.endArchives(); err != nil {
		return err
	}
	if err := a.out.manifest(); err != nil {
		return err
	}
	if a.target != nil {
		return a.target.Put(ctx, m, r)
	}
	if _, err := io.Copy(a.out, r); err != nil {
		return err
	}
	return a.out.endManifest()
}

// finish ends all that was begun.
func (a *archives) finish() error {
	if err := a.endArchives(); err != nil {
		return err
	}
	if a.out.single {
		return a.out.end()
	}
	return nil
}

// Commit ends the backup and tells the client where.
func (a *archives) Commit(ctx context.Context, end wal.Position) error {
	if a.target != nil {
		if err := a.target.Commit(ctx, end); err != nil {
			return err
		}
	}
	if err := a.finish(); err != nil {
		return err
	}
	return a.position(end)
}

// Salvage ends the archives of a backup that has wrong pages. Where it ends is for the
// caller to send, and what is wrong.
func (a *archives) Salvage(ctx context.Context, end wal.Position) error {
	if s, ok := a.target.(backup.Salvager); ok {
		if err := s.Salvage(ctx, end); err != nil {
			return err
		}
	}
	err := a.finish()
	a.salvaged = err == nil
	return err
}

// Close lets go of what compresses.
func (a *archives) Close() error {
	var errs []error
	if c := a.closer; c != nil {
		a.closer = nil
		errs = append(errs, c.Close())
	}
	if a.target != nil {
		errs = append(errs, a.target.Close())
	}
	return errors.Join(errs...)
}
