package main

import (
	"strings"
	"testing"
	"time"
)

func TestReadTransactions(t *testing.T) {
	for _, test := range []struct {
		reason, log string
		want        int
		ok          bool
	}{
		{"two, as pgbench writes them", "0 1 2038 0 1700000000 5000\n1 1 900 0 1700000000 6000\n", 2, true},
		{"none", "", 0, true},
		{"one that failed has no time", "0 1 failed 0 1700000000 5000\n", 0, false},
		{"one that was skipped by a rate", "0 1 skipped 0 1700000000 5000 12\n", 0, false},
		{"cut short", "0 1 2038 0 17000", 0, false},
		{"time that ran backwards", "0 1 -5 0 1700000000 5000\n", 0, false},
	} {
		got, err := readTransactions(strings.NewReader(test.log))
		if (err == nil) != test.ok || len(got) != test.want {
			t.Errorf("%s: got %v, %v", test.reason, got, err)
		}
	}
}

func FuzzReadTransactions(f *testing.F) {
	f.Add("0 1 2038 0 1700000000 5000\n1 1 900 0 1700000000 6000\n")
	f.Add("0 1 skipped 0 1700000000 5000 12\n")
	f.Fuzz(func(t *testing.T, log string) {
		all, err := readTransactions(strings.NewReader(log))
		if lines := strings.Count(strings.TrimSuffix(log, "\n"), "\n") + 1; err == nil && len(all) > lines {
			t.Errorf("%d transactions in %d lines", len(all), lines)
		}
	})
}

func TestSummarize(t *testing.T) {
	const ms = time.Millisecond
	hundred := make([]transaction, 100) // of 1 to 100 ms, the later the shorter, one after the other
	for i := range hundred {
		hundred[i].took = time.Duration(100-i) * ms
		hundred[i].ended = hundred[i].took
		if i > 0 {
			hundred[i].ended += hundred[i-1].ended
		}
	}
	for _, test := range []struct {
		reason string
		all    []transaction
		want   load
	}{
		{"one", []transaction{{2 * ms, 10 * ms}}, load{Transactions: 1, Time: 2 * ms, Median: 2 * ms, P99: 2 * ms}},
		{"two clients side by side", []transaction{{3 * ms, 10 * ms}, {6 * ms, 11 * ms}}, load{Transactions: 2, Time: 6 * ms, Median: 3 * ms, P99: 6 * ms}},
		{"a hundred", hundred, load{Transactions: 100, Time: 5050 * ms, Median: 50 * ms, P99: 99 * ms}},
	} {
		got, err := summarize(test.all)
		if got != test.want || err != nil {
			t.Errorf("%s: got %v, %v, want %v", test.reason, got, err, test.want)
		}
	}
	if _, err := summarize(nil); err == nil {
		t.Error("no transactions, and no error")
	}
}
