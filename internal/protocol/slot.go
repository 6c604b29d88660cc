package protocol

import (
	"slices"
	"strings"

	"basin/internal/wal"
)

// First server versions, as server_version_num, whose slots know an option.
const (
	VersionTwoPhase      = 150000 // TWO_PHASE of a new slot
	VersionFailover      = 170000 // FAILOVER, ALTER_REPLICATION_SLOT
	VersionAlterTwoPhase = 180000 // TWO_PHASE of a slot that is there
)

// ReadReplicationSlot is the command READ_REPLICATION_SLOT, which asks where a
// physical slot stands, from 15 on.
type ReadReplicationSlot struct {
	Slot string
}

// Command returns the text.
func (c ReadReplicationSlot) Command(int) string {
	return "READ_REPLICATION_SLOT " + quoteName(c.Slot)
}

// CreatePhysicalSlot is the command CREATE_REPLICATION_SLOT for a slot that holds
// the log.
type CreatePhysicalSlot struct {
	Slot       string
	Temporary  bool // it ends with the connection
	ReserveWAL bool // hold the log from now on, and not from the first use
}

// Command returns the text.
//
// Source: CreateReplicationSlot in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (c CreatePhysicalSlot) Command(version int) string {
	s := createSlotHead(c.Slot, c.Temporary) + " PHYSICAL"
	switch {
	case !c.ReserveWAL:
	case version >= VersionOptionList:
		s += " ( RESERVE_WAL)"
	default:
		s += "  RESERVE_WAL"
	}
	return s
}

func createSlotHead(slot string, temporary bool) string {
	s := "CREATE_REPLICATION_SLOT " + quoteIdentifier(slot)
	if temporary {
		s += " TEMPORARY"
	}
	return s
}

// Snapshot is what becomes of the snapshot that a new logical slot begins with.
type Snapshot byte

// What can become of it.
const (
	SnapshotNothing Snapshot = iota // it is not kept
	SnapshotExport                  // other sessions may take it; what a server does if it is not told
	SnapshotUse                     // it is the transaction's own
)

// String returns the word of the option SNAPSHOT.
func (s Snapshot) String() string {
	switch s {
	case SnapshotExport:
		return "export"
	case SnapshotUse:
		return "use"
	}
	return "nothing"
}

// word returns the option of servers before 15.
func (s Snapshot) word() string {
	switch s {
	case SnapshotExport:
		return "EXPORT_SNAPSHOT"
	case SnapshotUse:
		return "USE_SNAPSHOT"
	}
	return "NOEXPORT_SNAPSHOT"
}

// CreateLogicalSlot is the command CREATE_REPLICATION_SLOT for a slot that holds
// what its output plugin makes of the log.
type CreateLogicalSlot struct {
	Slot      string
	Plugin    string
	Temporary bool // it ends with the connection
	Snapshot  Snapshot
	TwoPhase  bool // prepared transactions are decoded when they are prepared; not before VersionTwoPhase
	Failover  bool // the slot is synchronized to standbys; not before VersionFailover
}

// Command returns the text. What a server of the given server_version_num does
// not know is left out of it.
//
// Source: CreateReplicationSlot in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (c CreateLogicalSlot) Command(version int) string {
	head := createSlotHead(c.Slot, c.Temporary) + " LOGICAL " + quoteIdentifier(c.Plugin)
	if version < VersionOptionList {
		return head + "  " + c.Snapshot.word()
	}
	o := options{list: true}
	if c.Failover && version >= VersionFailover {
		o.plain("FAILOVER")
	}
	if c.TwoPhase && version >= VersionTwoPhase {
		o.plain("TWO_PHASE")
	}
	o.text("SNAPSHOT", c.Snapshot.String())
	return head + " (" + o.String() + ")"
}

// DropReplicationSlot is the command DROP_REPLICATION_SLOT, for a slot of any kind.
type DropReplicationSlot struct {
	Slot string
	Wait bool // until nobody uses it
}

// Command returns the text.
//
// Source: DropReplicationSlot in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (c DropReplicationSlot) Command(int) string {
	s := "DROP_REPLICATION_SLOT " + quoteIdentifier(c.Slot)
	if c.Wait {
		s += " WAIT"
	}
	return s
}

// AlterReplicationSlot is the command ALTER_REPLICATION_SLOT, which changes a
// logical slot, from 17 on. Nil leaves a property as it is; one of them is given.
type AlterReplicationSlot struct {
	Slot     string
	Failover *bool
	TwoPhase *bool // not before VersionAlterTwoPhase
}

// Command returns the text.
//
// Source: libpqrcv_alter_slot in src/backend/replication/libpqwalreceiver/libpqwalreceiver.c, PostgreSQL 18.
func (c AlterReplicationSlot) Command(version int) string {
	var list []string
	if c.Failover != nil {
		list = append(list, "FAILOVER "+onOff(*c.Failover))
	}
	if c.TwoPhase != nil && version >= VersionAlterTwoPhase {
		list = append(list, "TWO_PHASE "+onOff(*c.TwoPhase))
	}
	return "ALTER_REPLICATION_SLOT " + quoteIdentifier(c.Slot) + " (" + strings.Join(list, ", ") + ")"
}

