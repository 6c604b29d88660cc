package pgtest

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Config says what cluster Start makes. Its zero value is a cluster of the newest
// major, ready to be backed up, that nothing is written to disk for in earnest.
type Config struct {
	Major      int      // zero is Newest
	InitdbArgs []string // after those that this package gives, so they win

	// Conf goes to the cluster's own postgresql.conf, and so to its backups. A
	// setting here wins over the package's: fsync is off unless it says otherwise.
	Conf map[string]string
	HBA  []string // lines of pg_hba.conf, before those that trust everyone on this machine

	WALSegmentSizeMB int  // zero is 16; not before 11
	Checksums        bool // of data pages; without it off also in 18
	GroupAccess      bool // 0750 and 0640; not before 11
	TLS              bool // offered, with a certificate that RootCert of the Server vouches for
}

func (c Config) major() int { return cmp.Or(c.Major, Newest) }

// initdbArgs returns the arguments that decide what a cluster's template is.
func (c Config) initdbArgs() []string {
	args := []string{"--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"}
	switch {
	case c.Checksums:
		args = append(args, "--data-checksums")
	case c.major() >= 18:
		args = append(args, "--no-data-checksums")
	}
	if c.WALSegmentSizeMB != 0 {
		args = append(args, "--wal-segsize="+strconv.Itoa(c.WALSegmentSizeMB))
	}
	if c.GroupAccess {
		args = append(args, "--allow-group-access")
	}
	return append(args, c.InitdbArgs...)
}

// settings returns what postgresql.conf is to say.
func (c Config) settings() map[string]string {
	settings := map[string]string{
		"fsync":                 "off",
		"wal_level":             "replica",
		"max_wal_senders":       "10",
		"max_replication_slots": "10",
		"hot_standby":           "on",
		"shared_buffers":        "32MB",
		"log_line_prefix":       "%m [%p] %q%a ",
	}
	if c.TLS {
		settings["ssl"] = "on"
	}
	maps.Copy(settings, c.Conf)
	return settings
}

// makeCluster makes the data directory dir as Config says.
func makeCluster(t testing.TB, c Config, dir string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--reflink=auto", template(t, c), dir).CombinedOutput(); err != nil {
		t.Fatalf("copy of a new cluster: %v: %s", err, out)
	}
	if err := newIdentity(dir); err != nil {
		t.Fatalf("identity of a new cluster: %v", err)
	}
	settings := c.settings()
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		lines = append(lines, setting(name, settings[name]))
	}
	appendFile(t, filepath.Join(dir, "postgresql.conf"), lines)
	hba := append(slices.Clone(c.HBA),
		"local all,replication all trust",
		"host all,replication all 127.0.0.1/32 trust",
	)
	if err := os.Truncate(filepath.Join(dir, "pg_hba.conf"), 0); err != nil {
		t.Fatal(err)
	}
	appendFile(t, filepath.Join(dir, "pg_hba.conf"), hba)
}

// setting returns a line of postgresql.conf or recovery.conf.
func setting(name, value string) string {
	return name + " = '" + strings.ReplaceAll(value, "'", "''") + "'"
}

// appendFile adds lines to a file of a data directory. One that is new gets the
// directory's owner.
func appendFile(t testing.TB, name string, lines []string) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err = file.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		t.Fatal(err)
	}
	folder, err := os.Stat(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	owner := folder.Sys().(*syscall.Stat_t)
	if err := file.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
}

// template returns a data directory as initdb leaves it. It is made once for a
// version and its arguments, for all tests on this machine: initdb takes twice as
// long as a copy on a disk, ten times as long in memory (TMPDIR=/dev/shm).
func template(t testing.TB, c Config) string {
	t.Helper()
	args := c.initdbArgs()
	key := sha256.Sum256([]byte(Bin(t, c.major()) + "\x00" + Version(t, c.major()) + "\x00" + strings.Join(args, "\x00")))
	dir := filepath.Join(sharedDir(t, "templates"), fmt.Sprintf("%d-%x", c.major(), key[:8]))

	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	work := TempDir(t)
	initdb := Command(t, c.major(), "initdb", append([]string{"--pgdata=" + filepath.Join(work, "data")}, args...)...)
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	if err := os.Rename(filepath.Join(work, "data"), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// newIdentity gives a cluster that initdb made, and that never ran, a system
// identifier of its own: clusters copied from one template would pass for one
// another. It is in the control file and in the first page of each WAL segment.
func newIdentity(dir string) error {
	var id [8]byte
	rand.Read(id[:])
	if err := rewrite(filepath.Join(dir, "global", "pg_control"), func(control []byte) error {
		end, err := controlEnd(control)
		if err != nil {
			return err
		}
		copy(control, id[:]) // ControlFileData begins with it
		binary.LittleEndian.PutUint32(control[end:], crc32.Checksum(control[:end], castagnoli))
		return nil
	}); err != nil {
		return err
	}
	segments, err := filepath.Glob(filepath.Join(dir, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
	if err != nil {
		return err
	}
	for _, segment := range segments {
		if err := rewrite(segment, func(page []byte) error {
			copy(page[24:], id[:]) // xlp_sysid of XLogLongPageHeaderData, which no checksum covers
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// controlEnd returns where in a control file its checksum is: at the first place
// that holds the checksum of all before it. ControlFileData has grown over time.
func controlEnd(control []byte) (int, error) {
	for end := 64; end+4 <= len(control); end += 4 {
		if binary.LittleEndian.Uint32(control[end:]) == crc32.Checksum(control[:end], castagnoli) {
			return end, nil
		}
	}
	return 0, errors.New("pg_control has no checksum")
}

// rewrite changes the first 512 bytes of a file in place.
func rewrite(name string, change func([]byte) error) error {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	head := make([]byte, 512)
	if _, err := file.ReadAt(head, 0); err != nil {
		return err
	}
	if err := change(head); err != nil {
		return err
	}
	_, err = file.WriteAt(head, 0)
	return err
}
