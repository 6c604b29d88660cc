package protocol

import (
	"strings"
	"testing"

	"basin/internal/wal"
)

// all is a command with everything a client can ask for.
var all = BaseBackup{
	Label: "it's", Incremental: true, Progress: true, WAL: true, FastCheckpoint: true, NoWait: true, MaxRate: 100,
	TablespaceMap: true, NoVerifyChecksums: true, Manifest: "force-encode", ManifestChecksums: "sha256",
	Compression: "zstd", CompressionDetail: new("level=3,workers=2"),
}

func TestBaseBackupCommand(t *testing.T) {
	const label = "pg_basebackup base backup"
	with := func(change func(*BaseBackup)) BaseBackup {
		b := all
		change(&b)
		return b
	}
	for _, c := range []struct {
		name    string
		command BaseBackup
		version int
		want    string
	}{
		// as seen on the wire
		{"plain, stream", BaseBackup{Label: label, Progress: true, FastCheckpoint: true, NoWait: true, Manifest: "yes"}, 180006,
			`BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  MANIFEST 'yes',  TARGET 'client')`},
		{"tar, incremental", BaseBackup{Label: label, Incremental: true, Progress: true, FastCheckpoint: true, NoWait: true, TablespaceMap: true, Manifest: "yes"}, 180006,
			`BASE_BACKUP ( INCREMENTAL,  LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  TABLESPACE_MAP,  MANIFEST 'yes',  TARGET 'client')`},
		{"old words", BaseBackup{Label: "it's", Progress: true, FastCheckpoint: true, NoWait: true, MaxRate: 100, NoVerifyChecksums: true, Manifest: "yes", ManifestChecksums: "sha256"}, 140023,
			`BASE_BACKUP  LABEL 'it''s'  PROGRESS  FAST  NOWAIT  MAX_RATE 100  NOVERIFY_CHECKSUMS  MANIFEST 'yes'  MANIFEST_CHECKSUMS 'sha256'`},

		// the two grammars
		{"everything, list", all, 180006,
			`BASE_BACKUP ( INCREMENTAL,  LABEL 'it''s',  PROGRESS,  WAL,  CHECKPOINT 'fast',  WAIT 0,  MAX_RATE 100,  TABLESPACE_MAP,  VERIFY_CHECKSUMS 0,` +
				`  MANIFEST 'force-encode',  MANIFEST_CHECKSUMS 'sha256',  TARGET 'client',  COMPRESSION 'zstd',  COMPRESSION_DETAIL 'level=3,workers=2')`},
		{"everything that 14 knows", with(func(b *BaseBackup) { b.Incremental, b.Compression, b.CompressionDetail = false, "", nil }), 140000,
			`BASE_BACKUP  LABEL 'it''s'  PROGRESS  WAL  FAST  NOWAIT  MAX_RATE 100  TABLESPACE_MAP  NOVERIFY_CHECKSUMS` +
				`  MANIFEST 'force-encode'  MANIFEST_CHECKSUMS 'sha256'`},
		{"nothing, list", BaseBackup{}, 180006, `BASE_BACKUP ( LABEL '',  TARGET 'client')`},
		{"nothing, words", BaseBackup{}, 90100, `BASE_BACKUP  LABEL ''`},
		{"first version with the list", BaseBackup{Label: "x", FastCheckpoint: true}, 150000, `BASE_BACKUP ( LABEL 'x',  CHECKPOINT 'fast',  TARGET 'client')`},
		{"last version without", BaseBackup{Label: "x", FastCheckpoint: true}, 149999, `BASE_BACKUP  LABEL 'x'  FAST`},
		{"-X none", BaseBackup{Label: "x", Progress: true}, 150018, `BASE_BACKUP ( LABEL 'x',  PROGRESS,  TARGET 'client')`},
		{"-X fetch, words", BaseBackup{Label: "x", Progress: true, WAL: true, NoWait: true}, 120000, `BASE_BACKUP  LABEL 'x'  PROGRESS  WAL  NOWAIT`},

		// manifest
		{"checksums without manifest", BaseBackup{Label: "x", ManifestChecksums: "sha256"}, 180006, `BASE_BACKUP ( LABEL 'x',  TARGET 'client')`},
		{"manifest, force-encode", BaseBackup{Label: "x", Manifest: "force-encode"}, 130000, `BASE_BACKUP  LABEL 'x'  MANIFEST 'force-encode'`},

		// targets
		{"blackhole", BaseBackup{Label: "x", NoWait: true, Manifest: "yes", Target: "blackhole"}, 150000,
			`BASE_BACKUP ( LABEL 'x',  WAIT 0,  MANIFEST 'yes',  TABLESPACE_MAP,  TARGET 'blackhole')`},
		{"server with detail and compression", BaseBackup{Label: "x", Target: "server", TargetDetail: new("/srv/it's"), Compression: "gzip"}, 180006,
			`BASE_BACKUP ( LABEL 'x',  TABLESPACE_MAP,  TARGET 'server',  TARGET_DETAIL '/srv/it''s',  COMPRESSION 'gzip')`},
		{"empty details are details", BaseBackup{Label: "x", Target: "server", TargetDetail: new(""), Compression: "gzip", CompressionDetail: new("")}, 180006,
			`BASE_BACKUP ( LABEL 'x',  TABLESPACE_MAP,  TARGET 'server',  TARGET_DETAIL '',  COMPRESSION 'gzip',  COMPRESSION_DETAIL '')`},
		{"target asks for the map once", BaseBackup{Label: "x", TablespaceMap: true, NoVerifyChecksums: true, Target: "blackhole"}, 180006,
			`BASE_BACKUP ( LABEL 'x',  VERIFY_CHECKSUMS 0,  TABLESPACE_MAP,  TARGET 'blackhole')`},
		{"detail without target", BaseBackup{Label: "x", TargetDetail: new("y"), CompressionDetail: new("z")}, 180006, `BASE_BACKUP ( LABEL 'x',  TARGET 'client')`},

		// what is special in a literal, and what is not
		{"backslash", BaseBackup{Label: `a\b`}, 140000, `BASE_BACKUP  LABEL 'a\b'`},
		{"quotes", BaseBackup{Label: `''"`}, 140000, `BASE_BACKUP  LABEL '''''"'`},
		{"not UTF-8", BaseBackup{Label: "caf\xe9"}, 140000, "BASE_BACKUP  LABEL 'caf\xe9'"},
		{"rate", BaseBackup{Label: "x", MaxRate: 1048576}, 180006, `BASE_BACKUP ( LABEL 'x',  MAX_RATE 1048576,  TARGET 'client')`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.command.Command(c.version); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestOtherCommands(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{CreatePhysicalSlot{"s", true, true}.Command(180006), `CREATE_REPLICATION_SLOT "s" TEMPORARY PHYSICAL ( RESERVE_WAL)`},
		{CreatePhysicalSlot{"s", false, true}.Command(150000), `CREATE_REPLICATION_SLOT "s" PHYSICAL ( RESERVE_WAL)`},
		{CreatePhysicalSlot{"s", false, false}.Command(180006), `CREATE_REPLICATION_SLOT "s" PHYSICAL`},
		{CreatePhysicalSlot{"s", true, false}.Command(180006), `CREATE_REPLICATION_SLOT "s" TEMPORARY PHYSICAL`},
		{CreatePhysicalSlot{"s", true, true}.Command(149999), `CREATE_REPLICATION_SLOT "s" TEMPORARY PHYSICAL  RESERVE_WAL`},
		{CreatePhysicalSlot{"s", false, true}.Command(100000), `CREATE_REPLICATION_SLOT "s" PHYSICAL  RESERVE_WAL`},
		{CreatePhysicalSlot{"s", false, false}.Command(100000), `CREATE_REPLICATION_SLOT "s" PHYSICAL`},
		{CreatePhysicalSlot{`a"b'c`, false, false}.Command(180006), `CREATE_REPLICATION_SLOT "a""b'c" PHYSICAL`},

		{StartPhysicalReplication{"", wal.Position{LSN: 0x2000000, Timeline: 1}}.Command(180006), `START_REPLICATION 0/2000000 TIMELINE 1`},
		{StartPhysicalReplication{"slot0", wal.Position{LSN: 0x16B3000000, Timeline: 4294967295}}.Command(180006), `START_REPLICATION SLOT "slot0" 16/B3000000 TIMELINE 4294967295`},
		{StartPhysicalReplication{`a"b`, wal.Position{}}.Command(180006), `START_REPLICATION SLOT "a""b" 0/0`},

		{IdentifySystem{}.Command(180006), `IDENTIFY_SYSTEM`},
		{UploadManifest{}.Command(180006), `UPLOAD_MANIFEST`},
		{SQL{"select 1"}.Command(180006), `select 1`},
		{Show{"wal_segment_size"}.Command(180006), `SHOW wal_segment_size`},
		{Show{"plpgsql.x"}.Command(180006), `SHOW plpgsql.x`},
		{Show{"DateStyle"}.Command(180006), `SHOW "DateStyle"`},
		{Show{"x; y"}.Command(180006), `SHOW "x; y"`},
		{Show{"1.x"}.Command(180006), `SHOW "1"."x"`},
		{Show{"a..b"}.Command(180006), `SHOW "a".""."b"`},
		{Show{""}.Command(180006), `SHOW ""`},
		{TimelineHistory{2}.Command(180006), `TIMELINE_HISTORY 2`},

		{quoteString(``), `''`},
		{quoteString(`it's`), `'it''s'`},
		{quoteString(`a"b\c`), `'a"b\c'`},
		{quoteIdentifier(``), `""`},
		{quoteIdentifier(`a"b`), `"a""b"`},
		{quoteIdentifier(`it's \`), `"it's \"`},
	} {
		if c.got != c.want {
			t.Errorf("\n got %s\nwant %s", c.got, c.want)
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("it's")
	f.Add(`a"b`)
	f.Fuzz(func(t *testing.T, s string) {
		for quote, quoted := range map[string]string{"'": quoteString(s), `"`: quoteIdentifier(s)} {
			inside := strings.TrimSuffix(strings.TrimPrefix(quoted, quote), quote)
			if len(inside) != len(quoted)-2 || strings.Contains(strings.ReplaceAll(inside, quote+quote, ""), quote) {
				t.Errorf("%q ends before its end", quoted)
			}
			if got := strings.ReplaceAll(inside, quote+quote, quote); got != s {
				t.Errorf("%q is read as %q", quoted, got)
			}
		}
	})
}
