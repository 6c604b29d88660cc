package connect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"basin/internal/conninfo"
	"basin/internal/usererr"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// startupParameters are those of the startup packet beside user and database.
//
// Source: build_startup_packet in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func (c *connector) startupParameters() map[string]string {
	startup := make(map[string]string)
	put := func(name, value string) {
		if value != "" {
			startup[name] = value
		}
	}
	put("replication", c.params.Value("replication"))
	put("options", c.params.Value("options"))
	put("application_name", c.params.Value("fallback_application_name"))
	put("application_name", c.params.Value("application_name"))
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
func (c *connector) authenticate(ctx context.Context, conn net.Conn, t target, startup map[string]string) (*pgconn.PgConn, *failure) {
	config, err := bareConfig()
	if err != nil {
		return nil, &failure{t, stop, err}
	}
	password, fromFile := c.password(t)
	watch := &authWatch{hasPassword: password != ""}
	config.User = c.params.Value("user")
	config.Password = password
	config.Database = c.params.Value("dbname")
	if startup["replication"] == "" && c.params.Value("replication") == "true" {
		config.Database = "postgres" // a probe; "replication" is no database
	}
	config.RuntimeParams = startup
	config.ChannelBinding = c.params.Value("channel_binding")
	config.RequireAuth = c.params.Value("require_auth")
	config.MinProtocolVersion, config.MaxProtocolVersion = c.protocolVersions()
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		watch.r = r
		return pgproto3.NewFrontend(watch, w)
	}
	if c.options.Notice != nil {
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			c.options.Notice(NoticeText(n.Severity, n.Message, n.Detail, n.Hint))
		}
	}
	pg, err := pgconn.ConnectConfig(ctx, config)
	if err == nil {
		pg.CustomData()[readerKey] = watch.r
		return pg, nil
	}
	then, err := watch.judge(err)
	if server := (*ServerError)(nil); fromFile != "" && watch.asked && errors.As(err, &server) && server.Code == "28P01" {
		err = fmt.Errorf("%w\npassword retrieved from file \"%s\"", err, fromFile)
	}
	return nil, &failure{t, then, err}
}

