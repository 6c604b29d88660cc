package connect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"basin/internal/conninfo"
	"basin/internal/usererr"

	"go.uber.org/goleak"
)

// options reads a connection string.
func options(t *testing.T, text string) Options {
	t.Helper()
	p, err := conninfo.Request{ConnString: text, Program: "pg_basebackup"}.Params()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Params: p, System: conninfo.System{User: "me"}}
}

// noLeaks makes sure that what the test starts has ended when the test has,
// its servers included.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// dial connects and closes again.
func dial(t *testing.T, o Options) (*Session, error) {
	t.Helper()
	s, err := Connect(t.Context(), o)
	if err == nil {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	return s, err
}

func TestConnect(t *testing.T) {
	noLeaks(t)
	d := new(doorman)
	port := d.tcp(t)
	s, err := dial(t, options(t, "host=localhost hostaddr=127.0.0.1 options='-c geqo=off' keepalives_idle=5 port="+port))
	if err != nil {
		t.Fatal(err)
	}
	if s.PID != 4711 || s.Version != 180006 || s.ServerVersion != "18.6" || s.reached.address != "127.0.0.1" || s.reached.host.Name != "localhost" {
		t.Errorf("session is %+v", s)
	}
	got := d.startups[0]
	for k, want := range map[string]string{
		"user": "me", "database": "replication", "replication": "true", "application_name": "pg_basebackup", "options": "-c geqo=off", "tls": "",
	} {
		if got[k] != want {
			t.Errorf("startup has %s=%q, want %q", k, got[k], want)
		}
	}
	if len(got) != 6 {
		t.Errorf("startup has more than it should: %v", got)
	}
}

func TestConnectErrors(t *testing.T) {
	noLeaks(t)
	open, closed := new(doorman).tcp(t), closedPort(t)
	dir := t.TempDir()
	for _, c := range []struct {
		name, in string
		server   *doorman // nil is the one that lets everybody in
		want     string   // @ stands for the port
	}{
		{"nobody listens", "host=127.0.0.1 port=" + closed, nil,
			"connection to server at \"127.0.0.1\", port " + closed + " failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"},
		{"the address is told", "host=localhost hostaddr=127.0.0.1 port=" + closed, nil,
			"connection to server at \"127.0.0.1\", port " + closed + " failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"},
		{"no socket", "host=" + dir, nil,
			"connection to server on socket \"" + dir + "/.s.PGSQL.5432\" failed: No such file or directory\n\tIs the server running locally and accepting connections on that socket?"},
		{"the path is too long", "host=/" + strings.Repeat("x", 107), nil,
			"Unix-domain socket path \"/" + strings.Repeat("x", 107) + "/.s.PGSQL.5432\" is too long (maximum 107 bytes)"},
		{"no address", "hostaddr=localhost", nil, "could not parse network address \"localhost\""},
		{"every host is told of", "host=127.0.0.1 hostaddr=127.0.0.1,127.0.0.1 port=" + closed + "," + closed, nil, "could not match 1 host names to 2 hostaddr values"},
		{"two hosts", "hostaddr=127.0.0.1,127.0.0.1 port=" + closed, nil,
			strings.Repeat("\nconnection to server at \"127.0.0.1\", port "+closed+" failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?", 2)[1:]},
		{"the server's words", "host=127.0.0.1 sslmode=disable", &doorman{reject: fatal("28P01", "password authentication failed for user \"x\"")},
			"connection to server at \"127.0.0.1\", port @ failed: FATAL:  password authentication failed for user \"x\""},
		{"prefer tries once where there is no TLS", "host=127.0.0.1", &doorman{reject: fatal("28000", "no")},
			"connection to server at \"127.0.0.1\", port @ failed: FATAL:  no"},
		{"no password", "host=127.0.0.1", &doorman{password: "x"},
			"connection to server at \"127.0.0.1\", port @ failed: fe_sendauth: no password supplied"},
		{"TLS is wanted", "host=127.0.0.1 sslmode=require", new(doorman),
			"connection to server at \"127.0.0.1\", port @ failed: server does not support SSL, but SSL was required"},
		{"TLS answer is an error", "host=127.0.0.1", &doorman{tlsByte: 'E'},
			"connection to server at \"127.0.0.1\", port @ failed: server sent an error response during SSL exchange"},
		{"TLS answer is nonsense", "host=127.0.0.1", &doorman{tlsByte: '?'},
			"connection to server at \"127.0.0.1\", port @ failed: received invalid response to SSL negotiation: ?"},
		{"require_auth", "host=127.0.0.1 sslmode=disable require_auth=scram-sha-256", new(doorman),
			"connection to server at \"127.0.0.1\", port @ failed: authentication method requirement \"scram-sha-256\" failed: server did not complete authentication"},
		{"sslcertmode", "host=127.0.0.1 sslmode=disable sslcertmode=require", new(doorman),
			"connection to server at \"127.0.0.1\", port @ failed: server did not request an SSL certificate"},
		{"no integer_datetimes", "host=127.0.0.1", &doorman{settings: map[string]string{"integer_datetimes": ""}},
			"could not determine server setting for \"integer_datetimes\""},
		{"other integer_datetimes", "host=127.0.0.1", &doorman{settings: map[string]string{"integer_datetimes": "off"}},
			"\"integer_datetimes\" compile flag does not match server"},
		{"GSSAPI", "gssencmode=require", nil, "gssencmode value \"require\" invalid when GSSAPI support is not compiled in"},
		{"what cannot be done is named", "scram_client_key=x", nil, "connection option \"scram_client_key\" is not supported"},
		{"so is OAuth", "oauth_issuer=x", nil, "connection option \"oauth_issuer\" is not supported"},
	} {
		port := open
		if c.server != nil {
			port = c.server.tcp(t)
		}
		in := c.in
		if !strings.Contains(in, "port=") {
			if !strings.Contains(in, "/") {
				in += " port=" + port
			}
		}
		_, err := dial(t, options(t, in))
		if want := strings.ReplaceAll(c.want, "@", port); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", c.name, err, want)
		}
	}
}

