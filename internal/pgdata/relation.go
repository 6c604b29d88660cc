package pgdata

import (
	"strconv"
	"strings"
)

// OIDs of the tablespaces that every cluster has.
//
// Source: src/include/catalog/pg_tablespace.dat, PostgreSQL 18.
const (
	DefaultTablespace = 1663 // pg_default, in base
	GlobalTablespace  = 1664 // pg_global, in global
)

// ParseRelationPath returns which fork of which relation is in a file, and which segment of
// it. path is below the data directory.
//
// Source: GetRelationPath in src/common/relpath.c, PostgreSQL 18.
func ParseRelationPath(path string) (r RelationFork, segment uint32, ok bool) {
	if segment, ok = RelationSegment(path); !ok {
		return r, 0, false
	}
	parts := strings.Split(path, "/")
	var database string
	switch parts[0] {
	case "global":
		r.Tablespace, database = GlobalTablespace, "0"
	case "base":
		r.Tablespace, database = DefaultTablespace, parts[1]
	default:
		oid, err := strconv.ParseUint(parts[1], 10, 32)
		r.Tablespace, database, ok = uint32(oid), parts[3], err == nil
	}
	oid, err := strconv.ParseUint(database, 10, 32)
	r.Database = uint32(oid)
	name, _, _ := strings.Cut(parts[len(parts)-1], ".")
	number, fork, _ := strings.Cut(name, "_")
	relation, _ := strconv.ParseUint(number, 10, 32) // which RelationSegment has seen to
	r.Relation = uint32(relation)
	switch fork {
	case "fsm":
		r.Fork = FreeSpaceFork
	case "vm":
		r.Fork = VisibilityFork
	case "init":
		r.Fork = InitFork
	}
	return r, segment, ok && err == nil
}

// IsTemporaryRelation says whether a file of a database's directory is of a temporary
// relation: t, the number of a backend, and what a relation's file is called.
//
// Source: looks_like_temp_rel_name in src/backend/storage/file/reinit.c, PostgreSQL 18.
func IsTemporaryRelation(name string) bool {
	rest, ok := strings.CutPrefix(name, "t")
	backend, rest, isCut := strings.Cut(rest, "_")
	if !ok || !isCut || !allDigits(backend) {
		return false
	}
	rest, segment, isLater := strings.Cut(rest, ".")
	if isLater && !allDigits(segment) {
		return false
	}
	number, fork, hasFork := strings.Cut(rest, "_")
	return allDigits(number) && (!hasFork || fork == "fsm" || fork == "vm" || fork == "init")
}

// allDigits says whether s is digits and nothing else.
func allDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
