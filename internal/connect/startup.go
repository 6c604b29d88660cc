package connect

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"basin/internal/conninfo"
	"basin/internal/usererr"

	"github.com/jackc/pgx/v5/pgconn"
)

// startupParameters are those of the startup packet. An empty replication is
// an ordinary connection.
//
// Source: build_startup_packet in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func (c *connector) startupParameters(replication string) []parameter {
	var startup []parameter
	put := func(name, value string) {
		if value != "" {
			startup = append(startup, parameter{name, value})
		}
	}
	database := c.params.Value("dbname")
	if replication == "" && c.params.Value("replication") == "true" {
		database = "postgres" // "replication", the name then, is no database
	}
	put("user", c.params.Value("user"))
	put("database", database)
	put("replication", replication)
	put("options", c.params.Value("options"))
	put("application_name", cmp.Or(c.params.Value("application_name"), c.params.Value("fallback_application_name")))
	put("client_encoding", c.clientEncoding())
	for _, setting := range []struct{ variable, name string }{
		{"PGDATESTYLE", "datestyle"}, {"PGTZ", "timezone"}, {"PGGEQO", "geqo"},
	} {
		if v := c.getenv(setting.variable); !strings.EqualFold(v, "default") {
			put(setting.name, v)
		}
	}
	return startup
}

func (c *connector) getenv(name string) string {
	if c.options.System.Getenv == nil {
		return ""
	}
	return c.options.System.Getenv(name)
}

// clientEncoding resolves the value auto from the locale. All that matters of
// a locale here is whether it is UTF-8: no other text is written anywhere.
func (c *connector) clientEncoding() string {
	encoding := c.params.Value("client_encoding")
	if encoding != "auto" {
		return encoding
	}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := strings.ToLower(c.getenv(name)); locale != "" {
			if strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8") {
				return "UTF8"
			}
			break
		}
	}
	return "SQL_ASCII"
}

// authenticate makes the startup exchange on a connection that is already
// protected as it should be.
func (c *connector) authenticate(ctx context.Context, conn net.Conn, t target, startup []parameter) (*backend, *failure) {
	password, fromFile := c.password(t)
	l := &login{
		wire:           wire{conn: conn, notice: c.options.Notice},
		user:           c.params.Value("user"),
		password:       password,
		channelBinding: c.params.Value("channel_binding"),
		requireAuth:    requirement(c.params.Value("require_auth")),
		logical:        c.params.Value("replication") == "database",
	}
	l.oldest, l.newest = c.protocolVersions()
	if secured, ok := conn.(*tls.Conn); ok {
		l.certificate = secured.ConnectionState().PeerCertificates[0]
	}
	release := interruptible(ctx, conn)
	err := l.run(ctx, startup)
	if !release() {
		err = context.Cause(ctx) // too late, even if all went well
	}
	if err == nil {
		return &l.backend, nil
	}
	then, err := l.judge(err)
	if server := (*ServerError)(nil); fromFile != "" && l.asked && errors.As(err, &server) && server.Code == "28P01" {
		err = fmt.Errorf("%w\npassword retrieved from file \"%s\"", err, fromFile)
	}
	return nil, &failure{t, then, err}
}

// protocolVersions returns what to settle for, and what to ask for: 3.0 unless
// more is wanted.
//
// Source: pqConnectOptions2 in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (c *connector) protocolVersions() (oldest, newest protocolVersion) {
	version := func(keyword string, otherwise protocolVersion) protocolVersion {
		switch c.params.Value(keyword) {
		case "3.0":
			return protocol30
		case "3.2", "latest":
			return protocol32
		}
		return otherwise
	}
	oldest = version("min_protocol_version", protocol30)
	return oldest, version("max_protocol_version", oldest)
}

// password returns the password to log in with, and the file if it is from
// one. It can be a different one for every host.
func (c *connector) password(t target) (password, file string) {
	if password := c.params.Value("password"); password != "" {
		return password, ""
	}
	name := t.host.Name
	if name == "" {
		name = t.host.Address
	}
	file = c.params.Value("passfile")
	password, err := c.options.System.Password(file, conninfo.Login{
		Host:     name,
		Port:     strconv.Itoa(t.host.Port),
		Database: c.params.Value("dbname"),
		User:     c.params.Value("user"),
	})
	if err != nil && c.options.Warn != nil {
		c.options.Warn(err.Error())
	}
	return password, file
}

// judge finds what a failed startup was about, and what is to follow.
//
// Source: CONNECTION_AWAITING_RESPONSE in PQconnectPoll in
// src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (l *login) judge(err error) (verdict, error) {
	var server *pgconn.PgError
	switch {
	case errors.As(err, &server):
		told := serverError(server, l.logical)
		switch {
		case server.Code == "57P03": // cannot connect now
			return nextHost, told
		case l.accepted:
			return stop, told
		}
		return nextMethod, told
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		//lint:ignore ST1005 libpq's words
		return nextHost, errors.New("server closed the connection unexpectedly\n" +
			"\tThis probably means the server terminated abnormally\n\tbefore or while processing the request.")
	}
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "remote error": // the server's last word in TLS
		return stop, fmt.Errorf("SSL error: %w", op.Err)
	case op != nil:
		return nextHost, systemError(err)
	}
	return stop, err
}

// serverError adds to what the server said what the user can do about it.
// Connections for logical replication are to a database and come under its
// lines of pg_hba.conf.
func serverError(e *pgconn.PgError, logical bool) error {
	told := &ServerError{e}
	hint := ""
	switch {
	case e.Code == "28000" && strings.Contains(e.Message, "pg_hba.conf") && !logical:
		hint = "a replication connection needs a line in the server's pg_hba.conf whose database is the word replication; \"all\" does not cover it"
	case e.Code == "42501":
		hint = "give the user the right: ALTER ROLE ... REPLICATION"
	case e.Code == "53300" && strings.Contains(e.Message, "max_wal_senders"):
		hint = "raise max_wal_senders on the server"
		if !logical {
			hint += "; a base backup with -X stream takes two"
		}
	default:
		return told
	}
	return &usererr.Error{Err: told, Hint: hint}
}