// closedPort returns a port that nobody listens on.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func TestConnectNextHost(t *testing.T) {
	noLeaks(t)
	primary, standby := new(doorman), &doorman{settings: map[string]string{"in_hot_standby": "on"}}
	starting := &doorman{reject: fatal("57P03", "the database system is starting up")}
	wrong := &doorman{reject: fatal("28P01", "no")}
	ports := map[string]string{
		"primary": primary.tcp(t), "standby": standby.tcp(t), "starting": starting.tcp(t), "wrong": wrong.tcp(t), "closed": closedPort(t),
	}
	for _, c := range []struct {
		hosts, more string
		want        string // the host that is reached; empty for none
	}{
		{"primary standby", "", "primary"},
		{"closed standby", "", "standby"},
		{"starting primary", "", "primary"},
		{"wrong primary", "", ""}, // who knows no password here knows none there
		{"standby primary", "target_session_attrs=primary", "primary"},
		{"standby primary", "target_session_attrs=read-write", "primary"},
		{"primary standby", "target_session_attrs=standby", "standby"},
		{"primary standby", "target_session_attrs=read-only", "standby"},
		{"primary standby", "target_session_attrs=prefer-standby", "standby"},
		{"closed primary", "target_session_attrs=prefer-standby", "primary"},
		{"primary closed", "target_session_attrs=standby", ""},
		{"primary closed", "load_balance_hosts=random", "primary"},
	} {
		var addresses, list []string
		for name := range strings.FieldsSeq(c.hosts) {
			addresses = append(addresses, "127.0.0.1")
			list = append(list, ports[name])
		}
		s, err := dial(t, options(t, fmt.Sprintf("hostaddr=%s port=%s %s", strings.Join(addresses, ","), strings.Join(list, ","), c.more)))
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%s %s: reached port %d", c.hosts, c.more, s.reached.host.Port)
		case c.want != "" && err != nil:
			t.Errorf("%s %s: %v", c.hosts, c.more, err)
		case c.want != "" && strconv.Itoa(s.reached.host.Port) != ports[c.want]:
			t.Errorf("%s %s: reached port %d, want %s", c.hosts, c.more, s.reached.host.Port, ports[c.want])
		}
	}
}

