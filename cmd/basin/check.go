package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"basin/internal/checkup"
	"basin/internal/getopt"
	"basin/internal/pgdata"
)

// checkOptions is what the command line of check asks for.
type checkOptions struct {
	repositoryOptions
	connectionOptions
	DataDirectory  string
	RepositoryOnly bool
	Timeout        time.Duration // for the server, and for each repository
	JSON           bool
}

// checkTable returns the options of check, which write to o.
func checkTable(o *checkOptions) []getopt.Option {
	table := append(o.repositoryOptions.options(), o.connectionOptions.table()...)
	return append(table,
		textOption("pgdata", 'D', &o.DataDirectory, nil),
		flagOption("repository-only", 0, &o.RepositoryOnly),
		getopt.Option{Long: "timeout", Value: func(value string) error {
			n, err := parseInt(value, "--timeout", 1, math.MaxInt32/1000)
			o.Timeout = time.Duration(n) * time.Second
			return err
		}},
		flagOption("json", 0, &o.JSON),
	)
}

// checkReport is what check --json prints.
type checkReport struct {
	Items    []checkup.Item `json:"items"`
	Errors   int            `json:"errors"`
	Warnings int            `json:"warnings"`
}

// checkRun is a check on its way.
type checkRun struct {
	report *report
	o      checkOptions
	items  []checkup.Item
	server *checkup.Server // nil if it cannot be asked
}

// check tells, item by item, whether all is as it must be for backups.
func check(ctx context.Context, c call) error {
	o := checkOptions{Timeout: time.Minute}
	operands, err := c.parse(append(checkTable(&o), c.logFormat()))
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return c.usage("too many command-line arguments (first is \"%s\")", operands[0])
	case o.RepositoryOnly && (o.isGiven() || o.DataDirectory != ""):
		return c.usage("--repository-only asks no server")
	}
	p, err := o.place()
	if err != nil {
		return err
	}
	if !o.isGiven() {
		o.ConnectionString = p.Connection
		if o.DataDirectory == "" {
			o.DataDirectory = p.DataDirectory
		}
	}
	r := &checkRun{report: c.report, o: o}
	if !o.RepositoryOnly {
		r.within(ctx, func(ctx context.Context) { r.checkServer(ctx, p) })
	}
	r.checkQueue(p)
	all, _, err := o.each()
	if err != nil {
		return err
	}
	for _, one := range all {
		p, err := one.place()
		if err != nil {
			return err
		}
		r.within(ctx, func(ctx context.Context) { r.checkRepository(ctx, p) })
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.print(c)
}

// within does something that ends in time.
func (r *checkRun) within(ctx context.Context, what func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	what(ctx)
}

// add notes an item.
func (r *checkRun) add(level checkup.Level, name, advice, format string, args ...any) {
	r.items = append(r.items, checkup.Item{Name: name, Level: level, Text: fmt.Sprintf(format, args...), Advice: advice})
}

// fail notes an error as an item, with its hint.
func (r *checkRun) fail(ctx context.Context, name string, err error) {
	text, advice := errorTexts(err)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		text, advice = fmt.Sprintf("there was no answer within %v: %s", r.o.Timeout, text), "Is the network in order? --timeout gives it more time."
	}
	r.add(checkup.Error, name, advice, "%s", text)
}

// checkServer asks the server.
func (r *checkRun) checkServer(ctx context.Context, p place) {
	server, err := askServer(ctx, r.report, r.o.connectionOptions)
	if err != nil {
		r.fail(ctx, "connection", err)
		if ctx.Err() == nil && r.checkReplication(ctx) {
			failed := &r.items[len(r.items)-2]
			failed.Level = checkup.Warning // a backup over the wire needs the other alone
			failed.Text = "settings cannot be looked at: " + failed.Text
		}
		return
	}
	r.server = &server
	r.add(checkup.OK, "connection", "", "role %s, system identifier %d, timeline %d", server.User, server.SystemID, server.Timeline)
	wanted := checkup.Wanted{Repository: p.names(), Cluster: p.Cluster, Unsaid: p.unsaidCluster, IsLocal: r.o.DataDirectory != ""}
	r.items = append(r.items, server.Items(wanted)...)
	if server.IsSuperuser || server.IsReplication {
		r.checkReplication(ctx)
	}
	if r.o.DataDirectory != "" {
		r.checkDirectory(ctx)
	}
}

