package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// load is what pgbench did beside a program, and how the program kept up with it.
type load struct {
	Transactions int64
	Time         time.Duration // from the start of the first of them to the end of the last
	Median, P99  time.Duration // how long one took: of a hundred, 50 and 99 no longer
	Log          int64         // bytes of log written meanwhile
	Behind       time.Duration // from the end of the last until the program had all of the log
}

// rate is transactions per second.
func (l load) rate() float64 {
	if l.Time == 0 {
		return 0
	}
	return float64(l.Transactions) / l.Time.Seconds()
}

func (l load) String() string {
	return fmt.Sprintf("%d\t%d\t%d\t%d\t%d\t%d",
		l.Transactions, l.Time.Microseconds(), l.Median.Microseconds(), l.P99.Microseconds(), l.Log, l.Behind.Microseconds())
}

// parseLoad reads what String wrote, in fields.
func parseLoad(fields []string) (load, error) {
	if len(fields) != 6 {
		return load{}, errors.New("a load is six numbers")
	}
	n, err := parseNumbers(fields)
	if err != nil {
		return load{}, err
	}
	return load{n[0], microseconds(n[1]), microseconds(n[2]), microseconds(n[3]), n[4], microseconds(n[5])}, nil
}

// runLoad prints the load that pgbench's logs tell of.
func runLoad(args []string) error {
	var written, behind int64
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.Int64Var(&written, "log", 0, "bytes of log written by the load")
	flags.Int64Var(&behind, "behind", 0, "microseconds until the program had all of it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var all []transaction
	for _, path := range flags.Args() {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		some, err := readTransactions(file)
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, some...)
	}
	l, err := summarize(all)
	if err != nil {
		return err
	}
	l.Log, l.Behind = written, microseconds(behind)
	fmt.Println(l)
	return nil
}

// transaction is a line of pgbench's log.
type transaction struct {
	took  time.Duration
	ended time.Duration // since 1970
}

// readTransactions reads what pgbench -l writes: client, its how manieth transaction,
// microseconds it took, script, and seconds and microseconds of the time at its end.
//
// Source: Per-Transaction Logging in PostgreSQL 18's documentation of pgbench.
func readTransactions(r io.Reader) ([]transaction, error) {
	var all []transaction
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 6 {
			return nil, fmt.Errorf("%q is not a transaction", lines.Text())
		}
		n, err := parseNumbers(fields)
		if err != nil {
			return nil, fmt.Errorf("%q is not a transaction: %w", lines.Text(), err)
		}
		all = append(all, transaction{microseconds(n[2]), time.Duration(n[4])*time.Second + microseconds(n[5])})
	}
	return all, lines.Err()
}

// summarize says what transactions have in common.
func summarize(all []transaction) (load, error) {
	if len(all) == 0 {
		return load{}, errors.New("not one transaction")
	}
	first, last := all[0].ended-all[0].took, all[0].ended
	took := make([]time.Duration, len(all))
	for i, t := range all {
		first, last = min(first, t.ended-t.took), max(last, t.ended)
		took[i] = t.took
	}
	slices.Sort(took)
	return load{Transactions: int64(len(all)), Time: last - first,
		Median: percentile(took, 50), P99: percentile(took, 99)}, nil
}

// percentile returns the smallest of sorted numbers that p of a hundred do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[(len(sorted)*p+99)/100-1]
}
