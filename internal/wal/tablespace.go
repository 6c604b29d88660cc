package wal

import "bytes"

// What a record of a tablespace is.
//
// Source: src/include/commands/tablespace.h, PostgreSQL 18; the same since 10.
const (
	tablespaceManager = 5    // RM_TBLSPC_ID
	tablespaceCreate  = 0x00 // XLOG_TBLSPC_CREATE
)

// NewTablespace is a tablespace that recovery makes anew: it makes a link to the path, and folders
// there, whatever server it is that recovers.
type NewTablespace struct {
	OID  uint32 `json:"oid"`
	Path string `json:"path"` // empty for one in pg_tblspc itself, since 15
}

// NewTablespace returns the tablespace that the record makes, and false if it makes none.
//
// Source: xl_tblspc_create_rec in src/include/commands/tablespace.h, PostgreSQL 10 to 18.
func (r Record) NewTablespace() (NewTablespace, bool) {
	if r.ResourceManager != tablespaceManager || r.Info&infoOfManager != tablespaceCreate {
		return NewTablespace{}, false
	}
	c, ok := r.main()
	result := NewTablespace{OID: c.uint32()}
	path, _, ended := bytes.Cut(c.p, []byte{0})
	result.Path = string(path)
	return result, ok && ended && !c.short
}
