package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"basin/internal/client"
	"basin/internal/getopt"
	"basin/internal/pgdata"
	"basin/internal/shell"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// restoredOptions is what the command line of restored asks for.
type restoredOptions struct {
	connectionOptions
	Directory string
	Wait      time.Duration // for the target to be reached
	Timeout   time.Duration // for each answer
	JSON      bool
}

// restoredTable returns the options of restored, which write to o.
func restoredTable(o *restoredOptions) []getopt.Option {
	seconds := func(long string, field *time.Duration) getopt.Option {
		return getopt.Option{Long: long, Value: func(value string) error {
			n, err := parseInt(value, "--"+long, 1, math.MaxInt32/1000)
			*field = time.Duration(n) * time.Second
			return err
		}}
	}
	return append(o.connectionOptions.table(), seconds("wait", &o.Wait), seconds("timeout", &o.Timeout), flagOption("json", 0, &o.JSON))
}

// restoredReport is what restored --json prints. Its shape is documented in docs/repository.md.
type restoredReport struct {
	Directory       string       `json:"directory"`
	SystemID        string       `json:"systemID"`
	State           string       `json:"state"` // not started, recovering, paused, promoted, standby, stopped
	Target          string       `json:"target"`
	Reached         bool         `json:"reached"`
	Why             string       `json:"why"` // it was reached, or not
	Timeline        wal.Timeline `json:"timeline"`
	LSN             *wal.LSN     `json:"lsn"`             // up to which the log was replayed; null if that is not known
	LastTransaction *time.Time   `json:"lastTransaction"` // null if that is not known

	// What the server tells at the target; null before.
	Prepared   []string `json:"preparedTransactions"` // null before recovery has ended, too
	Invalid    []string `json:"invalidIndexes"`
	Collations []string `json:"collations"` // that sort otherwise here
	Empty      []string `json:"emptyDatabases"`
	Unmet      string   `json:"commitsWaitFor,omitempty"` // synchronous_standby_names, of which no standby is there
	Hint       string   `json:"hint,omitempty"`

	isFinal bool // waiting changes nothing
}

// restored tells whether a restored cluster has come to its target.
func restored(ctx context.Context, c call) error {
	o := restoredOptions{Timeout: time.Minute}
	operands, err := c.parse(append(restoredTable(&o), c.logFormat()))
	switch {
	case err != nil:
		return err
	case len(operands) != 1:
		return c.usage("one data directory is to be named, which basin restore made")
	}
	o.Directory = operands[0]
	r, err := awaitRestored(ctx, c.report, o)
	if err != nil {
		return err
	}
	if o.JSON {
		err = printJSON(c, r)
	} else {
		_, err = c.stdout.Write(r.lines())
	}
	if err == nil && !r.Reached {
		err = usererr.Hinted(r.Hint, "the target was not reached: %s", r.Why)
	}
	return err
}

// restoredInterval is how often it is looked again.
const restoredInterval = 500 * time.Millisecond

