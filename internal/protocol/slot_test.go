package protocol

import "testing"

func TestSlotCommands(t *testing.T) {
	slot := LogicalSlot{Name: "s", Plugin: "test_decoding"}
	both := LogicalSlot{Name: "s", Plugin: "test_decoding", TwoPhase: true, Failover: true}
	for _, c := range []struct {
		reason    string
		got, want string
	}{
		// as seen on the wire
		{"plain", slot.Create(180006), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( SNAPSHOT 'nothing')`},
		{"with everything", both.Create(180006), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( FAILOVER,  TWO_PHASE,  SNAPSHOT 'nothing')`},
		{"old words", slot.Create(140023), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding"  NOEXPORT_SNAPSHOT`},

		{"first version with failover", both.Create(170000), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( FAILOVER,  TWO_PHASE,  SNAPSHOT 'nothing')`},
		{"last version without", both.Create(169999), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( TWO_PHASE,  SNAPSHOT 'nothing')`},
		{"failover alone", LogicalSlot{Name: "s", Plugin: "p", Failover: true}.Create(180006), `CREATE_REPLICATION_SLOT "s" LOGICAL "p" ( FAILOVER,  SNAPSHOT 'nothing')`},
		{"first version with the list", slot.Create(150000), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( SNAPSHOT 'nothing')`},
		{"last version without", both.Create(149999), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding"  NOEXPORT_SNAPSHOT`},
		{"oldest", both.Create(100000), `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding"  NOEXPORT_SNAPSHOT`},
		{"quotes in names", LogicalSlot{Name: `a"b`, Plugin: `it's"`}.Create(180006), `CREATE_REPLICATION_SLOT "a""b" LOGICAL "it's""" ( SNAPSHOT 'nothing')`},

		{"drop", DropSlot("s"), `DROP_REPLICATION_SLOT "s"`},
		{"drop, quotes", DropSlot(`a"b`), `DROP_REPLICATION_SLOT "a""b"`},

		{"where the slot was left", StartLogicalReplication("s", 0, nil), `START_REPLICATION SLOT "s" LOGICAL 0/0`},
		{"from a position", StartLogicalReplication("s", 0x16B374D848, nil), `START_REPLICATION SLOT "s" LOGICAL 16/B374D848`},
		{"one option", StartLogicalReplication("s", 0, []PluginOption{{"include-xids", new("0")}}),
			`START_REPLICATION SLOT "s" LOGICAL 0/0 ("include-xids" '0')`},
		{"options with, without and with an empty value", StartLogicalReplication("s", 0, []PluginOption{{"a", new("it's")}, {"b", nil}, {`c"d`, new("")}}),
			`START_REPLICATION SLOT "s" LOGICAL 0/0 ("a" 'it''s', "b", "c""d" '')`},
		{"the same option twice", StartLogicalReplication("s", 1, []PluginOption{{"a", new("1")}, {"a", new("2")}}),
			`START_REPLICATION SLOT "s" LOGICAL 0/1 ("a" '1', "a" '2')`},
	} {
		t.Run(c.reason, func(t *testing.T) {
			if c.got != c.want {
				t.Errorf("\n got %s\nwant %s", c.got, c.want)
			}
		})
	}
}
