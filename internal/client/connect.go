package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"basin/internal/conninfo"
	"basin/internal/usererr"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/term"
)

// ConnectOptions say which server to connect to, and as whom.
type ConnectOptions struct {
	// Params are the connection parameters as they were given, or those of an
	// earlier Session. They need not be complete. Without the keyword
	// replication the connection is an ordinary one.
	Params conninfo.Params

	// System completes the parameters. Usually conninfo.ThisSystem().
	System conninfo.System

	// Password asks the user for a password. It is called when the server
	// wants one and none is known, once at most. Nil never asks.
	Password func(ctx context.Context) (string, error)

	// ForcePrompt asks before the first attempt, whatever the server wants.
	ForcePrompt bool

	// Warn takes a warning that ends nothing, such as one about a password
	// file that is left alone. Nil drops it.
	Warn func(text string)

	// Notice takes what the server says beside its answers, now and later, in
	// the form in which libpq prints it. Nil drops it.
	Notice func(text string)
}

// Session is a connection that is authenticated and idle, and what is known of
// it beyond that.
type Session struct {
	*Conn

	Parameters map[string]string    // what the server reported of its settings
	SecretKey  []byte               // to cancel with
	TLS        *tls.ConnectionState // nil without TLS

	Host    conninfo.Host // the one that was reached
	Address string        // its IP address; empty over a socket

	// Params are complete, with the password if one was asked for. A further
	// connection made with them asks for none.
	Params conninfo.Params
}

// Connect makes one connection. It tries the hosts and their addresses in
// order, as libpq does, and its error tells for each why it was not taken.
// No statement is run on the connection.
//
// Source: GetConnection in src/bin/pg_basebackup/streamutil.c and
// PQconnectPoll in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func Connect(ctx context.Context, o ConnectOptions) (*Session, error) {
	params, err := o.Params.Complete(o.System)
	if err != nil {
		return nil, err
	}
	if err := checkSupported(params); err != nil {
		return nil, err
	}
	asked := false
	ask := func() error {
		asked = true
		password, err := o.Password(ctx)
		if err != nil {
			return err
		}
		// The password file is not looked at, so a standby is not told of it.
		params = o.Params.Clone()
		if err := params.Set("password", password); err != nil {
			return err
		}
		params, err = params.Complete(o.System)
		return err
	}
	if o.ForcePrompt && o.Password != nil {
		if err := ask(); err != nil {
			return nil, err
		}
	}
	for {
		s, err := connectOnce(ctx, params, o)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, errNoPassword) || o.Password == nil || asked {
			return nil, err
		}
		if err := ask(); err != nil {
			return nil, err
		}
	}
}

// connectOnce tries every host with the parameters at hand.
func connectOnce(ctx context.Context, params conninfo.Params, o ConnectOptions) (*Session, error) {
	c, err := newConnector(params, o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	s, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkServer(s); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// checkSupported refuses values that libpq refuses, and those that ask for
// something that cannot be done here. To ignore one could mean a connection
// that is less safe than the user asked for.
func checkSupported(p conninfo.Params) error {
	if err := p.Check(); err != nil {
		return err
	}
	if p.Value("gssencmode") == "require" {
		return usererr.Hinted("use TLS: sslmode=require, verify-ca or verify-full",
			"gssencmode value \"require\" invalid when GSSAPI support is not compiled in")
	}
	for _, keyword := range []string{
		"scram_client_key", "scram_server_key", "oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope",
	} {
		if p.Value(keyword) != "" {
			return fmt.Errorf("connection option \"%s\" is not supported", keyword)
		}
	}
	return nil
}

// checkServer looks at what every replication program needs to know of the
// server before it goes on.
//
// Source: GetConnection in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func checkServer(s *Session) error {
	switch v, ok := s.Parameters["integer_datetimes"]; {
	case !ok:
		return errors.New("could not determine server setting for \"integer_datetimes\"")
	case v != "on":
		return errors.New("\"integer_datetimes\" compile flag does not match server")
	}
	var err error
	s.ServerVersion = s.Parameters["server_version"]
	s.Version, err = conninfo.ServerVersion(s.ServerVersion)
	return err
}

// session takes the connection out of pgconn's hands.
func (c *connector) session(pg *pgconn.PgConn, t target) (*Session, error) {
	h, err := pg.Hijack()
	if err != nil {
		return nil, err
	}
	s := &Session{
		Conn:       newConn(h.Conn),
		Parameters: maps.Clone(h.ParameterStatuses),
		SecretKey:  h.SecretKey,
		Host:       t.host,
		Address:    t.address,
		Params:     c.params,
	}
	s.PID = h.PID
	s.Notice = c.options.Notice
	if conn, ok := h.Conn.(*tls.Conn); ok {
		state := conn.ConnectionState()
		s.TLS = &state
	}
	return s, nil
}

// PromptPassword asks for a password on the terminal that the program was
// started from. Where there is none the password is a line of standard input,
// as scripts give it.
//
// Source: simple_prompt in src/common/sprompt.c, PostgreSQL 18.
func PromptPassword(ctx context.Context) (string, error) {
	in, out := os.Stdin, os.Stderr
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		defer tty.Close()
		in, out = tty, tty
	}
	if _, err := fmt.Fprint(out, "Password: "); err != nil {
		return "", err
	}
	defer fmt.Fprintln(out)
	if !term.IsTerminal(int(in.Fd())) {
		return readLine(in)
	}
	before, err := term.GetState(int(in.Fd()))
	if err != nil {
		return "", err
	}
	type answer struct {
		text []byte
		err  error
	}
	// A terminal cannot be read with a deadline. Should the user not answer
	// before ctx ends, the read is left behind and the terminal put right.
	answers := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(int(in.Fd()))
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		return string(a.text), a.err
	case <-ctx.Done():
		return "", errors.Join(context.Cause(ctx), term.Restore(int(in.Fd()), before))
	}
}

// readLine reads one line, byte by byte: what follows is not ours.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for {
		var b [1]byte
		switch _, err := io.ReadFull(r, b[:]); {
		case errors.Is(err, io.EOF), err == nil && b[0] == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case err != nil:
			return "", err
		}
		line = append(line, b[0])
	}
}
