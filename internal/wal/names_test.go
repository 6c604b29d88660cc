package wal

import "testing"

func TestKindOf(t *testing.T) {
	for _, test := range []struct {
		name string
		want FileKind
	}{
		{"000000010000000A000000FF", SegmentFile},
		{"000000010000000A000000FF.partial", PartialFile},
		{"000000010000000A000000FF.00000028.backup", BackupFile},
		{"0000000A.history", HistoryFile},
		{"000000010000000a000000ff", 0}, // small letters
		{"000000010000000A000000F", 0},
		{"000000010000000A000000FF0", 0},
		{"000000010000000A000000FF.partial.00000028", 0}, // a repository's own
		{"000000010000000A000000FF.0000028.backup", 0},
		{"000000010000000A000000FF.backup", 0},
		{"000000010000000A000000FF.ready", 0},
		{"0000000A.history\n", 0},
		{"0000000.history", 0},
		{".history", 0},
		{"", 0},
	} {
		if got := KindOf(test.name); got != test.want {
			t.Errorf("%q: got %d, want %d", test.name, got, test.want)
		}
	}
}
