package pgdata

import (
	"fmt"
	"strconv"
	"strings"
)

// TablespaceMapPath is where the tablespace map is, below a data directory that came as a
// tar file: a server that starts there makes the links that it says, and removes it.
const TablespaceMapPath = "tablespace_map"

// MaxTablespaceMapSize is how many bytes a tablespace map has at most: more than there are
// tablespaces that anybody has.
const MaxTablespaceMapSize = 16 << 20

// TablespaceLink is a link in pg_tblspc.
type TablespaceLink struct {
	OID    uint32
	Target string // absolute
}

// ParseTablespaceMap reads a tablespace map.
//
// Source: read_tablespace_map in src/backend/access/transam/xlogrecovery.c, PostgreSQL 18.
func ParseTablespaceMap(content []byte) (links []TablespaceLink, err error) {
	var line strings.Builder
	escaped := false
	for _, c := range content {
		switch {
		case !escaped && c == '\\':
			escaped = true
			continue
		case !escaped && (c == '\n' || c == '\r'):
			if line.Len() == 0 {
				continue // as between the two of a Windows line
			}
			link, err := parseTablespaceLink(line.String())
			if err != nil {
				return nil, err
			}
			links = append(links, link)
			line.Reset()
		default:
			line.WriteByte(c)
		}
		escaped = false
	}
	if line.Len() > 0 || escaped {
		return nil, fmt.Errorf("invalid data in file \"%s\": it ends within a line", TablespaceMapPath)
	}
	return links, nil
}

func parseTablespaceLink(line string) (TablespaceLink, error) {
	number, target, ok := strings.Cut(line, " ")
	oid, err := strconv.ParseUint(number, 10, 32)
	if !ok || err != nil || oid == 0 || target == "" {
		return TablespaceLink{}, fmt.Errorf("invalid data in file \"%s\": %q", TablespaceMapPath, line)
	}
	return TablespaceLink{uint32(oid), target}, nil
}

// AppendTablespaceLink appends a line of a tablespace map.
//
// Source: do_pg_backup_start in src/backend/access/transam/xlog.c, PostgreSQL 18.
func AppendTablespaceLink(dst []byte, link TablespaceLink) []byte {
	dst = strconv.AppendUint(dst, uint64(link.OID), 10)
	dst = append(dst, ' ')
	for i := range len(link.Target) {
		if c := link.Target[i]; c == '\n' || c == '\r' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, link.Target[i])
	}
	return append(dst, '\n')
}
