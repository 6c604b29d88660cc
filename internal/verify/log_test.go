package verify

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"basin/internal/manifest"
	"basin/internal/usererr"
	"basin/internal/wal"
)

func TestFollowsHeader(t *testing.T) {
	for _, test := range []struct {
		reason           string
		record, position wal.LSN
		want             bool
	}{
		{"a timeline that begins with a segment", 0x12000028, 0x12000000, true},
		{"and with a page", 0x12002018, 0x12002000, true},
		{"a record more between them", 0x12000060, 0x12000000, false},
		{"within a page", 0x12000050, 0x12000028, false},
		{"before it", 0x11FFFFD8, 0x12000000, false},
	} {
		if got := followsHeader(test.record, test.position); got != test.want {
			t.Errorf("%s: %v", test.reason, got)
		}
	}
}

// TestRangesThatAreNone has ranges that no backup needs, over a segment of zeros.
func TestRangesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "000000010000000000000002"), make([]byte, wal.MinSegmentSize), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range []manifest.Range{
		{Timeline: 1, Start: 0x200028, End: 0xFFFFFFFF_02000120},
		{Timeline: 1, Start: 0x200028, End: 1<<64 - 1},
		{Timeline: 1, Start: 0x200028, End: 0x200028},
		{Timeline: 1, Start: 0x200028, End: 0x200020},
		{Timeline: 1, Start: 0x200028, End: 0},
		{Timeline: 1, Start: 0x200028, End: 0x200120},
	} {
		var told []string
		v := New(manifest.Manifest{Ranges: []manifest.Range{r}}, new(manifest.Index), Options{Report: func(err error) {
			told = append(told, fmt.Sprint(err, ": ", usererr.Detail(err)))
		}})
		if err := v.Log(t.Context(), dir); err != nil || len(told) != 1 || len(told[0]) < len("WAL parsing failed for timeline 1: x") {
			t.Errorf("%v to %v: %q, %v", r.Start, r.End, told, err)
		}
	}
}
