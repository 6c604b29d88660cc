package connect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"basin/internal/conninfo"
	"basin/internal/usererr"
)

// connector makes connections with one set of parameters.
type connector struct {
	options Options
	params  conninfo.Params // complete and checked
	hosts   []conninfo.Host // in the order to try
	attrs   string          // target_session_attrs
	timeout time.Duration   // for each address; zero is none
	dialer  net.Dialer
	tls     *tlsSettings // nil with sslmode=disable or if all hosts are sockets
	shuffle bool
}

func newConnector(params conninfo.Params, o Options) (*connector, error) {
	c := &connector{
		options: o,
		params:  params,
		attrs:   params.Value("target_session_attrs"),
		shuffle: params.Value("load_balance_hosts") == "random",
	}
	var err error
	if c.hosts, err = params.Hosts(o.System); err != nil {
		return nil, err
	}
	if c.shuffle {
		rand.Shuffle(len(c.hosts), func(i, j int) { c.hosts[i], c.hosts[j] = c.hosts[j], c.hosts[i] })
	}
	seconds, isGiven, err := params.Int("connect_timeout")
	if err != nil {
		return nil, err
	}
	c.timeout = o.Timeout
	if isGiven {
		c.timeout = time.Duration(max(seconds, 0)) * time.Second
	}
	if c.dialer, err = newDialer(params); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *connector) close() {
	if c.tls != nil {
		c.tls.close()
	}
}

// target is one address of one host.
type target struct {
	host    conninfo.Host
	address string // IP address; empty for a socket
}

// network returns what net.Dial needs.
func (t target) network() (network, address string) {
	if t.host.IsSocket() {
		return "unix", t.host.Socket()
	}
	return "tcp", net.JoinHostPort(t.address, strconv.Itoa(t.host.Port))
}

// String names the target as libpq's errors do.
//
// Source: emitHostIdentityInfo in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (t target) String() string {
	switch {
	case t.host.IsSocket():
		return fmt.Sprintf("server on socket \"%s\"", t.host.Socket())
	case t.host.Address != "":
		return fmt.Sprintf("server at \"%s\", port %d", t.host.Address, t.host.Port)
	case t.host.Name != t.address:
		return fmt.Sprintf("server at \"%s\" (%s), port %d", t.host.Name, t.address, t.host.Port)
	}
	return fmt.Sprintf("server at \"%s\", port %d", t.host.Name, t.host.Port)
}

// verdict is what a failure means for the attempts that are left.
type verdict int

const (
	stop        verdict = iota // no other attempt would go better
	nextMethod                 // the same address, with or without TLS
	nextAddress                // another address of the host, then another host
	nextHost                   // another host
)

// failure is an attempt that failed.
type failure struct {
	target target
	then   verdict
	err    error
}

func (f *failure) Error() string {
	return fmt.Sprintf("connection to %s failed: %v", f.target, f.err)
}

func (f *failure) Unwrap() error { return f.err }

// connect tries all hosts. To prefer a standby means to insist on one first,
// and then to take what there is.
func (c *connector) connect(ctx context.Context) (*Session, error) {
	var failures []error
	attrs := []string{c.attrs}
	if c.attrs == "prefer-standby" {
		attrs = []string{"standby", "any"}
	}
	for _, c.attrs = range attrs {
		for _, h := range c.hosts {
			s, then, err := c.connectHost(ctx, h)
			if s != nil {
				return s, nil
			}
			failures = append(failures, err)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if then == stop {
				return nil, errors.Join(failures...)
			}
		}
	}
	return nil, errors.Join(failures...)
}

// connectHost tries the addresses of one host.
func (c *connector) connectHost(ctx context.Context, h conninfo.Host) (*Session, verdict, error) {
	addresses, err := c.resolve(ctx, h)
	if err != nil {
		return nil, nextHost, err
	}
	var failures []error
	for _, address := range addresses {
		s, then, err := c.connectAddress(ctx, target{h, address})
		if s != nil {
			return s, stop, nil
		}
		failures = append(failures, err)
		if then != nextAddress || ctx.Err() != nil {
			return nil, then, errors.Join(failures...)
		}
	}
	return nil, nextHost, errors.Join(failures...)
}

