package main

import (
	"bufio"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseSample(t *testing.T) {
	whole := sample{"tar", "ours", 1500 * time.Millisecond, 2 * time.Second, 3 << 20, 4 << 20, 5, load{}}
	loaded := whole
	loaded.Load = load{1000, 2 * time.Second, 3 * time.Millisecond, 4 * time.Millisecond, 5 << 20, 6 * time.Millisecond}
	for _, test := range []struct {
		reason, line string
		want         sample
		ok           bool
	}{
		{"as written", whole.String(), whole, true},
		{"as written, with a load", loaded.String(), loaded, true},
		{"empty", "", sample{}, false},
		{"cut short", "tar\tours\t1\t2", sample{}, false},
		{"cut short within the load", whole.String() + "\t1\t2", sample{}, false},
		{"too long", loaded.String() + "\t1", sample{}, false},
		{"another program", "tar\tother\t1\t2\t3\t4\t5", sample{}, false},
		{"not a number", "tar\tours\t1\t2\tx\t4\t5", sample{}, false},
		{"negative", "tar\tours\t1\t2\t-3\t4\t5", sample{}, false},
		{"a load that is not a number", whole.String() + "\t1\t2\t3\t4\t5\tx", sample{}, false},
	} {
		got, err := parseSample(test.line)
		if (err == nil) != test.ok || test.ok && got != test.want {
			t.Errorf("%s: got %v, %v", test.reason, got, err)
		}
	}
}

func FuzzParseSample(f *testing.F) {
	f.Add(sample{"tar", "ours", 1, 2, 3, 4, 5, load{}}.String())
	f.Add(sample{"tar", "ours", 1000, 2000, 3, 4, 5, load{1, 2000, 3000, 4000, 5, 6000}}.String())
	f.Fuzz(func(t *testing.T, line string) {
		s, err := parseSample(line)
		if err != nil {
			return
		}
		if again, err := parseSample(s.String()); err != nil || again != s {
			t.Errorf("%q: %v, then %v, %v", line, s, again, err)
		}
	})
}

func TestParsePeak(t *testing.T) {
	for _, test := range []struct {
		reason, status string
		want           int64
		ok             bool
	}{
		{"a program", "Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t   12345 kB\nVmRSS:\t 1 kB\n", 12345 * 1024, true},
		{"one that has ended", "Name:\tx\nState:\tZ (zombie)\n", 0, false},
		{"not a number", "VmHWM:\tmuch\n", 0, false},
	} {
		if got, ok := parsePeak(test.status); got != test.want || ok != test.ok {
			t.Errorf("%s: got %d, %v", test.reason, got, ok)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		reason        string
		ratio, target float64
		want          string
	}{
		{"below", 0.8, 1, "the target of 1.00 is met"},
		{"on it, as printed", 1.004, 1, "the target of 1.00 is met"},
		{"above", 1.1, 1, "the target of 1.00 is missed by 10 %"},
	} {
		if got := judge(test.ratio, test.target); got != test.want {
			t.Errorf("%s: got %s", test.reason, got)
		}
	}
}

// The ratio is the median of those of pairs, not that of medians: a slow minute of the
// machine slows both of a pair.
func TestReport(t *testing.T) {
	cases, err := readCases(strings.NewReader("plain\t1\t-Fp\ntar\t1\t-Ft\nflat@2 GB\t1.1\t-Ft\nflat@20 GB\t1.1\t-Ft\n"))
	if err != nil {
		t.Fatal(err)
	}
	at := func(name, program string, seconds, megabytes int64) sample {
		return sample{name, program, time.Duration(seconds) * time.Second, time.Second, megabytes * 1e6, 2 * megabytes * 1e6, 7e6, load{}}
	}
	var out strings.Builder
	if err := report(&out, cases, []sample{
		at("plain", "stock", 10, 5), at("plain", "ours", 9, 20),
		at("plain", "stock", 40, 5), at("plain", "ours", 20, 20),
		at("plain", "stock", 20, 5), at("plain", "ours", 16, 20),
		at("flat@2 GB", "ours", 1, 20), at("flat@20 GB", "ours", 9, 30),
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| plain | 20.00 s | 16.00 s | 0.80 (0.50–0.90) | ≤ 1.00 |",
		"**plain** takes 0.80 of stock's time: the target of 1.00 is met",
		"5.0 (all: 10.0) MB",
		"**flat** needs 1.50 of its memory at ten times the size: the target of 1.10 is missed by 36 %",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "**tar**") {
		t.Errorf("a case that did not run is in\n%s", &out)
	}
}

// busy returns how much of a processor this process has used.
func busy() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestMeasure runs this test's own program as one that takes memory and has a child.
func TestMeasure(t *testing.T) {
	const role, mib = "BENCH_TEST_ROLE", 1 << 20
	command := func(name string) *exec.Cmd {
		c := exec.Command(os.Args[0], "-test.run=^TestMeasure$")
		c.Env = append(os.Environ(), role+"="+name)
		return c
	}
	take := func(size int) byte {
		held := make([]byte, size)
		for busy() < 200*time.Millisecond { // by its own count: a machine may be slow to give it that
			for i := range held {
				held[i]++
			}
		}
		return held[0]
	}
	switch os.Getenv(role) {
	case "parent":
		child := command("child")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		take(32 * mib)
		if err := child.Wait(); err != nil {
			t.Fatal(err)
		}
		return
	case "child":
		take(64 * mib)
		return
	}
	var s sample
	if err := measure(command("parent"), &s, sampling, nil); err != nil {
		t.Fatal(err)
	}
	if s.Wall < 200*time.Millisecond || s.CPU < 400*time.Millisecond {
		t.Errorf("two processes with 200 ms of work each took %v, and CPU %v", s.Wall, s.CPU)
	}
	if s.Largest < 64*mib || s.Sum < 96*mib || s.Largest >= s.Sum {
		t.Errorf("processes of 64 and 32 MiB: largest %d, sum %d", s.Largest/mib, s.Sum/mib)
	}
}

// TestMeasureEnds runs this test's own program as one that is told to end.
func TestMeasureEnds(t *testing.T) {
	const role = "BENCH_TEST_SIGNAL"
	if is := os.Getenv(role); is != "" {
		sent := make(chan os.Signal, 1)
		signal.Notify(sent, syscall.SIGTERM)
		os.Stdout.WriteString("ready\n")
		for range sent {
			if is == "obeys" {
				return
			}
			os.Stdout.WriteString("no\n")
		}
	}
	for _, test := range []struct {
		reason, role string
		ok           bool
	}{
		{"it ends when it is told, which is no failure", "obeys", true},
		{"it does not, and is killed", "stays", false},
	} {
		command := exec.Command(os.Args[0], "-test.run=^TestMeasureEnds$")
		command.Env = append(os.Environ(), role+"="+test.role)
		says, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan os.Signal, 8) // more than come
		go func() {
			lines := bufio.NewScanner(says)
			for lines.Scan() && (lines.Text() == "ready" || lines.Text() == "no") {
				stop <- syscall.SIGTERM
			}
		}()
		var s sample
		if err := measure(command, &s, sampling, stop); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
}
