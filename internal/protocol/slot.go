package protocol

import (
	"fmt"
	"strings"

	"basin/internal/wal"
)

// First server versions, as server_version_num, whose logical slots know an option.
const (
	VersionTwoPhase = 150000 // TWO_PHASE
	VersionFailover = 170000 // FAILOVER
)

// LogicalSlot is a slot that holds what its output plugin makes of the log.
type LogicalSlot struct {
	Name     string
	Plugin   string
	TwoPhase bool // prepared transactions are decoded when they are prepared; not before VersionTwoPhase
	Failover bool // the slot is synchronized to standbys; not before VersionFailover
}

// Create returns the command that makes the slot, without a snapshot to read
// the tables with. What a server of the given server_version_num does not know
// is left out of it.
//
// Source: CreateReplicationSlot in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (s LogicalSlot) Create(version int) string {
	head := "CREATE_REPLICATION_SLOT " + quoteIdentifier(s.Name) + " LOGICAL " + quoteIdentifier(s.Plugin)
	if version < VersionOptionList {
		return head + "  NOEXPORT_SNAPSHOT"
	}
	o := options{list: true}
	if s.Failover && version >= VersionFailover {
		o.plain("FAILOVER")
	}
	if s.TwoPhase && version >= VersionTwoPhase {
		o.plain("TWO_PHASE")
	}
	o.text("SNAPSHOT", "nothing")
	return head + " (" + o.String() + ")"
}

// DropSlot returns the command that drops a slot of any kind.
//
// Source: DropReplicationSlot in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func DropSlot(name string) string { return "DROP_REPLICATION_SLOT " + quoteIdentifier(name) }

// PluginOption is an option of an output plugin.
type PluginOption struct {
	Name  string
	Value *string // nil for none, which is not the same as an empty one
}

// StartLogicalReplication returns the command that streams what a logical slot
// has from a position on; zero is where the slot was left.
//
// Source: StreamLogicalLog in src/bin/pg_basebackup/pg_recvlogical.c, PostgreSQL 18.
func StartLogicalReplication(slot string, from wal.LSN, options []PluginOption) string {
	s := fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL %v", quoteIdentifier(slot), from)
	if len(options) == 0 {
		return s
	}
	list := make([]string, len(options))
	for i, o := range options {
		list[i] = quoteIdentifier(o.Name)
		if o.Value != nil {
			list[i] += " " + quoteString(*o.Value)
		}
	}
	return s + " (" + strings.Join(list, ", ") + ")"
}
