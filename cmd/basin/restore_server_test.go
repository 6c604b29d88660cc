package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/pgtest"
	"basin/internal/seal"
)

// storedBackup is a backup that was taken, as it lies on disk.
type storedBackup struct {
	major    int
	dir      string
	tar      bool
	manifest bool
	archive  string // where the log is if it is not in the backup
}

// restore has the backup checked by pg_verifybackup and returns a data directory
// made of it, which is itself, or, of tar files, below the folder work.
func (b storedBackup) restore(t testing.TB, work string) string {
	t.Helper()
	if !b.tar {
		b.verify(t, b.dir)
		return b.dir
	}
	if b.manifest && b.major != 17 { // it would look into their control file, and knows that of 18
		tool(t, pgtest.Newest, "pg_verifybackup", "--no-parse-wal", b.dir)
	}
	data := filepath.Join(work, "data")
	extract(t, b.dir, "base", data)
	links := b.placeTablespaces(t, data, filepath.Join(work, "tablespaces"))
	if b.archive == "" && hasArchive(b.dir, "pg_wal") {
		extract(t, b.dir, "pg_wal", filepath.Join(data, "pg_wal"))
	}
	pgtest.Own(t, work)
	b.verify(t, data, "--manifest-path="+filepath.Join(b.dir, "backup_manifest"))
	if links != nil { // they are in the manifest as they were
		if err := os.WriteFile(filepath.Join(data, "tablespace_map"), links, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Own(t, work)
	return data
}

// verify runs pg_verifybackup on a data directory, that of the same major if
// there is one: others do not understand the log.
func (b storedBackup) verify(t testing.TB, dir string, args ...string) {
	t.Helper()
	switch {
	case !b.manifest:
		return
	case !pgtest.Full(b.major):
		tool(t, pgtest.Newest, "pg_verifybackup", append(args, "--no-parse-wal", dir)...)
	case b.archive != "":
		tool(t, b.major, "pg_verifybackup", append(args, "--wal-directory="+b.archive, dir)...)
	default:
		tool(t, b.major, "pg_verifybackup", append(args, dir)...)
	}
}

// placeTablespaces unpacks the archives of tablespaces: those in tablespace_map
// below the folder apart, with links to them; the others belong in the data
// directory. It returns the tablespace_map that leads there, nil if there is none.
func (b storedBackup) placeTablespaces(t testing.TB, data, apart string) []byte {
	t.Helper()
	links, err := os.ReadFile(filepath.Join(data, "tablespace_map"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var moved []byte
	outside := make(map[string]bool)
	for scan := bufio.NewScanner(bytes.NewReader(links)); scan.Scan(); {
		oid, _, _ := strings.Cut(scan.Text(), " ")
		outside[oid] = true
		place := filepath.Join(apart, oid)
		extract(t, b.dir, oid, place)
		if err := os.Symlink(place, filepath.Join(data, "pg_tblspc", oid)); err != nil {
			t.Fatal(err)
		}
		moved = append(moved, oid+" "+place+"\n"...)
	}
	for _, name := range entries(t, b.dir) {
		oid, _, _ := strings.Cut(name, ".")
		if strings.Trim(oid, "0123456789") == "" && !outside[oid] {
			extract(t, b.dir, oid, filepath.Join(data, "pg_tblspc", oid))
		}
	}
	return moved
}

func hasArchive(dir, name string) bool {
	found, _ := filepath.Glob(filepath.Join(dir, name+".tar*"))
	return len(found) > 0
}

// extract unpacks an archive, compressed in whatever way, with the system's tar.
func extract(t testing.TB, dir, name, to string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, name+".tar*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("archives %s.tar*: %q, %v", name, found, err)
	}
	file, err := os.Open(found[0])
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	archive, err := seal.NewReader(file, seal.BySuffix(found[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	tar := exec.Command("tar", "-xpf", "-", "-C", to)
	tar.Stdin = archive
	if out, err := tar.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("tar of %s: %v\n%s", found[0], err, out)
	}
}

// copyManifest puts the manifest of a tar backup where that of a plain one is.
func copyManifest(t testing.TB, from, to string) {
	t.Helper()
	manifest, err := os.ReadFile(filepath.Join(from, "backup_manifest"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, "backup_manifest"), manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, to)
}
