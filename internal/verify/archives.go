package verify

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/seal"
)

// archive is one tar file of a backup.
type archive struct {
	name       string // of the file
	tablespace uint64 // OID; zero is the data directory
	method     seal.Algorithm
}

// Archives verifies the tar files in a directory, all of what they hold.
//
// Source: verify_tar_backup in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func (v *Verifier) Archives(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return localfs.Errorf(err, dir, "could not open directory \"%s\"", dir)
	}
	var archives []archive
	for _, e := range entries {
		if v.ignores(e.Name()) {
			continue
		}
		a, isData, err := v.archive(dir, e.Name())
		if err != nil {
			return err
		}
		if isData {
			archives = append(archives, a)
		}
	}
	if v.o.PageChecksums {
		if err := v.findControl(ctx, dir, archives); err != nil {
			return err
		}
	}
	for _, a := range archives {
		if err := v.readArchive(ctx, dir, a); err != nil {
			return err
		}
	}
	return nil
}

// archive looks at a file among tar files. isData says whether it is an archive of what
// is in the manifest.
func (v *Verifier) archive(dir, name string) (a archive, isData bool, err error) {
	info, err := os.Stat(dir + "/" + name)
	switch {
	case err != nil:
		return a, false, v.problem(localfs.Errorf(err, dir+"/"+name, "could not stat file or directory \"%s\"", name))
	case !info.Mode().IsRegular():
		return a, false, v.problemf("file \"%s\" is not a regular file", name)
	}
	a, isLog, ok := parseArchive(name)
	if !ok {
		return a, false, v.problemf("file \"%s\" is not expected in a tar format backup", name)
	}
	if !isLog {
		v.total.Add(info.Size())
	}
	return a, !isLog, nil
}

// parseArchive returns what a file of that name is.
//
// Source: precheck_tar_backup_file in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func parseArchive(name string) (a archive, isLog, ok bool) {
	stem, isTar := strings.CutSuffix(name, ".tgz")
	a = archive{name: name, method: seal.Gzip}
	if !isTar {
		a.method = seal.BySuffix(name)
		stem, isTar = strings.CutSuffix(strings.TrimSuffix(name, seal.Suffix(a.method)), ".tar")
	}
	switch {
	case !isTar:
		return a, false, false
	case stem == "base":
		return a, false, true
	case stem == "pg_wal":
		return a, true, true
	}
	oid, err := strconv.ParseUint(stem, 10, 32)
	a.tablespace = oid
	return a, false, err == nil && oid > 0
}

// readArchive verifies what is in an archive.
func (v *Verifier) readArchive(ctx context.Context, dir string, a archive) error {
	members, err := openArchive(ctx, dir, a, &v.done)
	if err != nil {
		return v.problem(err)
	}
	defer members.Close()
	buf := make([]byte, readSize)
	for {
		member, err := members.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && member.Typeflag == tar.TypeReg {
			err = v.readMember(members, member, a, buf)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(unreadable)):
			return v.problem(fmt.Errorf("could not read archive \"%s\": %w", a.name, err))
		case err != nil:
			return err
		}
	}
	// What follows the archive's end is to be whole too, where it is compressed.
	if _, err := io.CopyBuffer(io.Discard, members.unpacked, buf); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return v.problem(fmt.Errorf("could not read archive \"%s\": %w", a.name, err))
	}
	return nil
}

// unreadable is the error of an archive that cannot be read any further.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

// opened is an archive that is being read.
type opened struct {
	*tar.Reader
	unpacked io.ReadCloser
	file     *os.File
}

// openArchive opens an archive of a directory. Bytes that were read of the file are added
// to done, unless that is nil. The end of ctx ends reading.
func openArchive(ctx context.Context, dir string, a archive, done *atomic.Int64) (*opened, error) {
	where := dir + "/" + a.name
	f, err := os.Open(where)
	if err != nil {
		return nil, localfs.Errorf(err, where, "could not open file \"%s\"", a.name)
	}
	unpacked, err := seal.NewReader(counted{ctx, fileReader{f, a.name}, done}, a.method)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &opened{tar.NewReader(unpacked), unpacked, f}, nil
}

