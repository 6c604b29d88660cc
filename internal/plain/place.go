package plain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/usererr"
)

// CopyMethod is a way to make a file of bytes that lie in files here.
//
// Source: CopyMethod in src/bin/pg_combinebackup/copy_file.h, PostgreSQL 18.
type CopyMethod uint8

// The ways to make a file.
const (
	CopyBytes CopyMethod = iota // they are read and written
	CopyRange                   // the system copies them (copy_file_range), or lets both files share them
	CopyClone                   // a file that is another's whole copy shares all with it until one is changed (reflink)
	CopyLink                    // a file that is another's whole copy is that file, under one more name
)

// place makes a file of bytes that lie in files here. What is no whole copy of one of them
// cannot be cloned or linked, and is written.
func (s *Sink) place(ctx context.Context, at spot, m backup.Member, r backup.Placed) error {
	whole, err := wholeCopy(r)
	if err != nil {
		return err
	}
	switch {
	case s.options.Method == CopyLink && whole != nil:
		err = s.enter(at, func(dir *os.Root, name string) error { return localfs.LinkInto(dir, name, whole.File) })
		if err != nil {
			return unable(err, at.full, "could not create link from \"%s\" to \"%s\"", whole.Name, at.full)
		}
		return r.Settle(ctx)
	case s.options.Method == CopyLink || s.options.Method == CopyClone && whole == nil:
		f, err := s.create(at)
		if err != nil {
			return err
		}
		return s.write(ctx, f, at, m, r)
	}
	f, err := s.create(at)
	if err != nil {
		return err
	}
	defer f.Close() // after an error; otherwise closed below
	if err := f.Chmod(m.Mode); err != nil {
		return localfs.Errorf(err, at.full, `could not set permissions on file "%s"`, at.full)
	}
	if s.options.Method == CopyClone {
		if err := localfs.Clone(f, whole.File); err != nil {
			return unable(err, at.full, "error while cloning file \"%s\" to \"%s\"", whole.Name, at.full)
		}
	} else if err := copyExtents(ctx, f, at.full, r); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return localfs.Errorf(err, at.full, `could not close file "%s"`, at.full)
	}
	return r.Settle(ctx)
}

// unable is localfs.Errorf that says what to do where the system has no such method.
func unable(cause error, path, format string, args ...any) error {
	err := localfs.Errorf(cause, path, format, args...)
	for _, errno := range []syscall.Errno{syscall.EXDEV, syscall.EOPNOTSUPP, syscall.ENOTTY, syscall.ENOSYS, syscall.EINVAL} {
		if errors.Is(cause, errno) {
			return &usererr.Error{Err: err, Hint: "The two are on file systems that cannot do this, or not together; use --copy."}
		}
	}
	return err
}

// wholeCopy returns the file that r has all bytes of and no others, or nil.
func wholeCopy(r backup.Placed) (whole *backup.StoredFile, err error) {
	for e, err := range r.Extents() {
		if err != nil || e.File == nil || e.File.Shared || e.Offset != 0 || e.Length != e.File.Size {
			return nil, err
		}
		whole = e.File // and there is no other extent behind it, as one would not begin at zero
	}
	return whole, nil
}

// rangeAtOnce is how many bytes the system copies at most before it is seen whether that
// is still wanted.
const rangeAtOnce = 64 << 20

// copyExtents has the system copy the bytes of r to f, which is called name.
func copyExtents(ctx context.Context, f *os.File, name string, r backup.Placed) error {
	size := int64(0)
	for e, err := range r.Extents() {
		if err != nil {
			return err
		}
		size += e.Length
		if e.File == nil { // a hole reads as zeros
			if _, err := f.Seek(e.Length, io.SeekCurrent); err != nil {
				return localfs.Errorf(err, name, `could not write to file "%s"`, name)
			}
			continue
		}
		for done := int64(0); done < e.Length; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := localfs.CopyRange(f, e.File.File, e.File.Offset+e.Offset+done, min(e.Length-done, rangeAtOnce))
			switch {
			case err != nil:
				return unable(err, name, "error while copying file range from \"%s\" to \"%s\"", e.File.Name, name)
			case n == 0:
				return fmt.Errorf(`unexpected end of file while copying file range from "%s" to "%s"`, e.File.Name, name)
			}
			done += n
		}
	}
	if err := f.Truncate(size); err != nil {
		return localfs.Errorf(err, name, `could not write to file "%s"`, name)
	}
	return nil
}