func onOff(yes bool) string {
	if yes {
		return "true"
	}
	return "false"
}

// PluginOption is an option of an output plugin.
type PluginOption struct {
	Name  string
	Value *string // nil for none, which is not the same as an empty one
}

// StartLogicalReplication is the command START_REPLICATION that streams what a
// logical slot has from a position on; zero is where the slot was left.
type StartLogicalReplication struct {
	Slot    string
	From    wal.LSN
	Options []PluginOption // for the output plugin, in this order
}

// Command returns the text.
//
// Source: StreamLogicalLog in src/bin/pg_basebackup/pg_recvlogical.c, PostgreSQL 18.
func (c StartLogicalReplication) Command(int) string {
	s := "START_REPLICATION SLOT " + quoteIdentifier(c.Slot) + " LOGICAL " + c.From.String()
	if len(c.Options) == 0 {
		return s
	}
	list := make([]string, len(c.Options))
	for i, o := range c.Options {
		list[i] = quoteIdentifier(o.Name)
		if o.Value != nil {
			list[i] += " " + quoteString(*o.Value)
		}
	}
	return s + " (" + strings.Join(list, ", ") + ")"
}

// slotWords are the options of a new slot that are words, and what they are in the list.
//
// Source: create_slot_legacy_opt in src/backend/replication/repl_gram.y, PostgreSQL 18.
var slotWords = map[string]option{
	"EXPORT_SNAPSHOT":   {name: "snapshot", kind: optionText, text: "export"},
	"NOEXPORT_SNAPSHOT": {name: "snapshot", kind: optionText, text: "nothing"},
	"RESERVE_WAL":       {name: "reserve_wal"},
	"TWO_PHASE":         {name: "two_phase"},
	"USE_SNAPSHOT":      {name: "snapshot", kind: optionText, text: "use"},
}

// checkSlotOption complains of an option that a version does not know, that the
// kind of slot does not have, or that was there before. own are those it has.
//
// Source: parseCreateReplSlotOptions in src/backend/replication/walsender.c, PostgreSQL 18.
func checkSlotOption(o option, s *seen, major int, own ...string) error {
	known := []string{"snapshot", "reserve_wal", "two_phase"}
	if major >= 17 {
		known = append(known, "failover")
	}
	switch {
	case !slices.Contains(known, o.name):
		return optionError(stateInternal, "unrecognized option: %s", o.name)
	case !slices.Contains(own, o.name) || s.again(o.name):
		return optionError(stateSyntax, "conflicting or redundant options")
	}
	return nil
}

// createPhysicalSlot adds the options to a command.
func createPhysicalSlot(c CreatePhysicalSlot, list []option, major int) (Command, error) {
	var given seen
	for _, o := range list {
		err := checkSlotOption(o, &given, major, "reserve_wal")
		if err == nil {
			c.ReserveWAL, err = o.boolean()
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// createLogicalSlot adds the options to a command.
func createLogicalSlot(c CreateLogicalSlot, list []option, major int) (Command, error) {
	var given seen
	c.Snapshot = SnapshotExport
	for _, o := range list {
		err := checkSlotOption(o, &given, major, "snapshot", "two_phase", "failover")
		if err == nil {
			switch o.name {
			case "snapshot":
				c.Snapshot, err = snapshotOption(o)
			case "two_phase":
				c.TwoPhase, err = o.boolean()
			case "failover":
				c.Failover, err = o.boolean()
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

func snapshotOption(o option) (Snapshot, error) {
	text, err := o.str()
	if err != nil {
		return 0, err
	}
	for _, s := range []Snapshot{SnapshotNothing, SnapshotExport, SnapshotUse} {
		if s.String() == text {
			return s, nil
		}
	}
	return 0, optionError(stateInvalidParameter, `unrecognized value for CREATE_REPLICATION_SLOT option "%s": "%s"`, o.name, text)
}

// alterSlot makes the command of its options.
//
// Source: ParseAlterReplSlotOptions in src/backend/replication/walsender.c, PostgreSQL 18.
func alterSlot(slot string, list []option, major int) (Command, error) {
	c := AlterReplicationSlot{Slot: slot}
	var given seen
	for _, o := range list {
		switch {
		case o.name == "failover":
		case o.name == "two_phase" && major >= 18:
		default:
			return nil, optionError(stateInternal, "unrecognized option: %s", o.name)
		}
		if given.again(o.name) {
			return nil, optionError(stateSyntax, "conflicting or redundant options")
		}
		value, err := o.boolean()
		if err != nil {
			return nil, err
		}
		if o.name == "failover" {
			c.Failover = &value
		} else {
			c.TwoPhase = &value
		}
	}
	return c, nil
}