// resolve returns the IP addresses of a host, one empty address for a socket.
func (c *connector) resolve(ctx context.Context, h conninfo.Host) ([]string, error) {
	switch {
	case h.IsSocket():
		if path := h.Socket(); len(path) > maxSocketPath {
			//lint:ignore ST1005 libpq's words
			return nil, fmt.Errorf("Unix-domain socket path \"%s\" is too long (maximum %d bytes)", path, maxSocketPath)
		}
		return []string{""}, nil
	case h.Address != "":
		if _, err := netip.ParseAddr(h.Address); err != nil {
			return nil, fmt.Errorf("could not parse network address \"%s\"", h.Address)
		}
		return []string{h.Address}, nil
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, h.Name)
	if err != nil {
		return nil, fmt.Errorf("could not translate host name \"%s\" to address: %s", h.Name, resolverError(err))
	}
	if c.shuffle {
		rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	}
	return addresses, nil
}

// resolverError words an error of the resolver as getaddrinfo() does.
func resolverError(err error) string {
	var dns *net.DNSError
	switch {
	case !errors.As(err, &dns):
		return err.Error()
	case dns.IsNotFound:
		return "Name or service not known"
	case dns.IsTemporary || dns.IsTimeout:
		return "Temporary failure in name resolution"
	}
	return dns.Err
}

// maxSocketPath is the longest path of a Unix-domain socket, in bytes.
const maxSocketPath = 107 // sizeof(sockaddr_un.sun_path) - 1

// connectAddress tries one address, with TLS and without as sslmode allows.
// The connect timeout covers all of that.
//
// Source: select_next_encryption_method in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (c *connector) connectAddress(ctx context.Context, t target) (*Session, verdict, error) {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.timeout, errTimeout)
		defer cancel()
	}
	var failures []error
	for _, m := range c.methods(t) {
		s, f := c.attempt(ctx, t, m)
		if f == nil {
			return s, stop, nil
		}
		if ctx.Err() != nil {
			f.err, f.then = context.Cause(ctx), nextAddress
		}
		// The user does well to mend the first failure before the second.
		if hinted, ok := f.err.(*usererr.Error); ok && len(failures) > 0 {
			f.err = hinted.Err
		}
		failures = append(failures, f)
		if f.then != nextMethod {
			return nil, f.then, errors.Join(failures...)
		}
	}
	return nil, stop, errors.Join(failures...)
}

// errTimeout is libpq's text for it.
var errTimeout = usererr.Hinted("See whether the server is stopped or overloaded, and whether a firewall is in between. connect_timeout=SECONDS in the connection string gives it more time.",
	"timeout expired")

// method is a way to protect a connection.
type method int

const (
	plainText   method = iota
	tlsOnly            // a server without TLS is an error
	tlsIfServer        // a server without TLS is talked to in plain text
)

func (c *connector) methods(t target) []method {
	if t.host.IsSocket() {
		return []method{plainText}
	}
	switch c.params.Value("sslmode") {
	case "disable":
		return []method{plainText}
	case "allow":
		return []method{plainText, tlsOnly}
	case "prefer":
		return []method{tlsIfServer, plainText}
	}
	return []method{tlsOnly}
}

// attempt makes one connection and checks that it is of the wanted kind.
func (c *connector) attempt(ctx context.Context, t target, m method) (*Session, *failure) {
	b, f := c.open(ctx, t, m, c.startupParameters(c.params.Value("replication")))
	if f != nil {
		return nil, f
	}
	if err := c.checkTarget(ctx, b, t, m); err != nil {
		_ = terminate(b.conn) // the error is told; this one would add nothing
		return nil, &failure{t, nextHost, err}
	}
	return &Session{Conn: b.conn, PID: b.pid, Params: c.params, reached: t, settings: b.settings}, nil
}

// open dials, negotiates TLS and authenticates.
func (c *connector) open(ctx context.Context, t target, m method, startup []parameter) (*backend, *failure) {
	network, address := t.network()
	conn, err := c.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, &failure{t, nextAddress, dialError(t, err)}
	}
	if err := checkPeer(conn, c.params.Value("requirepeer")); err != nil {
		conn.Close()
		return nil, &failure{t, stop, err}
	}
	var certificate clientCertificate
	inClear := conn
	if m != plainText {
		secured, f := c.startTLS(ctx, conn, t, m, &certificate)
		if f != nil {
			conn.Close()
			return nil, f
		}
		conn = secured
	}
	b, f := c.authenticate(ctx, conn, t, startup)
	if f != nil {
		conn.Close()
		if m == tlsIfServer && conn == inClear && f.then == nextMethod {
			f.then = stop // plain text, the next method, was it already
		}
		return nil, f
	}
	if c.params.Value("sslcertmode") == "require" {
		if err := certificate.checkSent(); err != nil {
			_ = terminate(conn) // as above
			return nil, &failure{t, stop, err}
		}
	}
	return b, nil
}
