package main

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"basin/internal/getopt"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// recoveryTarget is how far a restored cluster is to recover.
type recoveryTarget struct {
	kind      string // time, lsn, xid, name, immediate; empty is all that is there
	time      time.Time
	lsn       wal.LSN
	xid       uint64
	name      string
	exclusive bool
	timeline  wal.Timeline // zero is the newest
	action    string       // empty is that of PostgreSQL, pause
}

// options returns the options that say a target, which write to t.
func (t *recoveryTarget) options() []getopt.Option {
	target := func(name string, set func(value string) error) getopt.Option {
		return getopt.Option{Long: "target-" + name, Value: func(value string) error {
			if err := t.choose(name); err != nil {
				return err
			}
			return set(value)
		}}
	}
	return []getopt.Option{
		target("time", func(value string) (err error) {
			t.time, err = parseTargetTime(value)
			return err
		}),
		target("lsn", func(value string) (err error) {
			t.lsn, err = parsePosition(value, "target")
			return err
		}),
		target("xid", func(value string) (err error) {
			if t.xid, err = strconv.ParseUint(value, 10, 64); err != nil || t.xid == 0 {
				return usererr.Hinted("pg_current_xact_id() shows such numbers, and xmin of rows that no subtransaction has written.", "invalid transaction \"%s\": its number is expected", value)
			}
			return nil
		}),
		target("name", func(value string) error { t.name = value; return nil }),
		{Long: "target-immediate", Flag: func() error { return t.choose("immediate") }},
		flagOption("target-exclusive", 0, &t.exclusive),
		{Long: "target-timeline", Value: func(value string) error {
			n, err := strconv.ParseUint(value, 0, 32)
			if err != nil || n == 0 {
				return fmt.Errorf("invalid timeline \"%s\": the number of one is expected", value)
			}
			t.timeline = wal.Timeline(n)
			return nil
		}},
		{Long: "target-action", Value: func(value string) error {
			if value != "pause" && value != "promote" && value != "shutdown" {
				return fmt.Errorf("invalid target action \"%s\", must be \"pause\", \"promote\" or \"shutdown\"", value)
			}
			t.action = value
			return nil
		}},
	}
}

// choose says of which kind the target is.
func (t *recoveryTarget) choose(kind string) error {
	if t.kind != "" {
		return fmt.Errorf("--target-%s: a target is named already, --target-%s", kind, t.kind)
	}
	t.kind = kind
	return nil
}

// does returns what the server does at the target: pause, promote or shutdown.
func (t recoveryTarget) does() string {
	if t.kind == "" { // with nothing to stop at, recovery ends
		return "promote"
	}
	return cmp.Or(t.action, "pause")
}

// String tells the target.
func (t recoveryTarget) String() string {
	how := ""
	if t.exclusive {
		how = ", which is left out"
	}
	switch t.kind {
	case "time":
		return stamp(t.time) + " (" + t.time.Format("2006-01-02 15:04:05.999999-07:00") + ")" + how
	case "lsn":
		return t.lsn.String() + how
	case "xid":
		return "transaction " + strconv.FormatUint(t.xid, 10) + how
	case "name":
		return "restore point \"" + t.name + "\""
	case "immediate":
		return "as soon as the cluster is consistent"
	}
	return "the end of the log"
}

// stamp returns a time for messages, in UTC, to the microsecond as PostgreSQL has it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999 UTC") }
