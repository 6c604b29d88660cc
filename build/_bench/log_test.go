package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReadLogCases(t *testing.T) {
	for _, test := range []struct {
		reason, line string
		want         logCase
		ok           bool
	}{
		{"bulk", "bulk\tgzip\t0.95\t16777216", logCase{"bulk", "gzip", 0.95, 16 << 20}, true},
		{"without a target", "bulk\tzstd\t0\t16777216", logCase{"bulk", "zstd", 0, 16 << 20}, true},
		{"a kind that no one knows", "other\tgzip\t0.95\t1", logCase{}, false},
		{"cut short", "bulk\tgzip\t0.95", logCase{}, false},
		{"target that is not a number", "bulk\tgzip\tx\t1", logCase{}, false},
		{"size that is not a number", "bulk\tgzip\t1\tx", logCase{}, false},
	} {
		got, err := readLogCases(strings.NewReader(test.line))
		if (err == nil) != test.ok || test.ok && !slices.Equal(got, []logCase{test.want}) {
			t.Errorf("%s: got %v, %v", test.reason, got, err)
		}
	}
}

// Rates are judged by the lower bound and times by the upper: the median being right is
// not enough.
func TestLogReport(t *testing.T) {
	const mib = 1 << 20
	caughtUp := func(name, program string, took time.Duration, memory int64) sample {
		return sample{Case: name, Program: program, Wall: took, CPU: time.Second, Largest: memory * mib, Output: 7e6}
	}
	loaded := func(name, program string, transactions int64, median, p99 time.Duration) sample {
		return sample{Case: name, Program: program, Wall: time.Second, Largest: 10 * mib,
			Load: load{transactions, time.Second, median, p99, 5e6, 30 * time.Millisecond}}
	}
	const ms = time.Millisecond
	var samples []sample
	for i := range 7 {
		lucky := 100 * time.Duration(i) * ms
		samples = append(samples,
			caughtUp("bulk-none", "stock", 2*time.Second, 5), caughtUp("bulk-none", "ours", 1600*ms+lucky, 20),
			caughtUp("bulk-lz4", "stock", 2*time.Second, 5), caughtUp("bulk-lz4", "ours", time.Second, int64(44+i)),
			caughtUp("bulk-zstd", "stock", 2*time.Second, 5), caughtUp("bulk-zstd", "ours", 4*time.Second, 20),
			loaded("load-none", "stock", 1000, ms, ms), loaded("load-none", "ours", 990, ms, ms),
			loaded("commit-on", "stock", 1000, 2*ms, 10*ms), loaded("commit-on", "ours", 1000, 2*ms, 9*ms+lucky/100))
	}
	cases, err := readLogCases(strings.NewReader("bulk\tnone\t0.95\t100000000\nbulk\tlz4\t0.95\t100000000\nbulk\tzstd\t0\t100000000\n" +
		"bulk\tgzip\t0.95\t100000000\nload\tnone\t0.95\t0\ncommit\ton\t1.05\t0"))
	if err != nil {
		t.Fatal(err)
	}
	got := logReport(cases, samples, 48)
	for _, want := range []string{
		"| none | 7 (98.4 %) | 100 MB | 50 MB/s |  53 MB/s | 1.05 (0.91–1.25) | ≥ 0.95 |",
		"**none** receives at 1.05 of stock's rate, at least 0.91: the target of 0.95 is missed by 4 %",
		"**lz4** receives at 2.00 of stock's rate, at least 2.00: the target of 0.95 is met",
		"| 0.50 (0.50–0.50) |      – |",
		"**none** leaves its load 0.99 of the rate that stock's has, at least 0.99: the target of 0.95 is met",
		"**on, p50** takes 1.00 of stock's time, at most 1.00: the target of 1.05 is met",
		"**on, p99** takes 1.20 of stock's time, at most 1.50: the target of 1.05 is missed by 43 %",
		"**bulk, lz4** needs 50.0 MiB: the target of 48 MiB is missed by 4 %",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, none := range []string{"gzip", "**zstd**", "**bulk, none**"} {
		if strings.Contains(got, none) {
			t.Errorf("%q is in\n%s", none, got)
		}
	}
}

func TestJudgeAtLeast(t *testing.T) {
	for _, test := range []struct {
		reason        string
		ratio, target float64
		want          string
	}{
		{"above", 1.2, 1, "the target of 1.00 is met"},
		{"on it, as printed", 0.996, 1, "the target of 1.00 is met"},
		{"below", 0.9, 1, "the target of 1.00 is missed by 10 %"},
	} {
		if got := judgeAtLeast(test.ratio, test.target); got != test.want {
			t.Errorf("%s: got %s", test.reason, got)
		}
	}
}
