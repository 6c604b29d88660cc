package protocol

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/pgtest"
	"basin/internal/wal"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// result is one result of a command as a server sent it.
type result struct {
	Columns []Column
	Tag     string
	rows    [][][]byte
}

// compareShapes compares the shapes of results with those of a server that is on
// its second timeline.
func compareShapes(t *testing.T, s *pgtest.Server) {
	version := s.Major * 10000
	conn := s.Connect(t, "replication=database")
	one := func(c Command) result {
		t.Helper()
		want := result{Columns: Columns(c, version), Tag: Tag(c, version)}
		results := ask(t, conn, c.Command(version))
		got := results[len(results)-1]
		if s.Major < 13 { // some have a CommandComplete each before the common one
			got = results[0]
			got.Tag = results[len(results)-1].Tag
		}
		if diff := cmp.Diff(want.Columns, got.Columns); diff != "" {
			t.Errorf("%T has other columns (-here +server):\n%s", c, diff)
		}
		if got.Tag != want.Tag {
			t.Errorf("%T ends with %s, of the server with %s", c, want.Tag, got.Tag)
		}
		return got
	}

	one(IdentifySystem{})
	one(Show{Name: "wal_segment_size"})
	one(Show{Name: "all"})
	one(CreatePhysicalSlot{Slot: "one", Temporary: true})
	one(CreatePhysicalSlot{Slot: "two", ReserveWAL: true})
	one(CreateLogicalSlot{Slot: "three", Plugin: "test_decoding"})
	if s.Major >= 15 {
		one(ReadReplicationSlot{Slot: "two"})
	}
	if s.Major >= 17 {
		one(AlterReplicationSlot{Slot: "three", Failover: new(true)})
	}
	one(DropReplicationSlot{Slot: "two"})
	one(DropReplicationSlot{Slot: "three", Wait: true})
	history := one(TimelineHistory{Timeline: 2})

	backup := BaseBackup{Label: "shapes", FastCheckpoint: true, NoWait: true}
	if s.Major >= 15 {
		backup.Target = "blackhole"
	}
	results := ask(t, conn, backup.Command(version))
	want := []result{
		{Columns: BackupPositionColumns(version), Tag: "SELECT"},
		{Columns: TablespaceColumns(version), Tag: "SELECT"},
		{Columns: BackupPositionColumns(version), Tag: "SELECT"},
		{Tag: Tag(backup, version)},
	}
	if diff := cmp.Diff(want, results, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".rows" }, cmp.Ignore())); diff != "" {
		t.Errorf("BASE_BACKUP has other results (-here +server):\n%s", diff)
	}

	// The first timeline has nothing to send where the second begins.
	fields := strings.Fields(string(history.rows[0][1]))
	from, err := wal.ParseLSN(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	start := StartPhysicalReplication{From: wal.Position{LSN: from, Timeline: 1}}
	results = ask(t, conn, start.Command(version))
	if diff := cmp.Diff(NextTimelineColumns(), results[0].Columns); diff != "" {
		t.Errorf("START_REPLICATION has other columns (-here +server):\n%s", diff)
	}
	if got := results[len(results)-1].Tag; got != Tag(start, version) {
		t.Errorf("START_REPLICATION ends with %s, of the server with %s", Tag(start, version), got)
	}
}

// ask returns the results of a command.
func ask(t *testing.T, conn *pgconn.PgConn, text string) []result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var results []result
	answer := conn.Exec(ctx, text)
	for answer.NextResult() {
		reader := answer.ResultReader()
		var r result
		for _, f := range reader.FieldDescriptions() {
			r.Columns = append(r.Columns, Column{Name: string(f.Name), Type: f.DataTypeOID, Size: f.DataTypeSize, Modifier: f.TypeModifier})
		}
		for reader.NextRow() {
			var row [][]byte
			for _, v := range reader.Values() {
				row = append(row, slices.Clone(v))
			}
			r.rows = append(r.rows, row)
		}
		tag, err := reader.Close()
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		r.Tag = tag.String()
		results = append(results, r)
	}
	if err := answer.Close(); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return results
}

func TestAppendRowDescription(t *testing.T) {
	t.Parallel()
	for version := 100000; version <= 180000; version += 10000 {
		columns := slices.Concat(Columns(IdentifySystem{}, version), BackupPositionColumns(version), TablespaceColumns(version))
		got := AppendRowDescription([]byte("before"), columns)
		var message pgproto3.RowDescription
		if err := message.Decode(got[len("before")+5:]); err != nil {
			t.Fatal(err)
		}
		var read []Column
		for _, f := range message.Fields {
			read = append(read, Column{Name: string(f.Name), Type: f.DataTypeOID, Size: f.DataTypeSize, Modifier: f.TypeModifier})
		}
		if diff := cmp.Diff(columns, read); diff != "" {
			t.Errorf("read back differs:\n%s", diff)
		}
		again, err := message.Encode([]byte("before"))
		if err != nil || !slices.Equal(got, again) {
			t.Errorf("%d:\n got %X\nwant %X, %v", version, got, again, err)
		}
	}
}

func TestAppendDataRow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		values [][]byte
		want   string // in hexadecimal
	}{
		{"no columns", nil, "44 00000006 0000"},
		{"NULL is not empty", [][]byte{nil, {}}, "44 0000000E 0002 FFFFFFFF 00000000"},
		{"any bytes", [][]byte{{0, 0xFF}}, "44 0000000C 0001 00000002 00FF"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendDataRow(nil, c.values...); !slices.Equal(got, want) {
			t.Errorf("%s:\n got %X\nwant %X", c.reason, got, want)
		}
	}
}