func (c *connector) protocolVersions() (oldest, newest string) {
	oldest, newest = c.params.Value("min_protocol_version"), c.params.Value("max_protocol_version")
	if oldest == "" {
		oldest = "3.0"
	}
	if newest == "" {
		newest = oldest // 3.0 unless more is asked for, as libpq 18 has it
	}
	return oldest, newest
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

// bareConfig returns a configuration of pgconn in which nothing comes from the
// environment or from files: all that has been seen to, by libpq's rules.
//
// pgconn makes configurations only from connection strings, and reads the
// environment on the way. So every keyword that it would look at is spelled
// out. A service cannot be unset, only be answered: with an empty section.
func bareConfig() (*pgconn.Config, error) {
	bare := "host=/ port=5432 user=x password=x passfile='' connect_timeout=0 target_session_attrs=any" +
		" sslmode=disable sslnegotiation=postgres sslcertmode=allow sslcert='' sslkey='' sslpassword='' sslrootcert=''" +
		" channel_binding=prefer require_auth='' min_protocol_version=3.0 max_protocol_version=3.0"
	if os.Getenv("PGSERVICE") != "" {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		_, err = io.WriteString(w, "[bare]\n")
		if err := errors.Join(err, w.Close()); err != nil {
			return nil, err
		}
		bare += fmt.Sprintf(" service=bare servicefile=/dev/fd/%d", r.Fd())
	}
	return pgconn.ParseConfig(bare)
}

// errNoPassword is libpq's text for it, which is known to everybody.
//
// Source: PQnoPasswordSupplied in src/interfaces/libpq/libpq-fe.h, PostgreSQL 18.
var errNoPassword = errors.New("fe_sendauth: no password supplied")

// authWatch reads along while pgconn authenticates. Where the server wants a
// password and there is none it ends the attempt, so that the user can be
// asked; pgconn would send an empty one and leave a failed login in the
// server's log.
//
// It reads no further than the message at hand goes. So nothing that follows
// the startup is left in a buffer when the connection changes hands.
type authWatch struct {
	r           io.Reader
	hasPassword bool

	head     []byte // of the message at hand, until its kind is known
	body     uint32 // bytes of the message that are yet to come
	asked    bool   // the server wants a password
	accepted bool   // the server is content
	lost     bool   // this is not the protocol; pgconn will say so
	refused  error  // why the attempt was ended
}

// Read reads from the connection.
func (w *authWatch) Read(p []byte) (int, error) {
	if w.refused != nil {
		return 0, w.refused
	}
	if !w.lost {
		p = p[:min(uint32(len(p)), w.wanted())]
	}
	n, err := w.r.Read(p)
	w.look(p[:n])
	if w.refused != nil {
		return 0, w.refused
	}
	return n, err
}

// A message is a type byte, a length that counts itself, and a body. The body
// of an authentication request begins with a code.
const (
	headSize = 5 // bytes
	codeSize = 4 // bytes
)

// wanted returns how many bytes to read before anything can be decided. It is
// never zero.
func (w *authWatch) wanted() uint32 {
	switch n := len(w.head); {
	case w.body > 0:
		return w.body
	case n < headSize:
		return uint32(headSize - n)
	default:
		return uint32(headSize + codeSize - n)
	}
}

// look follows the messages in what was read.
func (w *authWatch) look(b []byte) {
	for len(b) > 0 && !w.lost && w.refused == nil {
		n := min(uint32(len(b)), w.wanted())
		piece := b[:n]
		b = b[n:]
		if w.body > 0 {
			w.body -= n
			continue
		}
		w.head = append(w.head, piece...)
		if len(w.head) < headSize {
			continue
		}
		length := binary.BigEndian.Uint32(w.head[1:])
		if length < 4 {
			w.lost = true
			return
		}
		w.body = length - 4
		if w.head[0] == 'R' && w.body >= codeSize {
			if len(w.head) < headSize+codeSize {
				w.body = 0 // the code comes before the rest
				continue
			}
			w.body -= codeSize
			w.request(binary.BigEndian.Uint32(w.head[headSize:]))
		}
		w.head = w.head[:0]
	}
}

// request looks at an authentication request.
//
// Source: AUTH_REQ_OK and the others in src/include/libpq/protocol.h, PostgreSQL 18.
func (w *authWatch) request(code uint32) {
	switch code {
	case 0: // ok
		w.accepted = true
	case 3, 5, 10: // password in the clear, MD5, SASL
		w.asked = true
		if !w.hasPassword {
			w.refused = errNoPassword
		}
	case 11, 12: // SASL goes on, SASL ends
	case 7, 8:
		w.refused = errors.New("GSSAPI authentication not supported")
	case 9:
		w.refused = errors.New("SSPI authentication not supported")
	default:
		w.refused = fmt.Errorf("authentication method %d not supported", code)
	}
}

// judge finds what a failed startup was about, and what is to follow.
//
// Source: CONNECTION_AWAITING_RESPONSE in PQconnectPoll in
// src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (w *authWatch) judge(err error) (verdict, error) {
	var server *pgconn.PgError
	switch {
	case w.refused != nil:
		return stop, w.refused
	case errors.As(err, &server):
		told := serverError(server)
		switch {
		case server.Code == "57P03": // cannot connect now
			return nextHost, told
		case w.accepted:
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
	// pgconn has messages that wrap no error with a verb that wants one.
	return stop, errors.New(strings.TrimSuffix(innermost(err).Error(), ": %!w(<nil>)"))
}

// innermost drops what pgconn says about where it was: the host is told in
// libpq's words, and its own configuration is nothing to the user.
func innermost(err error) error {
	for {
		var next error
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			next = e.Unwrap()
		case interface{ Unwrap() []error }:
			if all := e.Unwrap(); len(all) > 0 {
				next = all[len(all)-1]
			}
		}
		if next == nil {
			return err
		}
		err = next
	}
}

// serverError adds to what the server said what the user can do about it.
func serverError(e *pgconn.PgError) error {
	told := &ServerError{e}
	hint := ""
	switch {
	case e.Code == "28000" && strings.Contains(e.Message, "pg_hba.conf"):
		hint = "a replication connection needs a line in the server's pg_hba.conf whose database is the word replication; \"all\" does not cover it"
	case e.Code == "42501":
		hint = "give the user the right: ALTER ROLE ... REPLICATION"
	case e.Code == "53300" && strings.Contains(e.Message, "max_wal_senders"):
		hint = "raise max_wal_senders on the server; a base backup with -X stream takes two"
	default:
		return told
	}
	return &usererr.Error{Err: told, Hint: hint}
}
