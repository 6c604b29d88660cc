package live

import (
	"os"
	"path"
	"strings"

	"basin/internal/pgdata"
)

// excludedDirs are directories of which only the directory itself is a part of a backup, at
// whatever depth.
//
// Source: excludeDirContents in src/backend/backup/basebackup.c, PostgreSQL 10 to 18.
var excludedDirs = map[string]bool{
	"pg_stat_tmp":  true,
	"pg_replslot":  true,
	"pg_dynshmem":  true,
	"pg_notify":    true,
	"pg_serial":    true,
	"pg_snapshots": true,
	"pg_subtrans":  true,
}

// excludedFiles are files that are no part of a backup, at whatever depth.
//
// Source: excludeFiles in src/backend/backup/basebackup.c, PostgreSQL 10 to 18.
var excludedFiles = map[string]bool{
	"postgresql.auto.conf.tmp": true,
	"current_logfiles.tmp":     true,
	pgdata.LabelPath:           true,
	pgdata.TablespaceMapPath:   true,
	postmasterPath:             true,
	"postmaster.opts":          true,
}

const (
	temporaryPrefix = "pgsql_tmp"        // PG_TEMP_FILE_PREFIX
	relationCache   = "pg_internal.init" // RELCACHE_INIT_FILENAME
	manifestPath    = "backup_manifest"
)

// isExcluded says whether what has a name is no part of a backup.
func (c *cluster) isExcluded(name string) bool {
	switch {
	case excludedFiles[name], strings.HasPrefix(name, temporaryPrefix):
		return true
	case name == manifestPath:
		return c.version >= version13
	case name == ".DS_Store":
		return c.version >= version15
	}
	return c.version >= version11 && strings.HasPrefix(name, relationCache)
}

// isExcludedDir says whether what is in a directory of the main one, or of a tablespace, is no
// part of a backup.
func (c *cluster) isExcludedDir(tablespace uint32, within string) bool {
	name := path.Base(within)
	if excludedDirs[name] {
		return true
	}
	return c.version < version15 && tablespace == 0 && within == path.Clean(c.statistics)
}

// isTransient says whether a file in a directory of relations is of one that a server that
// starts with the backup forgets, or makes anew: temporary, or not logged. dir is where it is.
func (c *cluster) isTransient(dir, name string) bool {
	if c.version < version11 {
		return false
	}
	if pgdata.IsTemporaryRelation(name) {
		return true
	}
	number, rest, _ := strings.Cut(name, ".")
	number, fork, _ := strings.Cut(number, "_")
	if fork == "init" || number == "" || strings.Trim(number+rest, "0123456789") != "" {
		return false
	}
	_, err := os.Lstat(dir + "/" + number + "_init")
	return err == nil
}
