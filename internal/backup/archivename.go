package backup

import (
	"strconv"
	"strings"
)

// ArchiveName is what the name of a tar file says of what is in it.
type ArchiveName struct {
	Tablespace uint32 // OID; zero is the main directory
	Log        bool   // it has what belongs into pg_wal
	Suffix     string // of the way it is compressed, such as .gz; empty if it is not
}

// ParseArchiveName reads the name of a tar file of a backup.
//
// Source: precheck_tar_backup_file in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func ParseArchiveName(name string) (a ArchiveName, ok bool) {
	stem, suffix, found := strings.Cut(name, ".")
	switch suffix {
	case "tar":
	case "tgz", "tar.gz":
		a.Suffix = ".gz"
	case "tar.lz4":
		a.Suffix = ".lz4"
	case "tar.zst":
		a.Suffix = ".zst"
	default:
		return a, false
	}
	switch stem {
	case "base":
		return a, found
	case "pg_wal":
		a.Log = true
		return a, found
	}
	oid, err := strconv.ParseUint(stem, 10, 32)
	a.Tablespace = uint32(oid)
	return a, err == nil && oid > 0
}
