package main

import (
	"math"
	"strings"
	"time"

	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/monitor"
	"basin/internal/server"
)

// serveOptions is what the command line of serve asks for. It comes from parseServe.
type serveOptions struct {
	DataDir       string
	Listen        string // HOST:PORT
	HBA           string // file; empty for the rules that are there without one
	Users         string // file; empty for the cluster's own
	TLSCert       string
	TLSKey        string
	ClientCA      string
	WALArchive    string
	TempDir       string // for what is too much for memory; empty is the system's
	Target        string // directory that backups may be stored below; empty for none
	MetricsListen string
	AddUser       string
	AllowTrust    bool

	MaxConnections, MaxBackups, CompressionWorkers int
	MaxRate                                        int // kB/s, of all backups together
	Timeout                                        time.Duration
	Verbose                                        bool

	connectionOptions
	given map[string]bool
}

// defaultListen is where serve listens if it is not told.
const defaultListen = "127.0.0.1:5442"

// serveTable returns the options of serve, which write to o.
func serveTable(o *serveOptions, c call) []getopt.Option {
	text := func(long string, short byte, field *string) getopt.Option {
		return textOption(long, short, field, o.given)
	}
	help := func() error { return c.usage("") }
	count := func(long string, field *int, least int) getopt.Option {
		return getopt.Option{Long: long, Value: func(value string) (err error) {
			*field, err = parseInt(value, "--"+long, least, math.MaxInt32)
			return err
		}}
	}
	return []getopt.Option{
		{Long: "help", Flag: help},
		{Long: "version", Flag: help},
		text("pgdata", 'D', &o.DataDir),
		text("dbname", 'd', &o.ConnectionString),
		text("host", 'h', &o.Host),
		text("port", 'p', &o.Port),
		text("username", 'U', &o.User),
		promptOption("no-password", 'w', &o.Password, promptNever),
		promptOption("password", 'W', &o.Password, promptAlways),
		{Long: "listen", Short: 'l', Value: func(value string) (err error) {
			o.Listen, err = monitor.ListenAddress(value)
			return err
		}},
		text("hba", 0, &o.HBA),
		text("users", 0, &o.Users),
		text("add-user", 0, &o.AddUser),
		flagOption("allow-remote-trust", 0, &o.AllowTrust),
		text("tls-cert", 0, &o.TLSCert),
		text("tls-key", 0, &o.TLSKey),
		text("tls-client-ca", 0, &o.ClientCA),
		text("wal-archive", 0, &o.WALArchive),
		text("target-directory", 0, &o.Target),
		text("temp-dir", 0, &o.TempDir),
		count("max-connections", &o.MaxConnections, 1),
		count("max-backups", &o.MaxBackups, 1),
		count("compression-workers", &o.CompressionWorkers, 1),
		{Long: "max-rate", Short: 'r', Value: func(value string) (err error) {
			o.MaxRate, err = parseMaxRate(value)
			return err
		}},
		secondsOption("timeout", 0, &o.Timeout),
		flagOption("verbose", 'v', &o.Verbose),
		c.logFormat(),
		{Long: "metrics-listen", Whole: true, Value: func(value string) (err error) {
			o.MetricsListen, err = monitor.ListenAddress(value)
			return err
		}},
	}
}

// parseServe reads the command line and checks that its parts go together.
func parseServe(c call) (serveOptions, error) {
	o := serveOptions{
		Listen: defaultListen, Timeout: server.DefaultTimeout, MaxConnections: server.DefaultMaxConnections,
		MaxBackups: server.DefaultMaxBackups, given: make(map[string]bool),
	}
	operands, err := c.parse(serveTable(&o, c))
	if err != nil {
		return o, err
	}
	switch {
	case len(operands) > 0:
		return o, c.usage("too many command-line arguments (first is \"%s\")", operands[0])
	case o.given["add-user"]:
		if o.AddUser == "" {
			return o, c.usage("--add-user needs a name")
		}
		if o.Users == "" {
			return o, c.usage("--add-user needs a file to be specified using --users")
		}
		return o, nil
	case o.DataDir == "":
		return o, c.usage("no data directory specified")
	case (o.TLSCert == "") != (o.TLSKey == ""):
		return o, c.usage("--tls-cert and --tls-key need each other")
	case o.ClientCA != "" && o.TLSCert == "":
		return o, c.usage("--tls-client-ca needs --tls-cert and --tls-key")
	}
	if name := o.ConnectionString; name != "" && !strings.ContainsAny(name, "=/") { // as of psql
		o.ConnectionString = "dbname='" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(name) + "'"
	}
	if o.Timeout == 0 {
		o.Timeout = -1 // of the server: none
	}
	for _, path := range []*string{&o.DataDir, &o.WALArchive, &o.Target} {
		if *path != "" {
			*path = localfs.Canonical(*path)
		}
	}
	return o, nil
}
