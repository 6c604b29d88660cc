package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/backup"
)

const kB, mB, gB = 1 << 10, 1 << 20, 1 << 30

// fileReport returns a report that prints to a file, and what it printed.
func fileReport(t *testing.T) (r *report, printed func() string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	environment := func(string) (string, bool) { return "", false }
	return newReport("pg_basebackup", f, environment), func() string {
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

func counts(done, total int64, tablespace, count int32, path string) *backup.Progress {
	p := new(backup.Progress)
	p.Done.Store(done)
	p.Total.Store(total)
	p.Tablespace.Store(tablespace)
	p.Count.Store(count)
	p.SetPath(path)
	return p
}

// The lines are those of pg_basebackup 18.
func TestProgressLine(t *testing.T) {
	for _, test := range []struct {
		reason   string
		counts   *backup.Progress
		verbose  bool
		finished bool
		want     string
	}{
		{"nothing known", counts(0, 0, 0, 0, ""), false, false, "0/0 kB (0%), 0/0 tablespaces"},
		{"one tablespace", counts(512*kB, 1024*kB, 0, 1, ""), false, false, " 512/1024 kB (50%), 0/1 tablespace"},
		{"several", counts(512*kB, 1024*kB, 1, 3, ""), false, false, " 512/1024 kB (50%), 1/3 tablespaces"},
		{"rounded down", counts(1023, 2047, 0, 1, ""), false, false, "0/1 kB (0%), 0/1 tablespace"},
		{"estimate too small", counts(2000*kB, 1000*kB, 1, 1, ""), false, false, "2000/2000 kB (100%), 1/1 tablespace"},
		{"no estimate", counts(2000*kB, 0, 0, 1, ""), false, false, "2000/2000 kB (0%), 0/1 tablespace"},
		{"finished", counts(1000*kB, 1000*kB, 1, 2, "x"), false, true, "1000/1000 kB (100%), 2/2 tablespaces"},
		{"finished short of the estimate", counts(990*kB, 1000*kB, 1, 1, ""), false, true, " 990/1000 kB (99%), 1/1 tablespace"},
		{"short path", counts(1*kB, 2*kB, 0, 1, "d/base.tar"), true, false, "1/2 kB (50%), 0/1 tablespace (d/base.tar                         )"},
		{"path that fits", counts(1*kB, 2*kB, 0, 1, strings.Repeat("x", 35)), true, false, "1/2 kB (50%), 0/1 tablespace (" + strings.Repeat("x", 35) + ")"},
		{"path that does not", counts(1*kB, 2*kB, 0, 1, "abc/"+strings.Repeat("x", 32)), true, false, "1/2 kB (50%), 0/1 tablespace (..." + strings.Repeat("x", 32) + ")"},
		{"finished, verbose", counts(990*kB, 1000*kB, 1, 1, "x"), true, true, " 990/1000 kB (100%), 1/1 tablespace " + strings.Repeat(" ", 40)},
	} {
		t.Run(test.reason, func(t *testing.T) {
			l := progressLines{counts: test.counts, form: progressForm{Verbose: test.verbose}}
			if got := l.line(test.finished); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// run10Seconds shows a backup of ten seconds, five of them without a byte.
func run10Seconds(r *report, form progressForm, fail bool) {
	p := new(backup.Progress)
	shown := startProgress(r, p, form)
	defer shown.stop()
	time.Sleep(2600 * time.Millisecond) // fake time, never that of a tick
	p.Total.Store(10 * mB)
	p.Count.Store(1)
	shown.enter(phaseReceive)
	for i := range 5 {
		p.Done.Add(2 * mB)
		if i == 2 {
			r.notice("WARNING:  it snows")
			time.Sleep(4 * time.Second)
		}
		time.Sleep(time.Second)
	}
	if fail {
		return
	}
	shown.enter(phaseLog)
	time.Sleep(time.Second)
	shown.enter(phaseSync)
	time.Sleep(time.Second)
	shown.enter(phaseDone)
}

func TestProgressLineByLine(t *testing.T) {
	for _, test := range []struct {
		reason string
		form   progressForm
		fail   bool
		want   string
	}{
		{"not a terminal", progressForm{}, false, `waiting for checkpoint
 2048/10240 kB (20%), 0/1 tablespace
 4096/10240 kB (40%), 0/1 tablespace
WARNING:  it snows
 6144/10240 kB (60%), 0/1 tablespace
 8192/10240 kB (80%), 0/1 tablespace
10240/10240 kB (100%), 0/1 tablespace
10240/10240 kB (100%), 1/1 tablespace
`},
		{"plain terminal", progressForm{Return: true}, false, "waiting for checkpoint\r" +
			" 2048/10240 kB (20%), 0/1 tablespace\r" +
			" 4096/10240 kB (40%), 0/1 tablespace\r" +
			"WARNING:  it snows\n" +
			" 6144/10240 kB (60%), 0/1 tablespace\r" +
			" 8192/10240 kB (80%), 0/1 tablespace\r" +
			"10240/10240 kB (100%), 0/1 tablespace\r" +
			"10240/10240 kB (100%), 1/1 tablespace\n"},
		{"failure", progressForm{}, true, `waiting for checkpoint
 2048/10240 kB (20%), 0/1 tablespace
 4096/10240 kB (40%), 0/1 tablespace
WARNING:  it snows
 6144/10240 kB (60%), 0/1 tablespace
 8192/10240 kB (80%), 0/1 tablespace
10240/10240 kB (100%), 0/1 tablespace
`},
	} {
		t.Run(test.reason, func(t *testing.T) {
			r, printed := fileReport(t)
			synctest.Test(t, func(*testing.T) { run10Seconds(r, test.form, test.fail) })
			if got := printed(); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// screen returns the lines that a terminal shows after text: a carriage return
// goes back to the line's beginning, clearLine clears what is right of it.
func screen(text string) []string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		var shown []rune
		at := 0
		for rest := line; rest != ""; {
			switch r := []rune(rest)[0]; {
			case strings.HasPrefix(rest, clearLine):
				shown, rest = shown[:at], rest[len(clearLine):]
			case r == '\r':
				at, rest = 0, rest[1:]
			default:
				shown = append(shown[:at], append([]rune{r}, shown[min(at+1, len(shown)):]...)...)
				at, rest = at+1, rest[len(string(r)):]
			}
		}
		lines = append(lines, string(shown))
	}
	return lines
}

func TestProgressOnTerminal(t *testing.T) {
	for _, test := range []struct {
		reason string
		fail   bool
		want   []string
	}{
		{"success", false, []string{"WARNING:  it snows", "10.0 MB in 0:09, 1.11 MB/s", ""}},
		{"failure", true, []string{"WARNING:  it snows", "━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  100%  10.0/10.0 MB  1.14 MB/s   0:00 left", ""}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			r, printed := fileReport(t)
			form := progressForm{Redraw: true, Width: func() int { return 80 }}
			synctest.Test(t, func(*testing.T) { run10Seconds(r, form, test.fail) })
			got := screen(printed())
			if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			for _, phase := range []string{"waiting for checkpoint  0:02", "waiting for write-ahead log  0:00", "syncing data to disk  0:00"} {
				if strings.Contains(printed(), phase) == (test.fail && !strings.Contains(phase, "checkpoint")) {
					t.Errorf("%q is wrong in %q", phase, printed())
				}
			}
		})
	}
}

func TestReceivingFitsTheTerminal(t *testing.T) {
	b := newProgressBar(nil, counts(1200*mB, 3*gB, 1, 3, "base/16384/日本語/2619"), progressForm{})
	b.speed.add(100*mB, time.Minute)
	for _, test := range []struct {
		width   int
		verbose bool
		ascii   bool
		want    string
	}{
		{120, false, false, "━━━━━━━━━━━╸──────────────────   39%  1.17/3.00 GB   100 MB/s   0:18 left  tablespace 2/3"},
		{120, true, false, "━━━━━╸─────────   39%  1.17/3.00 GB   100 MB/s   0:18 left  tablespace 2/3  base/16384/日本語/2619"},
		{89, true, false, "━━━━━╸─────────   39%  1.17/3.00 GB   100 MB/s   0:18 left  tablespace 2/3  …/日本語/2619"},
		{89, true, true, "[#####--------]   39%  1.17/3.00 GB   100 MB/s   0:18 left  tablespace 2/3  ...4/???/2619"},
		{77, false, false, "━━━━━━━───────────   39%  1.17/3.00 GB   100 MB/s   0:18 left  tablespace 2/3"},
		{77, false, true, "[######----------]   39%  1.17/3.00 GB   100 MB/s   0:18 left  tablespace 2/3"},
		{68, false, false, " 39%  1.17/3.00 GB   100 MB/s   0:18 left  tablespace 2/3"},
		{50, false, false, " 39%  1.17/3.00 GB   100 MB/s   0:18 left"},
		{30, false, false, " 39%  1.17/3.00 GB   100 MB/s"},
		{20, false, false, " 39%  1.17/3.00 GB"},
		{10, false, false, " 39%"},
	} {
		b.form = progressForm{Verbose: test.verbose, ASCII: test.ascii}
		got := b.receiving(test.width)
		if got != test.want {
			t.Errorf("in %d cells\ngot  %q\nwant %q", test.width, got, test.want)
		}
		if cutRight(got, test.width) != got {
			t.Errorf("%q is wider than %d cells", got, test.width)
		}
	}
}

func TestSize(t *testing.T) {
	for _, test := range []struct {
		n, unit int64
		want    string
	}{
		{0, 0, "0 kB"},
		{999 * kB, 999 * kB, "999 kB"},
		{1000 * kB, 1000 * kB, "0.98 MB"}, // never four digits
		{mB, mB, "1.00 MB"},
		{9990 * kB, 9990 * kB, "9.76 MB"},
		{99 * mB, 99 * mB, "99.0 MB"},
		{100 * mB, 100 * mB, "100 MB"},
		{mB, 3 * gB, "0.00 GB"},
		{5 << 40, 5 << 40, "5.00 TB"},
		{1 << 62, 1 << 62, "4096 PB"},
	} {
		if got := size(test.n, test.unit); got != test.want {
			t.Errorf("size(%d, %d) = %q, want %q", test.n, test.unit, got, test.want)
		}
	}
}

func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                             "0:00",
		1999 * time.Millisecond:       "0:01",
		time.Hour - time.Second:       "59:59",
		time.Hour:                     "1:00:00",
		99*time.Hour + 61*time.Second: "99:01:01",
	} {
		if got := clock(d); got != want {
			t.Errorf("clock(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for _, test := range []struct {
		in    string
		ascii bool
		want  string
	}{
		{"base/1/2619", false, "base/1/2619"},
		{"a\x1b[2Jb", false, "a?[2Jb"},
		{"a\u009bb", false, "a?b"}, // CSI in one byte of Latin-1
		{"a\xffb", false, "a?b"},
		{"日本", false, "日本"},
		{"日本", true, "??"},
	} {
		if got := printable(test.in, test.ascii); got != test.want {
			t.Errorf("printable(%q) = %q, want %q", test.in, got, test.want)
		}
	}
}

func TestDrawsNarrow(t *testing.T) {
	for _, test := range []struct {
		environment map[string]string
		want        bool
	}{
		{nil, false},
		{map[string]string{"LANG": "C"}, false},
		{map[string]string{"LANG": "C.UTF-8"}, true},
		{map[string]string{"LANG": "de_DE.utf8"}, true},
		{map[string]string{"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, false},
		{map[string]string{"LANG": "ja_JP.UTF-8"}, false},
	} {
		if got := drawsNarrow(func(name string) string { return test.environment[name] }); got != test.want {
			t.Errorf("%v: %v", test.environment, got)
		}
	}
}

func TestNoProgress(t *testing.T) {
	var p *progress
	p.enter(phaseReceive)
	p.stop()
	r, printed := fileReport(t)
	p = startProgress(r, new(backup.Progress), progressForm{})
	p.stop()
	p.enter(phaseReceive)
	p.stop()
	if got := printed(); got != "waiting for checkpoint\n" {
		t.Errorf("printed %q", got)
	}
}

func FuzzCut(f *testing.F) {
	f.Add("base/日本語/1", 7)
	f.Fuzz(func(t *testing.T, s string, width int) {
		s = printable(s, false)
		width = 3 + width&63
		if got := cutLeft(s, width, false); cutRight(got, width) != got {
			t.Errorf("cutLeft(%q, %d) = %q", s, width, got)
		}
	})
}
