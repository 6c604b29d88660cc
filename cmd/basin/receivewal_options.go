package main

import (
	"time"

	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/seal"
	"basin/internal/wal"
)

// receiveWALOptions is what pg_receivewal's command line asks for. It comes from
// parseReceiveWAL, which has checked that its parts go together.
type receiveWALOptions struct {
	Directory   string
	Compression seal.Spec
	NoSync      bool
	Synchronous bool
	EndPosition wal.LSN // zero is none: go on until told to end
	NoLoop      bool
	Verbose     bool

	StatusInterval time.Duration // between messages to the server; zero is never

	Slot        string
	CreateSlot  bool
	DropSlot    bool
	IfNotExists bool

	connectionOptions
	monitoringOptions

	request seal.Request // of Compression
	given   map[string]bool
}

// receiveWALTable returns the options of pg_receivewal, which write to o.
//
// Source: long_options in src/bin/pg_basebackup/pg_receivewal.c, PostgreSQL 18.
// The order is kept because the complaint about an ambiguous option lists it.
func receiveWALTable(o *receiveWALOptions, c call) []getopt.Option {
	text := func(long string, short byte, field *string) getopt.Option {
		return textOption(long, short, field, o.given)
	}
	help := func() error { return c.usage("") } // but for a hint, silent: help is to come first
	return append([]getopt.Option{
		{Long: "help", Flag: help},
		{Long: "version", Flag: help},
		text("directory", 'D', &o.Directory),
		text("dbname", 'd', &o.ConnectionString),
		{Long: "endpos", Short: 'E', Value: func(value string) (err error) {
			o.EndPosition, err = parsePosition(value, "end")
			return err
		}},
		text("host", 'h', &o.Host),
		text("port", 'p', &o.Port),
		text("username", 'U', &o.User),
		flagOption("no-loop", 'n', &o.NoLoop),
		promptOption("no-password", 'w', &o.Password, promptNever),
		promptOption("password", 'W', &o.Password, promptAlways),
		secondsOption("status-interval", 's', &o.StatusInterval),
		text("slot", 'S', &o.Slot),
		flagOption("verbose", 'v', &o.Verbose),
		{Long: "compress", Short: 'Z', Value: func(value string) error {
			o.request = seal.ParseMethod(value)
			return nil
		}},
		flagOption("create-slot", 0, &o.CreateSlot),
		flagOption("drop-slot", 0, &o.DropSlot),
		flagOption("if-not-exists", 0, &o.IfNotExists),
		flagOption("synchronous", 0, &o.Synchronous),
		flagOption("no-sync", 0, &o.NoSync),
		c.logFormat(),
	}, o.monitoringOptions.table()...)
}

// parseReceiveWAL reads the command line and checks it, in the order in which
// pg_receivewal looks at it.
//
// Source: main in src/bin/pg_basebackup/pg_receivewal.c, PostgreSQL 18.
func parseReceiveWAL(c call) (receiveWALOptions, error) {
	o := receiveWALOptions{
		StatusInterval: 10 * time.Second,
		request:        seal.ParseMethod("none"),
		given:          make(map[string]bool),
	}
	operands, err := c.parse(receiveWALTable(&o, c))
	if err != nil {
		return o, err
	}
	switch {
	case len(operands) > 0:
		return o, c.usage("too many command-line arguments (first is \"%s\")", operands[0])
	case o.DropSlot && o.CreateSlot:
		return o, c.usage("cannot use --create-slot together with --drop-slot")
	case o.DropSlot && !o.given["slot"]:
		return o, c.usage("--drop-slot needs a slot to be specified using --slot")
	case o.CreateSlot && !o.given["slot"]:
		return o, c.usage("--create-slot needs a slot to be specified using --slot")
	case o.Synchronous && o.NoSync:
		return o, c.usage("cannot use --synchronous together with --no-sync")
	case !o.given["directory"] && !o.DropSlot && !o.CreateSlot:
		return o, c.usage("no target directory specified")
	case (o.MetricsListen != "" || o.StatusFile != "") && (o.DropSlot || o.CreateSlot):
		return o, c.usage("--metrics-listen and --status-file cannot be used together with --create-slot or --drop-slot")
	}
	if o.Compression, err = o.request.Spec(); err != nil {
		return o, err
	}
	o.Directory = localfs.Canonical(o.Directory)
	return o, nil
}
