package wal

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseHistory(t *testing.T) {
	for _, c := range []struct {
		why      string
		timeline Timeline
		content  string
		history  History
		err      string // a part of it; empty if there is none
	}{
		{"as a server writes it", 2, "1\t0/9030B00\tno recovery target specified\n", History{{1, 0x9030B00}}, ""},
		{"a parent's history is copied, a blank line after it", 3,
			"1\t0/3000158\tno recovery target specified\n\n2\t1/A\tbefore 2024-03-01 00:00:00+00\n",
			History{{1, 0x3000158}, {2, 1<<32 + 10}}, ""},
		{"timelines are left out", 9, "2\t0/3000158\tx\n7\t0/4000000\tx\n", History{{2, 0x3000158}, {7, 0x4000000}}, ""},
		{"stopped before the parent began", 3, "1\t0/9000000\tx\n2\t0/8000000\tx\n", History{{1, 0x9000000}, {2, 0x8000000}}, ""},
		{"comments", 2, "# a\n  # b\n1\t0/1\tx # c\n#", History{{1, 1}}, ""},
		{"white space", 2, " \t\n\r\n \v1 \t 0/1 \r\n\t", History{{1, 1}}, ""},
		{"no reason", 2, "1\t0/1\n", History{{1, 1}}, ""},
		{"no end of line", 2, "1\t0/1\tx", History{{1, 1}}, ""},
		{"lower case", 2, "1\tab/cdef0123\tx\n", History{{1, 0xabcdef0123}}, ""},
		{"the highest there is", 4294967295, "4294967294\tFFFFFFFF/FFFFFFFF\tx\n", History{{4294967294, 1<<64 - 1}}, ""},
		{"reason in any encoding", 2, "1\t0/1\tnach \xfc\x00\n", History{{1, 1}}, ""},
		{"empty", 2, "", nil, ""},
		{"nothing but comments", 2, "#\n\n", nil, ""},

		{"no number", 2, "one\t0/1\tx\n", nil, `history of timeline 2, line 1: "one" is no timeline`},
		{"no timeline is zero", 2, "0\t0/1\tx\n", nil, `line 1: "0" is no timeline`},
		{"negative", 2, "-1\t0/1\tx\n", nil, `line 1: "-1" is no timeline`},
		{"33 bits", 2, "4294967297\t0/1\tx\n", nil, "is no timeline"},
		{"a switchpoint is missing", 2, "\n1\n", nil, "line 2: a switchpoint is missing"},
		{"no switchpoint", 2, "1\tno recovery target specified\n", nil, `line 1: switchpoint: invalid LSN "no"`},
		{"no timeline ends where none begins", 2, "1\t0/0\tx\n", nil, "line 1: no timeline ends at 0/0"},
		{"of its child", 2, "#\n2\t0/1\tx\n", nil, "line 2: timeline 2 is no ancestor of 2"},
		{"of another branch", 3, "1\t0/1\tx\n4\t0/2\tx\n", nil, "line 2: timeline 4 is no ancestor of 3"},
		{"descending", 4, "2\t0/1\tx\n1\t0/2\tx\n", nil, "line 2: timeline 1 is after 2"},
		{"twice", 4, "2\t0/1\tx\n\n2\t0/2\tx\n", nil, "line 3: timeline 2 is after 2"},
		{"the first timeline has no parent", 1, "1\t0/1\tx\n", nil, "no ancestor of 1"},
		{"a segment", 2, strings.Repeat("\x18\xd1\x07\x00\x01\x00", 1000), nil, "line 1:"},
	} {
		t.Run(c.why, func(t *testing.T) {
			got, err := ParseHistory(c.timeline, []byte(c.content))
			if !reflect.DeepEqual(got, c.history) {
				t.Errorf("is %v, want %v", got, c.history)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error is %v, want %s", err, c.err)
			}
			if err != nil && len(err.Error()) > 300 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestHistory(t *testing.T) {
	history := History{{1, 100}, {2, 200}, {5, 300}}
	for _, c := range []struct {
		timeline Timeline
		end      LSN
		ok       bool
	}{{1, 100, true}, {2, 200, true}, {5, 300, true}, {3, 0, false}, {6, 0, false}, {0, 0, false}} {
		if end, ok := history.End(c.timeline); end != c.end || ok != c.ok {
			t.Errorf("timeline %d ends at %v, %t, want %v, %t", c.timeline, end, ok, c.end, c.ok)
		}
	}
	for _, c := range []struct {
		why     string
		history History
		at      LSN
		want    Timeline
	}{
		{"beginning", history, 0, 1},
		{"last byte of the first", history, 99, 1},
		{"the switchpoint is of the child", history, 100, 2},
		{"last byte of the second", history, 199, 2},
		{"the next", history, 200, 5},
		{"its last", history, 299, 5},
		{"the timeline itself", history, 300, 6},
		{"far on", history, 1 << 63, 6},
		{"no history", nil, 5, 6},
		{"stopped before the parent began", History{{1, 200}, {2, 100}}, 99, 1},
		{"no byte is of that parent", History{{1, 200}, {2, 100}}, 100, 6},
	} {
		if got := c.history.at(6, c.at); got != c.want {
			t.Errorf("%s: the byte at %v is of timeline %d, want %d", c.why, c.at, got, c.want)
		}
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(3), []byte("1\t0/3000158\tno recovery target specified\n\n2\t1/A\tx\n"))
	f.Add(uint32(2), []byte("# 1\n1 0/1"))
	f.Fuzz(func(t *testing.T, timeline uint32, content []byte) {
		history, err := ParseHistory(Timeline(timeline), content)
		if err != nil && history != nil {
			t.Errorf("%v in spite of %v", history, err)
		}
		for i, fork := range history {
			if fork.Timeline == 0 || fork.End == 0 || fork.Timeline >= Timeline(timeline) || i > 0 && fork.Timeline <= history[i-1].Timeline {
				t.Errorf("history of %d: %v", timeline, history)
			}
			if end, ok := history.End(fork.Timeline); !ok || end != fork.End {
				t.Errorf("%v ends at %v, %t", fork, end, ok)
			}
		}
	})
}
