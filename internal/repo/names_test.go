package repo

import "testing"

// TestMemberNames has a cluster have files of names that are no text, which are kept, and of such as lead elsewhere, which are not.
func TestMemberNames(t *testing.T) {
	for path, want := range map[string]bool{
		"base/1":              true,
		"base/caf\xe9":        true,
		"base/a\\b":           true,
		"base/two\nlines":     true,
		"../elsewhere":        false,
		"base/../../passwd":   false,
		"/etc/passwd":         false,
		"base/what\x00follow": false,
	} {
		c := newCluster(t, false)
		sink := c.NewSink(SinkOptions{})
		err := copyTree(t.Context(), sink, tree{{path: path}: []byte("content"), {path: "global/pg_control"}: []byte("c")})
		if (err == nil) != want {
			t.Errorf("%q: %v", path, err)
		}
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
		if path == "base/caf\xe9" && err == nil {
			compare(t, c, sink.Written().ID, tree{{path: path}: []byte("content"), {path: "global/pg_control"}: []byte("c")})
		}
	}
}

func TestLogNames(t *testing.T) {
	const segment = "000000010000000A000000FF"
	for _, test := range []struct {
		name      string
		isKept    bool // of a segment
		isPart    bool
		from, end int64
	}{
		{segment, true, false, 0, 0},
		{segment + ".partial", true, false, 0, 0},
		{segment + ".00000028.backup", true, false, 0, 0},
		{segment + ".partial.00010000", true, true, 0, 0x10000},
		{segment + ".part.00000020.000000FF", true, true, 0x20, 0xff},
		{segment + ".part.00000020.000000ff", false, false, 0, 0},
		{segment + ".part.00000020", false, false, 0, 0},
		{segment + ".part.00000020.00000040.00000060", false, false, 0, 0},
		{segment + ".00000020.00000040", false, false, 0, 0},
		{segment + ".partial.+0001000", false, false, 0, 0},
		{"0000000A.history", false, false, 0, 0},
		{segment[1:] + ".partial.00010000", false, false, 0, 0},
	} {
		p, isPart := parseLogPart(test.name)
		if isOfSegment(test.name) != test.isKept || isPart != test.isPart || isPart && (p.from != test.from || p.to != test.end || p.segment != segment) {
			t.Errorf("%q: is of a segment: %v, part %v: %+v", test.name, isOfSegment(test.name), isPart, p)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, want := range map[string]bool{
		"main": true, "a": true, "shop_2-b": true, "a23456789012345678901234567890123456789012345678901234567890abcd": true,
		"": false, "2": false, "-a": false, "Shop": false, "a.b": false, "a/b": false, "a\n": false, "é": false, "keys": false, "probe": false,
		"a23456789012345678901234567890123456789012345678901234567890abcde": false,
	} {
		if err := CheckName(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}