// Close lets go of the archive, which was only read.
func (o *opened) Close() {
	_ = o.unpacked.Close()
	_ = o.file.Close()
}

// counted counts the bytes that are read, until the end of a context.
type counted struct {
	ctx  context.Context
	r    io.Reader
	done *atomic.Int64 // may be nil
}

func (c counted) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	if c.done != nil {
		c.done.Add(int64(n))
	}
	return n, err
}

// readMember verifies one file of an archive.
func (v *Verifier) readMember(r io.Reader, member *tar.Header, a archive, buf []byte) error {
	within := path.Clean("./" + member.Name)
	if a.tablespace != 0 {
		within = path.Clean(fmt.Sprintf("pg_tblspc/%d/%s", a.tablespace, member.Name))
	}
	if v.ignores(within) {
		return nil
	}
	i, ok := v.files.Find(within)
	if !ok {
		return v.problemf("file \"%s\" is present in archive \"%s\" but not in the manifest", member.Name, a.name)
	}
	f := v.files.At(i)
	v.seen[i] |= found
	if f.Size != member.Size {
		v.seen[i] |= bad
		return v.problemf("file \"%s\" has size %d in archive \"%s\" but size %d in the manifest", member.Name, member.Size, a.name, f.Size)
	}
	c := v.newContent(f)
	var control []byte
	isControl := within == pgdata.ControlPath && v.manifest.Version != 1
	for {
		n, err := io.ReadFull(r, buf)
		c.add(buf[:n])
		if isControl && len(control) < pgdata.ControlSize {
			control = append(control, buf[:n]...)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF && c.size == member.Size {
			break
		}
		if err != nil {
			return unreadable{err}
		}
	}
	if err := v.checkMember(c, f, a); err != nil {
		return err
	}
	switch {
	case !isControl:
		return nil
	case c.size != pgdata.ControlSize:
		return fmt.Errorf("unexpected control file size %d, expected %d", c.size, pgdata.ControlSize)
	}
	return v.checkControl(a.name+": "+f.Path, control)
}

// checkMember compares what was read of a file with the manifest.
func (v *Verifier) checkMember(c *content, f manifest.File, a archive) error {
	what := fmt.Sprintf("file \"%s\" in archive \"%s\"", f.Path, a.name)
	problems := c.pages.problems()
	if c.sum != nil {
		if err := compare(c.sum, f, what); err != nil {
			problems = append([]error{err}, problems...)
		}
	}
	for _, problem := range problems {
		if err := v.problem(problem); err != nil {
			return err
		}
	}
	return nil
}

// findControl reads the control file, which comes last in its archive and tells whether
// what comes before has checksums.
func (v *Verifier) findControl(ctx context.Context, dir string, archives []archive) error {
	i := slices.IndexFunc(archives, func(a archive) bool { return a.tablespace == 0 })
	if i < 0 {
		return errors.New("page checksums cannot be verified: there is no archive base.tar, which has the control file")
	}
	a := archives[i]
	members, err := openArchive(ctx, dir, a, nil)
	if err != nil {
		return err
	}
	defer members.Close()
	for {
		member, err := members.Next()
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("file \"%s\" is not in archive \"%s\"", pgdata.ControlPath, a.name)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("could not read archive \"%s\": %w", a.name, err)
		case path.Clean("./"+member.Name) != pgdata.ControlPath:
			continue
		}
		content, err := io.ReadAll(io.LimitReader(members, pgdata.ControlSize))
		if err != nil {
			return fmt.Errorf("could not read archive \"%s\": %w", a.name, err)
		}
		if err := v.checkControl(a.name+": "+pgdata.ControlPath, content); err != nil {
			return err
		}
		return v.checkPageSizes()
	}
}
