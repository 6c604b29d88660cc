package protocol

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"basin/internal/wal"

	"github.com/google/go-cmp/cmp"
)

func TestParseCommand(t *testing.T) {
	t.Parallel()
	const long = "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggg" // 63 bytes
	for _, c := range []struct {
		reason string
		text   string
		major  int
		want   Command
	}{
		// what clients send
		{"pg_basebackup 18", `BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  MANIFEST 'yes',  TARGET 'client')`, 18,
			BaseBackup{Label: "pg_basebackup base backup", Progress: true, FastCheckpoint: true, NoWait: true, Manifest: "yes"}},
		{"pg_basebackup 18 of 14", `BASE_BACKUP  LABEL 'it''s'  PROGRESS  FAST  NOWAIT  MAX_RATE 100  NOVERIFY_CHECKSUMS  MANIFEST 'yes'  MANIFEST_CHECKSUMS 'sha256'`, 14,
			BaseBackup{Label: "it's", Progress: true, FastCheckpoint: true, NoWait: true, MaxRate: 100, NoVerifyChecksums: true, Manifest: "yes", ManifestChecksums: "SHA256"}},
		{"pg_basebackup 14", `BASE_BACKUP LABEL 'x' PROGRESS  FAST NOWAIT   MANIFEST 'yes'  `, 14,
			BaseBackup{Label: "x", Progress: true, FastCheckpoint: true, NoWait: true, Manifest: "yes"}},
		{"its slot", `CREATE_REPLICATION_SLOT "pg_basebackup_1" TEMPORARY PHYSICAL ( RESERVE_WAL)`, 18,
			CreatePhysicalSlot{Slot: "pg_basebackup_1", Temporary: true, ReserveWAL: true}},
		{"its slot in 14", `CREATE_REPLICATION_SLOT "pg_basebackup_1" TEMPORARY PHYSICAL RESERVE_WAL`, 14,
			CreatePhysicalSlot{Slot: "pg_basebackup_1", Temporary: true, ReserveWAL: true}},
		{"its log", `START_REPLICATION SLOT "pg_basebackup_1" 0/2000000 TIMELINE 1`, 18,
			StartPhysicalReplication{Slot: "pg_basebackup_1", From: wal.Position{LSN: 0x2000000, Timeline: 1}}},
		{"pg_recvlogical", `CREATE_REPLICATION_SLOT "s" LOGICAL "test_decoding" ( FAILOVER,  TWO_PHASE,  SNAPSHOT 'nothing')`, 17,
			CreateLogicalSlot{Slot: "s", Plugin: "test_decoding", TwoPhase: true, Failover: true}},
		{"its stream", `START_REPLICATION SLOT "s" LOGICAL 16/B374D848 ("include-xids" '0', "x")`, 18,
			StartLogicalReplication{Slot: "s", From: 0x16B374D848, Options: []PluginOption{{"include-xids", new("0")}, {"x", nil}}}},
		{"a subscription's slot", `CREATE_REPLICATION_SLOT "pg_16394_sync_16384_7" LOGICAL pgoutput (SNAPSHOT 'use')`, 16,
			CreateLogicalSlot{Slot: "pg_16394_sync_16384_7", Plugin: "pgoutput", Snapshot: SnapshotUse}},
		{"a subscription's change", `ALTER_REPLICATION_SLOT "s" ( FAILOVER true, TWO_PHASE false )`, 18,
			AlterReplicationSlot{Slot: "s", Failover: new(true), TwoPhase: new(false)}},
		{"barman", `CREATE_REPLICATION_SLOT barman PHYSICAL`, 15, CreatePhysicalSlot{Slot: "barman"}},
		{"psql", "IDENTIFY_SYSTEM;", 13, IdentifySystem{}},
		{"a standby", `START_REPLICATION 16/B3000000 TIMELINE 4294967295`, 13, StartPhysicalReplication{From: wal.Position{LSN: 0x16B3000000, Timeline: 4294967295}}},
		{"a fork", "TIMELINE_HISTORY 2", 13, TimelineHistory{Timeline: 2}},
		{"settings", "SHOW data_directory_mode", 18, Show{Name: "data_directory_mode"}},
		{"a slot's place", `READ_REPLICATION_SLOT "s"`, 15, ReadReplicationSlot{Slot: "s"}},
		{"manifest", "UPLOAD_MANIFEST", 17, UploadManifest{}},

		// defaults
		{"backup, list", "BASE_BACKUP", 18, BaseBackup{Label: "base backup"}},
		{"backup, words", "BASE_BACKUP", 14, BaseBackup{Label: "base backup"}},
		{"logical slot", "CREATE_REPLICATION_SLOT s LOGICAL p", 18, CreateLogicalSlot{Slot: "s", Plugin: "p", Snapshot: SnapshotExport}},
		{"logical slot, words", "CREATE_REPLICATION_SLOT s LOGICAL p", 10, CreateLogicalSlot{Slot: "s", Plugin: "p", Snapshot: SnapshotExport}},
		{"stream without timeline", "START_REPLICATION PHYSICAL 0/0", 18, StartPhysicalReplication{}},
		{"drop", "DROP_REPLICATION_SLOT s WAIT", 18, DropReplicationSlot{Slot: "s", Wait: true}},

		// every option of a backup
		{"the defaults, said", `BASE_BACKUP (LABEL '', PROGRESS off, CHECKPOINT spread, WAIT on, WAL 0, INCREMENTAL false, TABLESPACE_MAP 'Off', VERIFY_CHECKSUMS, MANIFEST no, TARGET client)`, 18,
			BaseBackup{}},
		{"their opposites", `BASE_BACKUP (PROGRESS, CHECKPOINT FAST, WAIT False, WAL 1, INCREMENTAL 'TRUE', TABLESPACE_MAP on, VERIFY_CHECKSUMS 0, MANIFEST 'Force-Encode', MANIFEST_CHECKSUMS none, MAX_RATE 32, COMPRESSION zstd, COMPRESSION_DETAIL 3)`, 17,
			BaseBackup{Label: "base backup", Progress: true, FastCheckpoint: true, NoWait: true, WAL: true, Incremental: true, TablespaceMap: true,
				NoVerifyChecksums: true, Manifest: "force-encode", ManifestChecksums: "NONE", MaxRate: 32, Compression: "zstd", CompressionDetail: new("3")}},
		{"words in another order", `BASE_BACKUP TABLESPACE_MAP MAX_RATE 1048576 NOWAIT WAL FAST PROGRESS LABEL ''`, 10,
			BaseBackup{TablespaceMap: true, MaxRate: 1048576, NoWait: true, WAL: true, FastCheckpoint: true, Progress: true}},
		{"a target has the map", `BASE_BACKUP (TARGET 'server', TARGET_DETAIL '/srv')`, 15,
			BaseBackup{Label: "base backup", TablespaceMap: true, Target: "server", TargetDetail: new("/srv")}},
		{"no compression, said", `BASE_BACKUP (COMPRESSION 'none')`, 15, BaseBackup{Label: "base backup", Compression: "none"}},

		// tokens
		{"space of every kind", "\t\n\r\f SHOW\n\n a \t.\rb ;\n", 13, Show{Name: "a.b"}},
		{"one more since 17", "\vSHOW\va\v;", 17, Show{Name: "a"}},
		{"no space where none is needed", `CREATE_REPLICATION_SLOT"A"TEMPORARY LOGICAL"b"(SNAPSHOT'use',TWO_PHASE 1)`, 15,
			CreateLogicalSlot{Slot: "A", Plugin: "b", Temporary: true, Snapshot: SnapshotUse, TwoPhase: true}},
		{"letters of ASCII are folded", "SHOW ABCÄ_$9", 18, Show{Name: "abcÄ_$9"}},
		{"not in quotes", `SHOW "ABC"`, 18, Show{Name: "ABC"}},
		{"quotes in quotes", `SHOW "a""b"`, 18, Show{Name: `a"b`}},
		{"long names are cut", "SHOW " + long + "h." + long + "h", 18, Show{Name: long + "." + long}},
		{"in quotes also", `DROP_REPLICATION_SLOT "` + long + `h"`, 18, DropReplicationSlot{Slot: long}},
		{"cut between bytes", "SHOW " + long[1:] + "é", 18, Show{Name: long[1:] + "\xc3"}},
		{"numbers lose their high half", "TIMELINE_HISTORY 4294967297", 18, TimelineHistory{Timeline: 1}},
		{"or are the largest", "TIMELINE_HISTORY 99999999999999999999", 18, TimelineHistory{Timeline: 4294967295}},
		{"positions do as well", "START_REPLICATION 1FFFFFFFF/123456789ABCDEF01", 18, StartPhysicalReplication{From: wal.Position{LSN: 0xFFFFFFFFFFFFFFFF}}},
		{"a position is longer than a name", "START_REPLICATION Ab/cD", 18, StartPhysicalReplication{From: wal.Position{LSN: 0xAB000000CD}}},
		{"a zero byte is the end", "IDENTIFY_SYSTEM\x00 x", 18, IdentifySystem{}},
		{"words that older grammars keep", "SHOW LABEL", 15, Show{Name: "label"}},
		{"words that newer grammars keep", "SHOW TWO_PHASE", 14, Show{Name: "two_phase"}},

		// what is no replication command
		{"nothing", "", 18, SQL{Text: ""}},
		{"SQL", "select 1", 18, SQL{Text: "select 1"}},
		{"lower case", "identify_system", 18, SQL{Text: "identify_system"}},
		{"a comment first", "/* */ IDENTIFY_SYSTEM", 18, SQL{Text: "/* */ IDENTIFY_SYSTEM"}},
		{"quoted", `"IDENTIFY_SYSTEM"`, 18, SQL{Text: `"IDENTIFY_SYSTEM"`}},
		{"a word of the middle", "WAIT", 18, SQL{Text: "WAIT"}},
		{"a quote that is open", "select '", 18, SQL{Text: "select '"}},
		{"not yet a command in 14", "READ_REPLICATION_SLOT s", 14, SQL{Text: "READ_REPLICATION_SLOT s"}},
		{"not yet a command in 16", "UPLOAD_MANIFEST", 16, SQL{Text: "UPLOAD_MANIFEST"}},
		{"nor this", "ALTER_REPLICATION_SLOT s (failover)", 16, SQL{Text: "ALTER_REPLICATION_SLOT s (failover)"}},

		// majors that are not known
		{"newer", "UPLOAD_MANIFEST", 19, UploadManifest{}},
		{"older", "BASE_BACKUP FAST", 9, BaseBackup{Label: "base backup", FastCheckpoint: true}},
	} {
		t.Run(c.reason, func(t *testing.T) {
			got, err := ParseCommand(c.text, c.major)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.text, diff)
			}
		})
	}
}

