package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
)

// archive is one tar file of a backup.
type archive struct {
	backup.ArchiveName
	name string // of the file
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
		if !isData {
			continue
		}
		if i := slices.IndexFunc(archives, func(other archive) bool { return other.Tablespace == a.Tablespace }); i >= 0 {
			if err := v.problemf("\"%s\" and \"%s\" are archives of the same", archives[i].name, a.name); err != nil {
				return err
			}
		}
		archives = append(archives, a)
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
	parsed, ok := backup.ParseArchiveName(name)
	if !ok {
		return a, false, v.problemf("file \"%s\" is not expected in a tar format backup", name)
	}
	if !parsed.Log {
		v.total.Add(info.Size())
	}
	return archive{parsed, name}, !parsed.Log, nil
}

// findControl reads the control file, which comes last in its archive and tells whether
// what comes before has checksums.
func (v *Verifier) findControl(ctx context.Context, dir string, archives []archive) error {
	i := slices.IndexFunc(archives, func(a archive) bool { return a.Tablespace == 0 })
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
