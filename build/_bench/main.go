// Command bench measures programs and compares what it measured, for bench.sh and
// bench-log.sh.
//
//	bench run -case C -program P [-output DIR] [-every T] COMMAND...   prints a sample
//	bench load [-log BYTES] [-behind US] LOG...                         prints what to append to one
//	bench report CASES < SAMPLES                                        prints tables of backups
//	bench million FOLDER                                                makes a backup of so many files
//	bench log -memory MIB CASES < SAMPLES                               prints tables of receivers
//	bench lag -primary CONNSTR -standby CONNSTR [-for T]                prints how far a standby is behind
//	bench delay -by T ADDRESS TO                                        has a server answer later
//	bench changed OLD NEW                                               counts pages that differ
//	bench plot CASES < SAMPLES                                          prints a picture of ratios
//	bench discard -d CONNSTR COMMAND...                                 is a client that drops all answers
//
// Of PostgreSQL it knows the log of pgbench and no more. It is a tool of the scripts beside
// it and not a part of basin, therefore the underscore in the name of its folder.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("run, load, million, report, log, lag, delay, changed, plot or discard?")
	}
	switch args[0] {
	case "run":
		return runCommand(ctx, args[1:])
	case "load":
		return runLoad(args[1:])
	case "million":
		return runMillion(args[1:])
	case "report":
		return runReport(args[1:])
	case "log":
		return runLogReport(args[1:])
	case "lag":
		return lag(ctx, args[1:])
	case "delay":
		return delay(ctx, args[1:])
	case "changed":
		return changed(args[1:])
	case "plot":
		return runPlot(args[1:])
	case "discard":
		return discard(ctx, args[1:])
	}
	return fmt.Errorf("%s: not known; run, load, million, report, log, lag, delay, changed, plot or discard", args[0])
}