func TestParseCommandErrors(t *testing.T) {
	t.Parallel()
	syntax := func(position int, detail string) CommandError {
		return CommandError{SQLState: "42601", Message: "syntax error", Detail: detail, Position: position}
	}
	for _, c := range []struct {
		reason string
		text   string
		major  int
		want   CommandError
	}{
		{"ends too early", "SHOW", 18, syntax(5, "The command ends too early.")},
		{"goes on", "IDENTIFY_SYSTEM now", 18, syntax(17, `Unexpected "now".`)},
		{"one semicolon is enough", "IDENTIFY_SYSTEM;;", 18, syntax(17, `Unexpected ";".`)},
		{"characters are counted, not bytes", "SHOW é é", 18, syntax(8, `Unexpected "é".`)},
		{"what is long is cut", "SHOW '" + strings.Repeat("x", 100) + "'", 18, syntax(6, `Unexpected "'`+strings.Repeat("x", 39)+`...".`)},
		{"between characters", "SHOW '" + strings.Repeat("é", 100) + "'", 18, syntax(6, `Unexpected "'`+strings.Repeat("é", 19)+`...".`)},
		{"open quote", "SHOW é '", 18, CommandError{SQLState: "42601", Message: "unterminated quoted string", Position: 8}},
		{"timeline zero is found before the open quote", "TIMELINE_HISTORY 0 '", 18, CommandError{SQLState: "42601", Message: "invalid timeline 0", Position: 18}},
		{"a word too many is found before the wrong option", "BASE_BACKUP (bogus) x", 18, syntax(21, `Unexpected "x".`)},
		{"words since 15", "BASE_BACKUP LABEL 'x'", 15,
			CommandError{SQLState: "42601", Message: "syntax error", Detail: `Unexpected "LABEL".`, Hint: hintList, Position: 13}},
		{"a list before 15", "BASE_BACKUP (LABEL 'x')", 14,
			CommandError{SQLState: "42601", Message: "syntax error", Detail: `Unexpected "(".`, Hint: hintWords, Position: 13}},
		{"no slot has no name", `START_REPLICATION SLOT "" 0/0`, 18, CommandError{SQLState: "42704", Message: `replication slot "" does not exist`}},
		{"wrong option", "BASE_BACKUP (MAX_RATE 31)", 18,
			CommandError{SQLState: "22003", Message: `31 is outside the valid range for parameter "MAX_RATE" (32 .. 1048576)`}},
	} {
		t.Run(c.reason, func(t *testing.T) {
			got, err := ParseCommand(c.text, c.major)
			var refused *CommandError
			if !errors.As(err, &refused) {
				t.Fatalf("got %#v, %v", got, err)
			}
			if diff := cmp.Diff(c.want, *refused); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.text, diff)
			}
			if refused.Error() != c.want.Message {
				t.Errorf("message is %q", refused.Error())
			}
		})
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	for version := 100000; version <= 180000; version += 10000 {
		f.Add(all.Command(version))
		f.Add(CreateLogicalSlot{Slot: `a"b`, Plugin: "p", Temporary: true, TwoPhase: true, Failover: true}.Command(version))
		f.Add(CreatePhysicalSlot{Slot: "s", ReserveWAL: true}.Command(version))
	}
	f.Fuzz(func(t *testing.T, text string) {
		for major := oldestMajor; major <= newestMajor; major++ {
			c, err := ParseCommand(text, major)
			if err != nil {
				var refused *CommandError
				if !errors.As(err, &refused) || refused.SQLState == "" || refused.Message == "" || c != nil {
					t.Fatalf("%d: %q: %#v, %v", major, text, c, err)
				}
				if refused.Position < 0 || refused.Position > len(text)+1 {
					t.Fatalf("%d: %q: position %d", major, text, refused.Position)
				}
				continue
			}
			written := c.Command(major * 10000)
			again, err := ParseCommand(written, major)
			if err != nil {
				t.Fatalf("%d: %q is written as %q: %v", major, text, written, err)
			}
			if diff := cmp.Diff(c, again); diff != "" {
				t.Fatalf("%d: %q is written as %q, and read as another:\n%s", major, text, written, diff)
			}
			if last := again.Command(major * 10000); last != written {
				t.Fatalf("%d: %q is written as %q, then as %q", major, text, written, last)
			}
		}
	})
}

func ExampleParseCommand() {
	c, err := ParseCommand("BASE_BACKUP (LABEL 'nightly', CHECKPOINT fast)", 18)
	fmt.Println(c.Command(140000), err)
	_, err = ParseCommand("BASE_BACKUP (LABLE 'nightly')", 18)
	fmt.Println(err)
	// Output:
	// BASE_BACKUP  LABEL 'nightly'  FAST <nil>
	// unrecognized base backup option: "lable"
}