// checkReplication sees that a connection for replication can be made, and says whether it can.
func (r *checkRun) checkReplication(ctx context.Context) bool {
	params, err := r.o.connectionRequest(r.report.name).Params()
	if err == nil {
		err = func() error {
			session, err := dial(ctx, r.report, params, r.o.Password)
			if err != nil {
				return err
			}
			conn := converse(r.report, session)
			defer conn.Close()
			_, err = conn.IdentifySystem(ctx)
			return err
		}()
	}
	if err != nil {
		text, advice := errorTexts(err)
		if strings.Contains(text, "pg_hba.conf") {
			user := params.Value("user")
			if r.server != nil {
				user = r.server.User
			}
			advice = fmt.Sprintf("Add to pg_hba.conf a line like the following, and reload:\n  host  replication  %s  ADDRESS/32  scram-sha-256", user)
		}
		r.add(checkup.Error, "replication", advice, "no connection for replication: %s", text)
		return false
	}
	r.add(checkup.OK, "replication", "", "a connection for replication can be made")
	return true
}

// checkDirectory sees that the data directory is that of the server, and can be read.
func (r *checkRun) checkDirectory(ctx context.Context) {
	const item = "data directory"
	path := filepath.Join(r.o.DataDirectory, filepath.FromSlash(pgdata.ControlPath))
	_, control, err := readControlFile(path)
	if err == nil && control.SystemID != r.server.SystemID {
		r.add(checkup.Error, item, "Name the directory that the server shows as data_directory.",
			"\"%s\" is of the cluster with system identifier %d, and the server's is %d", r.o.DataDirectory, control.SystemID, r.server.SystemID)
		return
	}
	if err == nil {
		_, err = os.ReadDir(filepath.Join(r.o.DataDirectory, "base"))
	}
	if err != nil {
		r.fail(ctx, item, err)
		return
	}
	r.add(checkup.OK, item, "", "\"%s\" is the server's, and can be read", r.o.DataDirectory)
}

// names returns what --repository may say for the repository.
func (p place) names() []string {
	names := []string{p.Location}
	if p.isFolder() {
		if absolute, err := filepath.Abs(p.Location); err == nil {
			names = []string{absolute}
			if real, err := filepath.EvalSymlinks(absolute); err == nil && real != absolute {
				names = append(names, real)
			}
		}
	}
	return append(names, p.Repositories...)
}

// signs are what stands before an item of each level.
var signs = map[checkup.Level]string{checkup.OK: "✓", checkup.Warning: "!", checkup.Error: "✗"}

// inOneLine takes a message of several lines, of which libpq indents some, for one line.
var inOneLine = strings.NewReplacer("\n\t", " ", "\n", " ", "\t", " ")

// print tells the items.
func (r *checkRun) print(c call) error {
	out := checkReport{Items: r.items}
	wide := 0
	for _, item := range r.items {
		wide = max(wide, len(item.Name))
		switch item.Level {
		case checkup.Error:
			out.Errors++
		case checkup.Warning:
			out.Warnings++
		}
	}
	if r.o.JSON {
		if err := printJSON(c, out); err != nil {
			return err
		}
	} else {
		var b bytes.Buffer
		for _, item := range r.items {
			fmt.Fprintf(&b, "%s %-*s  %s\n", signs[item.Level], wide, printable(item.Name, false), printable(inOneLine.Replace(item.Text), false))
			for line := range strings.Lines(item.Advice) {
				fmt.Fprintf(&b, "  %*s  → %s\n", wide, "", printable(strings.TrimRight(line, "\n"), false))
			}
		}
		switch {
		case out.Errors > 0:
			fmt.Fprintf(&b, "%s, %s\n", counted(out.Errors, "error"), counted(out.Warnings, "warning"))
		case out.Warnings > 0:
			fmt.Fprintf(&b, "no errors, %s\n", counted(out.Warnings, "warning"))
		default:
			b.WriteString("all is well\n")
		}
		if _, err := c.stdout.Write(b.Bytes()); err != nil {
			return err
		}
	}
	if out.Errors > 0 {
		return reported{fmt.Errorf("%s found", counted(out.Errors, "error"))}
	}
	return nil
}