// With hosts by chance a hundred further sessions would not all be with the
// server of the first one, unless they were told to.
func TestPinned(t *testing.T) {
	here, there := new(doorman), new(doorman)
	ports := here.tcp(t) + "," + there.tcp(t)
	o := options(t, "host=localhost,localhost hostaddr=127.0.0.1,127.0.0.1 load_balance_hosts=random port="+ports)
	s, err := dial(t, o)
	if err != nil {
		t.Fatal(err)
	}
	pinned := s.Pinned()
	if host, port := pinned.Value("host"), pinned.Value("port"); host != "localhost" || port != strconv.Itoa(s.reached.host.Port) {
		t.Errorf("pinned to %s, port %s, of %+v", host, port, s.reached)
	}
	for range 100 {
		further, err := dial(t, Options{Params: pinned, System: o.System})
		if err != nil {
			t.Fatal(err)
		}
		if further.reached.host.Port != s.reached.host.Port {
			t.Fatalf("reached %v, then %v", s.reached, further.reached)
		}
	}
	if text, _ := conninfo.RecoveryConf(s.Params, conninfo.Recovery{ServerVersion: s.Version}); !strings.Contains(text, "port=''"+ports+"''") {
		t.Errorf("a standby would be told %s, without all of the ports %s", text, ports)
	}
}

func TestPinnedToAddress(t *testing.T) {
	dir := new(doorman).unix(t)
	port := new(doorman).tcp(t)
	for _, c := range []struct{ reason, in, host, address string }{
		{"of a name", "host=localhost port=" + port, "localhost", "127.0.0.1"},
		{"given as one", "hostaddr=127.0.0.1 port=" + port, "", "127.0.0.1"},
		{"a socket has none", "host=" + dir, dir, ""},
		{"the host that did not answer is left out", "host=/none,localhost port=" + port, "localhost", "127.0.0.1"},
	} {
		o := options(t, c.in)
		s, err := dial(t, o)
		if err != nil {
			t.Errorf("%s: %v", c.reason, err)
			continue
		}
		pinned := s.Pinned()
		if host, address := pinned.Value("host"), pinned.Value("hostaddr"); host != c.host || address != c.address {
			t.Errorf("%s: pinned to host %q, address %q", c.reason, host, address)
		}
		if _, err := dial(t, Options{Params: pinned, System: o.System}); err != nil {
			t.Errorf("%s: the second time: %v", c.reason, err)
		}
	}
}

func TestTargetOfOldServer(t *testing.T) {
	noLeaks(t)
	for _, c := range []struct{ attrs, value, err string }{
		{"any", "", ""},
		{"standby", "t", ""},
		{"standby", "f", "server is not in hot standby mode"},
		{"primary", "f", ""},
		{"primary", "t", "server is in hot standby mode"},
		{"read-write", "off", ""},
		{"read-write", "on", "session is read-only"},
		{"read-only", "off", "session is not read-only"},
	} {
		d := &doorman{value: c.value, settings: map[string]string{"server_version": "13.20", "in_hot_standby": "", "default_transaction_read_only": ""}}
		_, err := dial(t, options(t, "host=127.0.0.1 sslmode=disable target_session_attrs="+c.attrs+" port="+d.tcp(t)))
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s, %s: error %v, want %q", c.attrs, c.value, err, c.err)
		}
		if c.attrs == "any" {
			continue
		}
		if d.startups[0]["replication"] != "true" || d.startups[1]["replication"] != "" || d.startups[1]["database"] != "postgres" {
			t.Errorf("%s: the server was asked on %v", c.attrs, d.startups)
		}
	}
}

