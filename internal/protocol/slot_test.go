package protocol

import "testing"

func TestSlotCommands(t *testing.T) {
	slot := CreateLogicalSlot{Slot: "s", Plugin: "test_decoding"}
	both := CreateLogicalSlot{Slot: "s", Plugin: "test_decoding", TwoPhase: true, Failover: true}
	for _, c := range []struct {
		reason    string
		got, want string
	}{
		// as seen on the wire
		{"plain", slot.Command(180006), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( SNAPSHOT 'nothing')`},
		{"with everything", both.Command(180006), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( FAILOVER,  TWO_PHASE,  SNAPSHOT 'nothing')`},
		{"old words", slot.Command(140023), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding"  NOEXPORT_SNAPSHOT`},

		{"first version with failover", both.Command(170000), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( FAILOVER,  TWO_PHASE,  SNAPSHOT 'nothing')`},
		{"last version without", both.Command(169999), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( TWO_PHASE,  SNAPSHOT 'nothing')`},
		{"failover alone", CreateLogicalSlot{Slot: "s", Plugin: "p", Failover: true}.Command(180006), `CREATE_REPLICATION_SLOT "s" LOGICAL "p" ( FAILOVER,  SNAPSHOT 'nothing')`},
		{"first version with the list", slot.Command(150000), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( SNAPSHOT 'nothing')`},
		{"last version without", both.Command(149999), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding"  NOEXPORT_SNAPSHOT`},
		{"oldest", both.Command(100000), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding"  NOEXPORT_SNAPSHOT`},
		{"quotes in names", CreateLogicalSlot{Slot: `a"b`, Plugin: `it's"`}.Command(180006), `CREATE_REPLICATION_SLOT "a""b" LOGICAL "it's""" ( SNAPSHOT 'nothing')`},

		{"temporary", CreateLogicalSlot{Slot: "s", Plugin: "p", Temporary: true}.Command(180006), `CREATE_REPLICATION_SLOT "s" TEMPORARY LOGICAL "p" ( SNAPSHOT 'nothing')`},
		{"snapshot for others", CreateLogicalSlot{Slot: "s", Plugin: "p", Snapshot: SnapshotExport}.Command(180006), `CREATE_REPLICATION_SLOT "s" LOGICAL "p" ( SNAPSHOT 'export')`},
		{"own snapshot", CreateLogicalSlot{Slot: "s", Plugin: "p", Snapshot: SnapshotUse}.Command(150000), `CREATE_REPLICATION_SLOT "s" LOGICAL "p" ( SNAPSHOT 'use')`},
		{"snapshot for others, old words", CreateLogicalSlot{Slot: "s", Plugin: "p", Snapshot: SnapshotExport}.Command(140000), `CREATE_REPLICATION_SLOT "s" LOGICAL "p"  EXPORT_SNAPSHOT`},
		{"own snapshot, old words", CreateLogicalSlot{Slot: "s", Plugin: "p", Snapshot: SnapshotUse}.Command(140000), `CREATE_REPLICATION_SLOT "s" LOGICAL "p"  USE_SNAPSHOT`},

		{"read", ReadReplicationSlot{"s"}.Command(180006), `READ_REPLICATION_SLOT "s"`},
		{"read, point", ReadReplicationSlot{"a.b"}.Command(180006), `READ_REPLICATION_SLOT "a"."b"`},
		{"alter", AlterReplicationSlot{Slot: "s", Failover: new(true), TwoPhase: new(false)}.Command(180006), `ALTER_REPLICATION_SLOT "s" (FAILOVER true, TWO_PHASE false)`},
		{"alter, before two-phase", AlterReplicationSlot{Slot: "s", Failover: new(false), TwoPhase: new(true)}.Command(170000), `ALTER_REPLICATION_SLOT "s" (FAILOVER false)`},

		{"drop", DropReplicationSlot{Slot: "s"}.Command(180006), `DROP_REPLICATION_SLOT "s"`},
		{"drop, wait", DropReplicationSlot{Slot: "s", Wait: true}.Command(180006), `DROP_REPLICATION_SLOT "s" WAIT`},
		{"drop, quotes", DropReplicationSlot{Slot: `a"b`}.Command(180006), `DROP_REPLICATION_SLOT "a""b"`},

		{"where the slot was left", StartLogicalReplication{"s", 0, nil}.Command(180006), `START_REPLICATION SLOT "s" LOGICAL 0/0`},
		{"from a position", StartLogicalReplication{"s", 0x16B374D848, nil}.Command(180006), `START_REPLICATION SLOT "s" LOGICAL 16/B374D848`},
		{"one option", StartLogicalReplication{"s", 0, []PluginOption{{"include-xids", new("0")}}}.Command(180006),
			`START_REPLICATION SLOT "s" LOGICAL 0/0 ("include-xids" '0')`},
		{"options with, without and with an empty value", StartLogicalReplication{"s", 0, []PluginOption{{"a", new("it's")}, {"b", nil}, {`c"d`, new("")}}}.Command(180006),
			`START_REPLICATION SLOT "s" LOGICAL 0/0 ("a" 'it''s', "b", "c""d" '')`},
		{"the same option twice", StartLogicalReplication{"s", 1, []PluginOption{{"a", new("1")}, {"a", new("2")}}}.Command(180006),
			`START_REPLICATION SLOT "s" LOGICAL 0/1 ("a" '1', "a" '2')`},
	} {
		t.Run(c.reason, func(t *testing.T) {
			if c.got != c.want {
				t.Errorf("\n got %s\nwant %s", c.got, c.want)
			}
		})
	}
}
