// Package connect knows libpq's way to a server: which of several hosts, with
// or without TLS, and who one says one is. It yields a connection that is
// authenticated and idle, and what is known of its other end.
//
// It sends no command on that connection and knows none. One statement is its
// own: servers before 14 are asked what target_session_attrs wants to know, on
// an ordinary connection made for that. It reads the files that connection
// parameters name, such as certificates, and writes none but the log of
// secrets that sslkeylogfile asks for. It asks nobody for a password, and
// prints nothing: the caller's functions do.
package connect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"basin/internal/conninfo"
	"basin/internal/usererr"
)

// Options say which server to connect to, and as whom. The zero value connects
// to nothing: somebody has to name a user.
type Options struct {
	// Params are the connection parameters as they were given, or those of an
	// earlier Session. They need not be complete. Without the keyword
	// replication the connection is an ordinary one.
	Params conninfo.Params

	// System completes the parameters. Usually conninfo.ThisSystem.
	System conninfo.System

	// Password asks the user for a password. It is called when the server
	// wants one and none is known, once at most. Nil never asks.
	Password func(ctx context.Context) (string, error)

	// ForcePrompt asks before the first attempt, whatever the server wants.
	ForcePrompt bool

	// Timeout is how long each address is waited for if the parameters and the
	// environment do not say it. Zero is for ever, as libpq does.
	Timeout time.Duration

	// Warn takes a warning that ends nothing, such as one about a password
	// file that is left alone. Nil drops it.
	Warn func(text string)

	// Notice takes what the server says beside its answers until the session
	// begins, in the form of NoticeText. Nil drops it.
	Notice func(text string)
}

// DefaultTimeout is how long an address is waited for by a program that need not be like libpq's: whoever runs
// it every night does not see that it waits.
const DefaultTimeout = 30 * time.Second

// Session is a connection that is authenticated and idle, and what is known of
// it beyond that.
type Session struct {
	Conn net.Conn // a *tls.Conn with TLS; no byte of what the server says next was read

	ServerVersion string // as the server gives it: 18.6, 15.20 (Debian …)
	Version       int    // as server_version_num: 180006
	PID           uint32 // of the server's process

	// Params are complete, with the password if one was asked for. A further
	// connection made with them asks for none, but may reach another server;
	// see Pinned.
	Params conninfo.Params

	reached  target
	settings map[string]string // those that the server reports
}

// Pinned returns Params with the one server that was reached in place of all
// that were named: a further connection made with them goes to the same
// address, even if its name stands for several or the choice is by chance.
func (s *Session) Pinned() conninfo.Params {
	host := s.reached.host
	host.Address = s.reached.address
	return s.Params.WithHost(host)
}

// Close ends the session and closes the connection. Who has taken the
// connection over closes that instead.
func (s *Session) Close() error {
	return terminate(s.Conn)
}

// Connect makes one connection. It tries the hosts and their addresses in
// order, as libpq does, and its error tells for each why it was not taken.
// No statement is run on the connection.
//
// Source: GetConnection in src/bin/pg_basebackup/streamutil.c and
// PQconnectPoll in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func Connect(ctx context.Context, o Options) (*Session, error) {
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
func connectOnce(ctx context.Context, params conninfo.Params, o Options) (*Session, error) {
	c, err := newConnector(params, o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	s, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.checkServer(); err != nil {
		_ = s.Close() // the error is told; this one would add nothing
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
func (s *Session) checkServer() (err error) {
	switch v, ok := s.settings["integer_datetimes"]; {
	case !ok:
		return errors.New("could not determine server setting for \"integer_datetimes\"")
	case v != "on":
		return errors.New("\"integer_datetimes\" compile flag does not match server")
	}
	s.ServerVersion = s.settings["server_version"]
	s.Version, err = conninfo.ServerVersion(s.ServerVersion)
	return err
}
