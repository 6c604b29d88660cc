package protocol

import "encoding/binary"

// OIDs of the types that results have.
//
// Source: src/include/catalog/pg_type.dat, PostgreSQL 18.
const (
	typeBytea = 17
	typeInt8  = 20
	typeInt4  = 23
	typeText  = 25
	typeOID   = 26
)

// Column is a column of a result.
type Column struct {
	Name     string
	Type     uint32 // OID
	Size     int16  // of the type, in bytes; -1 if it varies
	Modifier int32
}

// column returns a column of a type.
func column(name string, oid uint32) Column {
	c := Column{Name: name, Type: oid, Size: -1, Modifier: -1}
	switch oid {
	case typeInt8:
		c.Size = 8
	case typeInt4, typeOID:
		c.Size = 4
	}
	return c
}

// unmodified returns columns without a type modifier, in the way of results that
// older servers put together by hand.
func unmodified(columns ...Column) []Column {
	for i := range columns {
		columns[i].Modifier = 0
	}
	return columns
}

// Columns returns the columns of the one result of a command from a server of the
// given server_version_num; none if it has no such result. BASE_BACKUP and
// START_REPLICATION have several, of which other functions tell.
//
// Source: src/backend/replication/walsender.c, PostgreSQL 10 to 18.
func Columns(c Command, version int) []Column {
	switch c := c.(type) {
	case IdentifySystem:
		timeline := column("timeline", typeInt8)
		if version < 160000 {
			timeline = column("timeline", typeInt4)
		}
		return []Column{column("systemid", typeText), timeline, column("xlogpos", typeText), column("dbname", typeText)}
	case Show:
		if foldCase(c.Name) == "all" {
			return []Column{column("name", typeText), column("setting", typeText), column("description", typeText)}
		}
		return []Column{column(c.Name, typeText)} // a server knows the case of the name
	case TimelineHistory:
		switch {
		case version < 140000:
			return unmodified(column("filename", typeText), column("content", typeBytea))
		case version < 160000:
			return unmodified(column("filename", typeText), column("content", typeText))
		}
		return []Column{column("filename", typeText), column("content", typeText)}
	case ReadReplicationSlot:
		return []Column{column("slot_type", typeText), column("restart_lsn", typeText), column("restart_tli", typeInt8)}
	case CreatePhysicalSlot, CreateLogicalSlot:
		return []Column{
			column("slot_name", typeText), column("consistent_point", typeText),
			column("snapshot_name", typeText), column("output_plugin", typeText),
		}
	}
	return nil
}

// BackupPositionColumns returns the columns of the first and the last result of
// BASE_BACKUP, which tell where the backup begins and ends.
//
// Source: SendXlogRecPtrResult in src/backend/backup/basebackup_copy.c, PostgreSQL 15 to 18.
func BackupPositionColumns(version int) []Column {
	columns := []Column{column("recptr", typeText), column("tli", typeInt8)}
	if version < 160000 {
		columns[1].Size = -1
		return unmodified(columns...)
	}
	return columns
}

// TablespaceColumns returns the columns of the second result of BASE_BACKUP. The
// size is in kB.
//
// Source: SendTablespaceList in src/backend/backup/basebackup_copy.c, PostgreSQL 15 to 18.
func TablespaceColumns(version int) []Column {
	columns := []Column{column("spcoid", typeOID), column("spclocation", typeText), column("size", typeInt8)}
	if version < 160000 {
		return unmodified(columns...)
	}
	return columns
}

// NextTimelineColumns returns the columns of the result of START_REPLICATION at
// the end of a timeline.
//
// Source: StartReplication in src/backend/replication/walsender.c, PostgreSQL 18.
func NextTimelineColumns() []Column {
	return []Column{column("next_tli", typeInt8), column("next_tli_startpos", typeText)}
}

// Tag returns the tag of the CommandComplete message that a command ends with.
//
// Source: EndReplicationCommand in src/backend/tcop/dest.c, PostgreSQL 13 to 18.
func Tag(c Command, version int) string {
	if version < 130000 {
		return "SELECT"
	}
	switch c.(type) {
	case IdentifySystem:
		return "IDENTIFY_SYSTEM"
	case Show:
		return "SHOW"
	case TimelineHistory:
		return "TIMELINE_HISTORY"
	case ReadReplicationSlot:
		return "READ_REPLICATION_SLOT"
	case CreatePhysicalSlot, CreateLogicalSlot:
		return "CREATE_REPLICATION_SLOT"
	case DropReplicationSlot:
		return "DROP_REPLICATION_SLOT"
	case AlterReplicationSlot:
		return "ALTER_REPLICATION_SLOT"
	case StartPhysicalReplication, StartLogicalReplication:
		return "START_REPLICATION"
	case BaseBackup:
		return "BASE_BACKUP"
	case UploadManifest:
		return "UPLOAD_MANIFEST"
	}
	return ""
}

// AppendRowDescription appends the message that tells of a result's columns, the
// values of which are text.
//
// Source: SendRowDescriptionMessage in src/backend/access/common/printtup.c, PostgreSQL 18.
func AppendRowDescription(dst []byte, columns []Column) []byte {
	dst, start := beginMessage(dst, 'T')
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(columns)))
	for _, c := range columns {
		dst = append(dst, c.Name...)
		dst = append(dst, 0)
		dst = binary.BigEndian.AppendUint32(dst, 0) // of no table
		dst = binary.BigEndian.AppendUint16(dst, 0) // and no column of it
		dst = binary.BigEndian.AppendUint32(dst, c.Type)
		dst = binary.BigEndian.AppendUint16(dst, uint16(c.Size))
		dst = binary.BigEndian.AppendUint32(dst, uint32(c.Modifier))
		dst = binary.BigEndian.AppendUint16(dst, 0) // text
	}
	return endMessage(dst, start)
}

// AppendDataRow appends the message of one row. A value of nil is NULL, which an
// empty one is not.
//
// Source: printtup in src/backend/access/common/printtup.c, PostgreSQL 18.
func AppendDataRow(dst []byte, values ...[]byte) []byte {
	dst, start := beginMessage(dst, 'D')
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(values)))
	for _, v := range values {
		if v == nil {
			dst = binary.BigEndian.AppendUint32(dst, 0xFFFFFFFF)
			continue
		}
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(v)))
		dst = append(dst, v...)
	}
	return endMessage(dst, start)
}

// beginMessage appends a message's kind and room for its length, which begins at start.
func beginMessage(dst []byte, kind byte) (_ []byte, start int) {
	return append(dst, kind, 0, 0, 0, 0), len(dst) + 1
}

// endMessage fills in the length of a message, which counts itself.
func endMessage(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start))
	return dst
}
