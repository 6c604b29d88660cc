package pgdata

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/wal"
)

// incrementalLabel is what a server of 18 writes.
const incrementalLabel = `START WAL LOCATION: 0/D000028 (file 00000001000000000000000D)
CHECKPOINT LOCATION: 0/D000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-22 09:25:30 UTC
LABEL: it's a label: INCREMENTAL FROM LSN: 1/1
START TIMELINE: 3
INCREMENTAL FROM LSN: 0/A000028
INCREMENTAL FROM TLI: 2
`

func TestParseLabel(t *testing.T) {
	want := Label{Start: wal.Position{LSN: 0xD000028, Timeline: 3}, Previous: wal.Position{LSN: 0xA000028, Timeline: 2}}
	got, err := ParseLabel([]byte(incrementalLabel), "x")
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	full := LabelOfFull([]byte(incrementalLabel))
	if diff := cmp.Diff(strings.Split(incrementalLabel, "\n")[:7], strings.Split(strings.TrimSuffix(string(full), "\n"), "\n")); diff != "" {
		t.Error(diff)
	}
	want.Previous = wal.Position{}
	if got, err := ParseLabel(full, "x"); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestParseLabelThatIsNone(t *testing.T) {
	for _, test := range []struct{ from, to, want string }{
		{"0/D000028 (", "D000028 (", "x: could not parse START WAL LOCATION"},
		{"0/D000028 (", "0/D000028(", "x: could not parse START WAL LOCATION"},
		{"START WAL LOCATION: 0/D000028 ", "START WAL LOCATION: 0/D000028\n", "x: improper terminator for START WAL LOCATION"},
		{"START WAL LOCATION", "START LOCATION", "x: could not find START WAL LOCATION"},
		{"START TIMELINE: 3", "START TIMELINE: x", "x: could not parse TLI for START TIMELINE"},
		{"START TIMELINE: 3", "START TIMELINE: 3 ", "x: could not parse TLI for START TIMELINE"},
		{"START TIMELINE: 3", "START TIMELINE: 0", "x: invalid TLI"},
		{"START TIMELINE: 3", "TIMELINE: 3", "x: could not find START TIMELINE"},
		{"FROM LSN: 0/A000028\n", "FROM LSN: 0/A000028 \n", "x: improper terminator for INCREMENTAL FROM LSN"},
		{"FROM LSN: 0/A", "FROM LSN: 0/", "<nil>"},
		{"INCREMENTAL FROM LSN: 0/A000028\n", "", "x: INCREMENTAL FROM TLI requires INCREMENTAL FROM LSN"},
		{"INCREMENTAL FROM TLI: 2\n", "", "x: INCREMENTAL FROM LSN requires INCREMENTAL FROM TLI"},
		{"INCREMENTAL FROM TLI: 2\n", "INCREMENTAL FROM TLI: 2", "x: could not parse TLI for INCREMENTAL FROM TLI"},
		{"INCREMENTAL FROM TLI: 2", "INCREMENTAL FROM TLI: 0", "x: invalid TLI"},
	} {
		content := strings.Replace(incrementalLabel, test.from, test.to, 1)
		if _, err := ParseLabel([]byte(content), "x"); fmt.Sprint(err) != test.want {
			t.Errorf("%q: %v, want %s", test.to, err, test.want)
		}
	}
}

func TestTablespaceMap(t *testing.T) {
	links := []TablespaceLink{{16384, "/srv/space"}, {4294967295, "/with space/and\nnewline\r\\"}}
	var content []byte
	for _, l := range links {
		content = AppendTablespaceLink(content, l)
	}
	if want := "16384 /srv/space\n4294967295 /with space/and\\\nnewline\\\r\\\\\n"; string(content) != want {
		t.Errorf("%q, want %q", content, want)
	}
	if got, err := ParseTablespaceMap(content); err != nil || cmp.Diff(links, got) != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseTablespaceMap([]byte("1 /a\r\n2 /b\r\n")); err != nil || len(got) != 2 || got[1].Target != "/b" {
		t.Errorf("as Windows has it: %+v, %v", got, err)
	}
	for _, bad := range []string{"1", "1 /a", "x /a\n", "0 /a\n", "1 \n", "1\n", "4294967296 /a\n", "1 /a\\"} {
		if got, err := ParseTablespaceMap([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}
