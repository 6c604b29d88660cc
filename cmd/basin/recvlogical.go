package main

import (
	"context"
	"strings"
	"time"

	"basin/internal/getopt"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// recvLogical is pg_recvlogical.
func recvLogical(ctx context.Context, c call) error {
	o, err := parseRecvLogical(c)
	if err != nil {
		return err
	}
	return runRecvLogical(ctx, c.report, o)
}

// recvLogicalOptions is what pg_recvlogical's command line asks for. It comes from
// parseRecvLogical, which has checked that its parts go together.
type recvLogicalOptions struct {
	// What is done.
	CreateSlot  bool
	Start       bool
	DropSlot    bool
	IfNotExists bool // a slot that is there already is as good as one that was made

	// The slot.
	Slot     string
	Plugin   string // output plugin of a slot that is made
	TwoPhase bool
	Failover bool

	// What is received, and where it goes.
	Options         []protocol.PluginOption
	StartPosition   wal.LSN       // zero is where the slot was left
	EndPosition     wal.LSN       // zero is no end
	File            string        // a dash is the standard output
	SyncInterval    time.Duration // between syncs of the file; zero is never
	StatusInterval  time.Duration // between messages to the server; zero is never
	ReceiverTimeout time.Duration // how long a server may be silent; zero is for ever
	NoLoop          bool          // the first loss of the connection is the end
	Verbose         bool

	// Connection. Empty texts leave it to the environment and the defaults.
	Database string // or a connection string
	Host     string
	Port     string
	User     string
	Password passwordPrompt

	given map[string]bool // options whose value can be given and yet be empty, by long name
}

// defaultReceiverTimeout is longer than what standbys have (wal_receiver_timeout):
// a server decodes a large transaction before it says the first word of it.
const defaultReceiverTimeout = 10 * time.Minute

// parseRecvLogical reads the command line and checks it.
func parseRecvLogical(c call) (recvLogicalOptions, error) {
	o := recvLogicalOptions{
		Plugin:         "test_decoding",
		SyncInterval:   10 * time.Second,
		StatusInterval: 10 * time.Second, ReceiverTimeout: defaultReceiverTimeout,
		given: make(map[string]bool),
	}
	operands, err := c.parse(recvLogicalTable(&o, c))
	if err != nil {
		return o, err
	}
	if len(operands) > 0 {
		return o, c.usage("too many command-line arguments (first is \"%s\")", operands[0])
	}
	return o, o.check(c)
}

// recvLogicalTable returns the options of pg_recvlogical, which write to o.
//
// Source: long_options in src/bin/pg_basebackup/pg_recvlogical.c, PostgreSQL 18.
// The order is kept because the complaint about an ambiguous option lists it.
func recvLogicalTable(o *recvLogicalOptions, c call) []getopt.Option {
	help := func() error { return c.usage("") } // but for a hint, silent: help is to come first
	timeout := secondsOption("receiver-timeout", 0, &o.ReceiverTimeout)
	timeout.Whole = true
	return []getopt.Option{
		textOption("file", 'f', &o.File, o.given),
		secondsOption("fsync-interval", 'F', &o.SyncInterval),
		flagOption("no-loop", 'n', &o.NoLoop),
		flagOption("enable-failover", 0, &o.Failover),
		flagOption("enable-two-phase", 't', &o.TwoPhase),
		flagOption("two-phase", 0, &o.TwoPhase),
		flagOption("verbose", 'v', &o.Verbose),
		{Long: "version", Flag: help},
		{Long: "help", Flag: help},
		textOption("dbname", 'd', &o.Database, o.given),
		textOption("host", 'h', &o.Host, nil),
		textOption("port", 'p', &o.Port, nil),
		textOption("username", 'U', &o.User, nil),
		promptOption("no-password", 'w', &o.Password, promptNever),
		promptOption("password", 'W', &o.Password, promptAlways),
		{Long: "startpos", Short: 'I', Value: func(value string) (err error) {
			o.StartPosition, err = parsePosition(value, "start")
			return err
		}},
		{Long: "endpos", Short: 'E', Value: func(value string) (err error) {
			o.EndPosition, err = parsePosition(value, "end")
			return err
		}},
		{Long: "option", Short: 'o', Value: o.addOption},
		textOption("plugin", 'P', &o.Plugin, nil),
		secondsOption("status-interval", 's', &o.StatusInterval),
		textOption("slot", 'S', &o.Slot, o.given),
		flagOption("create-slot", 0, &o.CreateSlot),
		flagOption("start", 0, &o.Start),
		flagOption("drop-slot", 0, &o.DropSlot),
		flagOption("if-not-exists", 0, &o.IfNotExists),

		// basin's own: whole names only, so that no abbreviation of the above becomes ambiguous.
		timeout,
		c.logFormat(),
	}
}

func (o *recvLogicalOptions) addOption(given string) error {
	option := protocol.PluginOption{Name: given}
	if name, value, ok := strings.Cut(given, "="); ok {
		option = protocol.PluginOption{Name: name, Value: &value}
	}
	o.Options = append(o.Options, option)
	return nil
}

// check finds the options that do not go together, in the order in which
// pg_recvlogical looks for them.
//
// Source: main in src/bin/pg_basebackup/pg_recvlogical.c, PostgreSQL 18.
func (o *recvLogicalOptions) check(c call) error {
	switch {
	case !o.given["slot"]:
		return c.usage("no slot specified")
	case o.Start && !o.given["file"]:
		return c.usage("no target file specified")
	case !o.DropSlot && !o.given["dbname"]:
		return c.usage("no database specified")
	case !o.DropSlot && !o.CreateSlot && !o.Start:
		return c.usage("at least one action needs to be specified")
	case o.DropSlot && (o.CreateSlot || o.Start):
		return c.usage("cannot use --create-slot or --start together with --drop-slot")
	case o.StartPosition != 0 && (o.CreateSlot || o.DropSlot):
		return c.usage("cannot use --create-slot or --drop-slot together with --startpos")
	case o.EndPosition != 0 && !o.Start:
		return c.usage("--endpos may only be specified with --start")
	case o.TwoPhase && !o.CreateSlot:
		return c.usage("--enable-two-phase may only be specified with --create-slot")
	case o.Failover && !o.CreateSlot:
		return c.usage("--enable-failover may only be specified with --create-slot")
	}
	return nil
}