// awaitRestored looks until the target is reached, cannot be any more, or the time is over.
func awaitRestored(ctx context.Context, report *report, o restoredOptions) (*restoredReport, error) {
	until := time.Now().Add(o.Wait)
	var password string
	for {
		r, err := lookRestored(ctx, report, o, &password)
		if err != nil || r.Reached || r.isFinal || !time.Now().Before(until) {
			return r, err
		}
		select {
		case <-time.After(restoredInterval):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// lookRestored looks once. password is that of the server, once it was asked for.
func lookRestored(ctx context.Context, report *report, o restoredOptions, password *string) (*restoredReport, error) {
	d, err := readRestored(o.Directory)
	if err != nil {
		return nil, err
	}
	t, ok := d.target()
	if !ok {
		return nil, usererr.Hinted("Was it made by basin restore? If its settings were reset since, nothing says how far recovery was to come.",
			"\"%s\" has no settings of a restore in postgresql.auto.conf", d.path)
	}
	r := &restoredReport{Directory: d.path, SystemID: strconv.FormatUint(d.systemID, 10), Target: t.String(), Timeline: d.control.Timeline}
	if d.running == nil {
		if o.isGiven() {
			report.info("no server runs in \"%s\", so none is asked", d.path)
		}
		r.stopped(d, t)
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	conn, err := newRestoredConn(report, o.connectionOptions, d.running, password)
	if err != nil {
		return nil, err
	}
	var s *restoredServer
	err = conn.ask(ctx, "", func(c *client.Conn) (err error) { s, err = d.readServer(ctx, c); return err })
	if isStarting(err) {
		r.State, r.Why = "recovering", "the server does not take connections yet"
		r.Hint = "Look again, or wait with --wait=SECONDS; the server's log tells how far it is."
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the server of \"%s\": %w", d.path, err)
	}
	if again, err := readRestored(o.Directory); err == nil { // recovery may have ended meanwhile
		d = again
	}
	if err := r.running(d, t, s); err != nil {
		return nil, err
	}
	if r.Reached {
		if err := conn.readContents(ctx, d, s); err != nil {
			return nil, err
		}
		r.Prepared, r.Invalid, r.Collations = s.prepared, append([]string{}, s.invalid...), append([]string{}, s.collations...)
		r.Empty, r.Unmet = append([]string{}, s.empty...), s.unmet
	}
	return r, nil
}

// position notes up to where the log was replayed.
func (r *restoredReport) position(at wal.LSN) {
	if at != 0 {
		r.LSN = &at
	}
}

// running judges a server that answers.
func (r *restoredReport) running(d *restoredDir, t restoredTarget, s *restoredServer) error {
	if !s.inRecovery {
		if err := d.follow(s.timeline); err != nil { // the control file learns of it with the next checkpoint
			return err
		}
		r.Timeline = s.timeline
		r.ended(d, t)
		if r.LastTransaction == nil {
			r.LastTransaction = timeIfAny(s.last)
		}
		return nil
	}
	r.position(s.lsn)
	r.LastTransaction = timeIfAny(s.last)
	if d.signal == "standby.signal" {
		r.State, r.Target, r.Reached, r.Why = "standby", "none: it is a standby", true, "it is consistent and goes on with the log"
		return nil
	}
	switch {
	case len(s.lacking) > 0 && s.paused:
		r.State, r.Why = "paused", "recovery pauses, since the primary had more: "+s.lacking[0]
		r.Hint = "Set it to at least that, and start the server again."
		r.isFinal = true
	case s.paused:
		r.paused(d.stopAt(t, s.lsn))
	default:
		r.State, r.Why = "recovering", fmt.Sprintf("it is still recovering, and is at %v", s.lsn)
		r.Hint = "Look again, or wait with --wait=SECONDS."
	}
	return nil
}

// paused judges a server whose recovery pauses.
func (r *restoredReport) paused(at stop) {
	r.State, r.isFinal = "paused", true
	switch at {
	case stopAtTarget:
		r.Reached, r.Why = true, "recovery pauses at its target"
	case stopElsewhere:
		r.Why = "recovery was paused by somebody before its target"
		r.Hint = "SELECT pg_wal_replay_resume(); has it go on."
	case stopUnknown:
		r.Why = "recovery pauses, and whether that is at its target is not known: pg_wal does not have the log around it"
		r.Hint = "If the last that the server's log says of recovery is \"recovery stopping\", it is."
	}
}

// ended judges a cluster whose recovery has ended.
func (r *restoredReport) ended(d *restoredDir, t restoredTarget) {
	r.State, r.isFinal = "promoted", true
	end, ok := d.end(t)
	if !ok {
		r.Why = fmt.Sprintf("the cluster is on timeline %d, and no history says that recovery ended on timeline %d", d.control.Timeline, t.timeline)
		r.Hint = "It was perhaps started without its recovery.signal, and has what the backup has at most. Restore again."
		return
	}
	r.position(end.at)
	r.LastTransaction = timeIfAny(d.lastCommitBefore(end.at))
	switch {
	case t.kind == "":
		r.Reached, r.Why = true, "recovery came to the end of the log"
	case end.reason == noTarget, t.kind == "lsn" && !t.covers(end.at):
		r.Why = fmt.Sprintf("recovery ended at %v, before its target, and the cluster was opened", end.at)
		r.Hint = "Log was missing. Rows that were committed before the target are missing, too: restore again."
	default:
		r.Reached, r.Why = true, "recovery ended "+end.String()
	}
}

// stopped judges a cluster whose server does not run.
func (r *restoredReport) stopped(d *restoredDir, t restoredTarget) {
	r.isFinal = true
	if d.signal == "" && d.isBegun {
		r.ended(d, t)
		r.State = "stopped"
		return
	}
	if !d.isBegun {
		r.State, r.Why = "not started", "no server was started there yet"
		r.Hint = "Start it: pg_ctl start -D " + shell.Quote(d.path)
		return
	}
	r.State = "stopped"
	r.position(d.control.MinRecovery)
	if d.control.State == pgdata.StateShutDownInRecovery && t.shutsDown && t.kind == "lsn" && d.signal == "recovery.signal" && t.covers(d.control.MinRecovery) {
		r.Reached, r.Why = true, "the server was shut down at the target"
		return
	}
	if d.control.State == pgdata.StateShutDownInRecovery && t.shutsDown {
		r.Why = fmt.Sprintf("the server was shut down in recovery, at %v or later; it is not known whether at its target", d.control.MinRecovery)
		r.Hint = "If the server's log says \"shutdown at recovery target\", it was."
		return
	}
	r.Why = fmt.Sprintf("the server does not run, and recovery has not ended: the cluster is %v, and has replayed the log up to %v at least", d.control.State, d.control.MinRecovery)
	r.Hint = "Start it: pg_ctl start -D " + shell.Quote(d.path) + ". If it has ended by itself, its log says why."
}

// lines tells people.
func (r *restoredReport) lines() []byte {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...), false))
	}
	yes := "NO"
	if r.Reached {
		yes = "yes"
	}
	line("target", "%s", r.Target)
	line("reached", "%s: %s", yes, r.Why)
	line("state", "%s, on timeline %d", r.State, r.Timeline)
	if r.LSN != nil {
		line("replayed up to", "%v", *r.LSN)
	}
	switch {
	case r.LastTransaction != nil:
		line("last transaction", "%s", stamp(*r.LastTransaction))
	case r.Reached:
		line("last transaction", "not known any more")
	}
	several := func(name, none string, texts []string, advice string) {
		if texts == nil {
			return
		}
		if len(texts) == 0 {
			line(name, "%s", none)
			return
		}
		for _, one := range texts {
			line(name, "%s", one)
		}
		line("", "%s", advice)
	}
	if r.Reached && r.Prepared == nil && r.Invalid != nil {
		line("prepared transaction", "not known before recovery has ended")
	}
	several("prepared transaction", "none", r.Prepared, "COMMIT PREPARED or ROLLBACK PREPARED each, as their coordinator says: they hold locks")
	several("invalid index", "none", r.Invalid, "they were so at the source; DROP INDEX, or REINDEX INDEX CONCURRENTLY, once it can be written to")
	several("collation", "all as they were", r.Collations, "REINDEX what sorts by them, or rows are not found; then ALTER ... REFRESH (COLLATION) VERSION")
	for _, name := range r.Empty {
		line("empty database", "%s was left out of the restore; once recovery has ended, DROP DATABASE \"%s\";", name, strings.ReplaceAll(name, `"`, `""`))
	}
	if r.Unmet != "" {
		line("commits wait", "for synchronous_standby_names = '%s', of which too few are there", r.Unmet)
		line("", "until one is, ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();")
	}
	if r.Reached && r.State == "paused" {
		line("next", "look whether that is what was wanted; then SELECT pg_wal_replay_resume(); or restore to another target")
	}
	_ = table.Flush() // to memory
	return text.Bytes()
}