func TestConnectPassword(t *testing.T) {
	d := &doorman{password: "secret"}
	port := d.tcp(t)
	passfile := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(passfile, []byte("127.0.0.1:*:replication:me:secret\nlocalhost:*:*:*:wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, in string
		force    bool
		answer   string
		asked    int
		err      string // part of it
	}{
		{"known", "host=127.0.0.1 password=secret", false, "", 0, ""},
		{"in the file", "host=127.0.0.1 passfile=" + passfile, false, "", 0, ""},
		{"in the file by host, not by address", "host=localhost hostaddr=127.0.0.1 passfile=" + passfile, false, "", 0, "password retrieved from file"},
		{"asked when wanted", "host=127.0.0.1", false, "secret", 1, ""},
		{"asked first", "host=127.0.0.1 password=wrong", true, "secret", 1, ""},
		{"asked once", "host=127.0.0.1", false, "", 1, "fe_sendauth: no password supplied"},
		{"a wrong answer is not asked again", "host=127.0.0.1 sslmode=disable", false, "wrong", 1, "28P01 by state"},
	} {
		o := options(t, c.in+" port="+port)
		o.ForcePrompt = c.force
		asked := 0
		o.Password = func(context.Context) (string, error) {
			asked++
			return c.answer, nil
		}
		s, err := dial(t, o)
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.err == "28P01 by state":
			if server := (*ServerError)(nil); !errors.As(err, &server) || server.Code != "28P01" {
				t.Errorf("%s: %v", c.name, err)
			}
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v, want %s", c.name, err, c.err)
		}
		if asked != c.asked {
			t.Errorf("%s: asked %d times, want %d", c.name, asked, c.asked)
		}
		if err != nil || c.asked == 0 {
			continue
		}
		if _, err := dial(t, Options{Params: s.Params, System: o.System}); err != nil {
			t.Errorf("%s: the second connection: %v", c.name, err)
		}
	}
}

func TestConnectSocket(t *testing.T) {
	dir := new(doorman).unix(t)
	if _, err := dial(t, options(t, "sslmode=verify-full sslrootcert=/none host="+dir)); err != nil {
		t.Errorf("over a socket there is no TLS to verify: %v", err)
	}
	_, err := dial(t, options(t, "requirepeer=nobody-of-that-name host="+dir))
	if err == nil || !strings.Contains(err.Error(), `requirepeer specifies "nobody-of-that-name", but actual peer user name is "`) || usererr.Hint(err) == "" {
		t.Errorf("another peer: %v", err)
	}
	o := options(t, "")
	o.System.SocketDir = dir
	if _, err := dial(t, o); err != nil {
		t.Errorf("the default directory: %v", err)
	}
}

func TestConnectIsAbandoned(t *testing.T) {
	noLeaks(t)
	d := &doorman{silent: make(chan struct{})}
	port := d.tcp(t)
	for _, in := range []string{"sslmode=disable", "sslmode=require", "sslmode=require sslnegotiation=direct"} {
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := Connect(ctx, options(t, "host=127.0.0.1 "+in+" port="+port))
			failed <- err
		}()
		<-d.silent
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", in, err)
		}
	}
	_, err := dial(t, options(t, "host=127.0.0.1 connect_timeout=1 port="+port))
	want := "connection to server at \"127.0.0.1\", port " + port + " failed: timeout expired"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if hint := usererr.Hint(err); !strings.Contains(hint, "connect_timeout") {
		t.Errorf("hint %q", hint)
	}
}

// TestTimeout is of how long an address is waited for, which the caller and the user may both say.
func TestTimeout(t *testing.T) {
	for _, test := range []struct {
		reason, text, environment string
		ours, want                time.Duration
	}{
		{"nobody says", "", "", 0, 0},
		{"the caller does", "", "", 7 * time.Second, 7 * time.Second},
		{"the user counts more", "connect_timeout=60", "", 7 * time.Second, time.Minute},
		{"also in the environment", "", "60", 7 * time.Second, time.Minute},
		{"for ever is wanted", "connect_timeout=0", "", 7 * time.Second, 0},
	} {
		o := options(t, "host=127.0.0.1 "+test.text)
		o.Timeout = test.ours
		o.System.Getenv = func(name string) string {
			if name == "PGCONNECT_TIMEOUT" {
				return test.environment
			}
			return ""
		}
		params, err := o.Params.Complete(o.System)
		if err != nil {
			t.Fatal(err)
		}
		c, err := newConnector(params, o)
		if err != nil {
			t.Fatal(err)
		}
		if c.close(); c.timeout != test.want {
			t.Errorf("%s: %v, want %v", test.reason, c.timeout, test.want)
		}
	}
}

func TestPGSERVICEOfTheProcess(t *testing.T) {
	port := new(doorman).tcp(t)
	t.Setenv("PGSERVICE", "none")
	t.Setenv("PGSSLMODE", "nonsense")
	if _, err := dial(t, options(t, "host=127.0.0.1 port="+port)); err != nil {
		t.Errorf("the environment is given, not taken: %v", err)
	}
}
