package accept

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/pgtest"
	"basin/internal/usererr"

	"github.com/jackc/pgx/v5/pgconn"
)

// clientRules let each user of the tests in in its own way.
const clientRules = `
hostssl replication,d certain 127.0.0.1/32 cert
hostssl replication,d both    127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostssl replication,d secure  127.0.0.1/32 scram-sha-256
host    replication,d banned  127.0.0.1/32 reject
host    replication,d trusted 127.0.0.1/32 trust
host    replication   alice,unknown,hashed,refused,broken 127.0.0.1/32 scram-sha-256
host    d             alice   127.0.0.1/32 scram-sha-256
`

// newReception opens one with TLS, and returns a folder with the certificates
// of clients and of the authority.
func newReception(t *testing.T, change func(*reception)) (r *reception, dir string) {
	t.Helper()
	dir = pgtest.TempDir(t)
	a := newAuthority(t)
	writePEM(t, filepath.Join(dir, "root.crt"), "CERTIFICATE", a.certificate.Raw)
	for _, name := range []string{"certain", "both", "alice"} {
		save(t, dir, name, a.issue(t, name))
	}
	save(t, dir, "forged", newAuthority(t).issue(t, "certain"))
	pgtest.Own(t, dir)
	config := &tls.Config{Certificates: []tls.Certificate{a.issue(t, "localhost")}, ClientCAs: a.pool()}
	lookup := passwords(t, map[string]string{"alice": "secret", "both": "secret", "secure": "secret", "refused": "secret"})
	r = &reception{options: Options{
		TLS:   func() *tls.Config { return config },
		Rules: rulesOf(t, clientRules),
		Verifier: func(ctx context.Context, user string) (string, bool, error) {
			switch user {
			case "hashed":
				return "md5c11a4dcb1cd0b7d2b0b6e4eb3b0b7b34", true, nil
			case "broken":
				return "", false, errors.New("the disk is gone")
			}
			return lookup(ctx, user)
		},
		Secret:  []byte(testSecret),
		Timeout: time.Minute,
		Admit: func(ctx context.Context, s *Session) ([]Parameter, error) {
			if s.User == "refused" {
				return nil, &usererr.Error{Err: refuse("42501", "permission denied to start WAL sender"), Detail: "not sent"}
			}
			return settings(ctx, s)
		},
	}}
	if change != nil {
		change(r)
	}
	r.open(t)
	return r, dir
}

// clientCases are what libpq and package connect have to meet alike.
var clientCases = []struct {
	reason, in string
	since      int    // major of libpq
	want       string // what the session is; empty for an error
	err        string // part of it, at the client
	log        string // part of it, at the server
}{
	{"password", "user=alice sslmode=disable", 0, "alice@ 1 scram-sha-256 t tls=false cn= 3.0 key=4", "", ""},
	{"password to a database", "user=alice sslmode=disable replication=database", 0, "alice@d 2 scram-sha-256 t tls=false cn= 3.0 key=4", "", ""},
	{"TLS", "user=alice sslmode=require", 0, "alice@ 1 scram-sha-256 t tls=true cn= 3.0 key=4", "", ""},
	{"TLS, verified", "user=secure sslmode=verify-full", 0, "secure@ 1 scram-sha-256 t tls=true cn= 3.0 key=4", "", ""},
	{"bound", "user=secure sslmode=verify-full channel_binding=require", 0, "secure@ 1 scram-sha-256 t tls=true cn= 3.0 key=4", "", ""},
	{"not bound", "user=secure sslmode=verify-full channel_binding=disable", 0, "secure@ 1 scram-sha-256 t tls=true cn= 3.0 key=4", "", ""},
	{"direct", "user=secure sslmode=verify-full sslnegotiation=direct channel_binding=require", 17, "secure@ 1 scram-sha-256 t tls=true cn= 3.0 key=4", "", ""},
	{"TLS 1.2", "user=secure sslmode=require channel_binding=require ssl_max_protocol_version=TLSv1.2", 0, "secure@ 1 scram-sha-256 t tls=true cn= 3.0 key=4", "", ""},
	{"new protocol", "user=alice sslmode=disable max_protocol_version=3.2", 18, "alice@ 1 scram-sha-256 t tls=false cn= 3.2 key=32", "", ""},
	{"newest protocol", "user=alice sslmode=require max_protocol_version=latest", 18, "alice@ 1 scram-sha-256 t tls=true cn= 3.2 key=32", "", ""},
	{"trust", "user=trusted sslmode=disable password=wrong", 0, "trusted@ 1 trust t tls=false cn= 3.0 key=4", "", ""},
	{"certificate", "user=certain sslmode=require CERT=certain", 0, "certain@ 1 cert t tls=true cn=certain 3.0 key=4", "", ""},
	{"certificate and password", "user=both sslmode=require CERT=both", 0, "both@ 1 scram-sha-256 t tls=true cn=both 3.0 key=4", "", ""},
	{"a certificate that is not asked for", "user=alice sslmode=require CERT=certain", 0, "alice@ 1 scram-sha-256 t tls=true cn=certain 3.0 key=4", "", ""},

	{"wrong password", "user=alice sslmode=disable password=wrong", 0, "", `FATAL:  password authentication failed for user "alice"`, "does not know the password"},
	{"wrong password, bound", "user=secure sslmode=require channel_binding=require password=wrong", 0, "", `FATAL:  password authentication failed for user "secure"`, "does not know the password"},
	{"no such user", "user=unknown sslmode=disable", 0, "", `FATAL:  password authentication failed for user "unknown"`, "no such user"},
	{"no such user, bound", "user=unknown sslmode=require channel_binding=require", 0, "", `FATAL:  password authentication failed for user "unknown"`, "no such user"},
	{"a secret of another kind", "user=hashed sslmode=disable", 0, "", `FATAL:  password authentication failed for user "hashed"`, "valid SCRAM secret"},
	{"no lookup", "user=broken sslmode=disable", 0, "", `FATAL:  could not look up the password of user "broken"`, "the disk is gone"},
	{"no rule", "user=eve sslmode=disable", 0, "", `FATAL:  no pg_hba.conf entry for replication connection from host "127.0.0.1", user "eve", no encryption`, "eve"},
	{"no rule, with TLS", "user=eve sslmode=require", 0, "", `FATAL:  no pg_hba.conf entry for replication connection from host "127.0.0.1", user "eve", SSL encryption`, "eve"},
	{"no rule for a database", "user=alice sslmode=disable replication=database dbname=other", 0, "", `FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "alice", database "other", no encryption`, "alice"},
	{"TLS wanted", "user=secure sslmode=disable", 0, "", `FATAL:  no pg_hba.conf entry for replication connection from host "127.0.0.1", user "secure", no encryption`, "secure"},
	{"rejected", "user=banned sslmode=disable", 0, "", `FATAL:  pg_hba.conf rejects replication connection for host "127.0.0.1", user "banned", no encryption`, "rejects"},
	{"rejected from a database", "user=banned sslmode=require replication=database", 0, "", `FATAL:  pg_hba.conf rejects connection for host "127.0.0.1", user "banned", database "d", SSL encryption`, "rejects"},
	{"no certificate", "user=certain sslmode=require", 0, "", "FATAL:  connection requires a valid client certificate", "certificate"},
	{"another's certificate", "user=certain sslmode=require CERT=alice", 0, "", `FATAL:  certificate authentication failed for user "certain"`, `in the name of "alice"`},
	{"another's certificate and the password", "user=both sslmode=require CERT=alice", 0, "", `FATAL:  password authentication failed for user "both"`, `in the name of "alice"`},
	{"the certificate and a wrong password", "user=both sslmode=require CERT=both password=wrong", 0, "", `FATAL:  password authentication failed for user "both"`, "does not know the password"},
	{"a certificate of nobody that is known", "user=certain sslmode=require CERT=forged", 0, "", "", "could not accept SSL connection"},
	{"not admitted", "user=refused sslmode=disable", 0, "", "FATAL:  permission denied to start WAL sender", "permission denied"},
}

// connString completes the one of a case. What it says itself counts.
func connString(r *reception, dir, in string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "host=localhost hostaddr=127.0.0.1 port=%s dbname=d replication=true password=secret application_name=t connect_timeout=60 sslrootcert=%s ",
		r.port, filepath.Join(dir, "root.crt"))
	if !strings.Contains(in, "CERT=") {
		in += " CERT=none"
	}
	before, name, _ := strings.Cut(in, "CERT=")
	name, after, _ := strings.Cut(name, " ")
	fmt.Fprintf(&b, "%s sslcert=%s sslkey=%s %s", before, filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), after)
	return b.String()
}

// checkLog looks for what a case says of the server's error.
func checkLog(t *testing.T, r *reception, reason, want string) {
	t.Helper()
	if want != "" {
		waitForErrors(t, r, reason, want)
	} else if errs := r.takeErrors(); len(errs) > 0 {
		t.Errorf("%s: the server says %v", reason, errs)
	}
}

func TestPsql(t *testing.T) {
	t.Parallel()
	for _, major := range []int{15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			r, dir := newReception(t, nil)
			for _, c := range clientCases {
				if major < c.since {
					continue
				}
				psql := pgtest.Command(t, major, "psql", "-XAtw", "-c", "who", connString(r, dir, c.in))
				out, err := psql.CombinedOutput()
				switch {
				case c.want != "" && (err != nil || string(out) != c.want+"\n"):
					t.Errorf("%s: %v: %s, want %s", c.reason, err, out, c.want)
				case c.want == "" && (err == nil || !strings.Contains(string(out), c.err)):
					t.Errorf("%s: %v: %s, want %s", c.reason, err, out, c.err)
				}
				checkLog(t, r, c.reason, c.log)
			}
		})
	}
}

// What psql is not told of a refusal, pg_basebackup is not either; what it asks
// first has an answer that it cannot read and so prints.
func TestBackupPrograms(t *testing.T) {
	t.Parallel()
	r, dir := newReception(t, nil)
	for _, major := range []int{15, 18} {
		for _, program := range []string{"pg_basebackup", "pg_receivewal"} {
			for _, c := range []struct{ in, want string }{
				{"user=secure sslmode=verify-full channel_binding=require", fmt.Sprintf("secure@ 1 scram-sha-256 %s tls=true cn= 3.0 key=4", program)},
				{"user=alice sslmode=disable", fmt.Sprintf("alice@ 1 scram-sha-256 %s tls=false cn= 3.0 key=4", program)},
				{"user=alice sslmode=disable password=wrong", `FATAL:  password authentication failed for user "alice"`},
			} {
				in := strings.Replace(connString(r, dir, c.in), "application_name=t ", "", 1)
				args := []string{"-w", "-D", filepath.Join(dir, "out"), "-d", in}
				if program == "pg_receivewal" {
					args = append(args, "--no-loop", "--create-slot", "--slot", "s")
				}
				out, err := pgtest.Command(t, major, program, args...).CombinedOutput()
				if err == nil || !strings.Contains(string(out), c.want) {
					t.Errorf("%d, %s, %s: %v: %s", major, program, c.in, err, out)
				}
			}
		}
	}
}

// Our own client, beside libpq.
func TestConnect(t *testing.T) {
	t.Parallel()
	r, dir := newReception(t, nil)
	for _, c := range clientCases {
		params, err := conninfo.Request{ConnString: connString(r, dir, c.in), Program: "pg_basebackup"}.Params()
		if err != nil {
			t.Fatal(err)
		}
		// The programs for physical replication are given no other.
		if _, database, ok := strings.Cut(c.in, "replication=database"); ok {
			for keyword, value := range map[string]string{"replication": "database", "dbname": cmp.Or(strings.TrimPrefix(database, " dbname="), "d")} {
				if err := params.Set(keyword, value); err != nil {
					t.Fatal(err)
				}
			}
		}
		s, err := connect.Connect(t.Context(), connect.Options{Params: params, System: conninfo.System{User: "me"}})
		switch {
		case c.want != "" && err != nil:
			t.Errorf("%s: %v", c.reason, err)
		case c.want == "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %v, want %s", c.reason, err, c.err)
		}
		if err == nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		checkLog(t, r, c.reason, c.log)
	}
}

// The library that most programs in Go connect with.
func TestPgconn(t *testing.T) {
	t.Parallel()
	r, dir := newReception(t, nil)
	for _, c := range []struct{ in, err string }{
		{"user=alice sslmode=disable", ""},
		{"user=secure sslmode=verify-full channel_binding=require", ""},
		{"user=secure sslmode=verify-full channel_binding=require sslnegotiation=direct", ""},
		{"user=alice sslmode=disable max_protocol_version=3.2", ""},
		{"user=certain sslmode=require CERT=certain", ""},
		{"user=alice sslmode=disable password=wrong", "28P01"},
	} {
		in := connString(r, dir, c.in)
		if !strings.Contains(c.in, "CERT=") {
			in = in[:strings.Index(in, " sslcert=")]
		}
		conn, err := pgconn.Connect(t.Context(), strings.Replace(in, " hostaddr=127.0.0.1", "", 1))
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", c.in, err)
		}
		if err == nil {
			if err := conn.Close(t.Context()); err != nil {
				t.Errorf("%s: %v", c.in, err)
			}
		}
	}
}

// The channel is bound by the certificate that was shown, of several.
func TestCertificates(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	of := func(name string) tls.Certificate { return a.issue(t, name) }
	byName := func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c := of(hello.ServerName)
		return &c, nil
	}
	unsuitable := of("localhost")
	unsuitable.SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.PSSWithSHA512}
	for _, c := range []struct {
		reason string
		config *tls.Config
		log    string
	}{
		{"one", &tls.Config{Certificates: []tls.Certificate{of("localhost")}}, ""},
		{"two, the second of which is right", &tls.Config{Certificates: []tls.Certificate{unsuitable, of("localhost")}}, ""},
		{"by name", &tls.Config{Certificates: []tls.Certificate{of("other")}, GetCertificate: byName}, ""},
		{"by name alone", &tls.Config{GetCertificate: byName}, ""},
		{"none", &tls.Config{}, "the server has no certificate"},
	} {
		r, dir := newReception(t, func(r *reception) { r.options.TLS = func() *tls.Config { return c.config } })
		writePEM(t, filepath.Join(dir, "root.crt"), "CERTIFICATE", a.certificate.Raw)
		in := fmt.Sprintf("host=localhost port=%s dbname=d replication=true user=secure password=secret sslmode=verify-full channel_binding=require sslrootcert=%s",
			r.port, filepath.Join(dir, "root.crt"))
		conn, err := pgconn.Connect(t.Context(), in)
		if (err == nil) != (c.log == "") {
			t.Errorf("%s: %v", c.reason, err)
		}
		if err == nil {
			if err := conn.Close(t.Context()); err != nil {
				t.Errorf("%s: %v", c.reason, err)
			}
		}
		checkLog(t, r, c.reason, c.log)
	}
}

func TestWithoutTLS(t *testing.T) {
	t.Parallel()
	r, dir := newReception(t, func(r *reception) { r.options.TLS = nil })
	for _, c := range []struct {
		in, want string
		since    int
	}{
		{"user=alice sslmode=prefer", "alice@ 1 scram-sha-256 t tls=false cn= 3.0 key=4", 0},
		{"user=alice sslmode=prefer gssencmode=prefer", "alice@ 1 scram-sha-256 t tls=false cn= 3.0 key=4", 0},
		{"user=alice sslmode=require", "server does not support SSL, but SSL was required", 0},
		{"user=alice sslmode=require sslnegotiation=direct", "", 17}, // what it says is OpenSSL's
	} {
		for _, major := range []int{15, 17, 18} {
			if major < c.since {
				continue
			}
			out, err := pgtest.Command(t, major, "psql", "-XAtw", "-c", "who", connString(r, dir, c.in)).CombinedOutput()
			if !strings.Contains(string(out), c.want) || (err == nil) != strings.Contains(c.want, "@") {
				t.Errorf("%d, %s: %v: %s", major, c.in, err, out)
			}
		}
	}
}

// A server that knows no authorities cannot check certificates, and says so.
func TestWithoutAuthorities(t *testing.T) {
	t.Parallel()
	r, dir := newReception(t, func(r *reception) {
		config := r.options.TLS().Clone()
		config.ClientCAs, config.ClientAuth = nil, tls.RequestClientCert
		r.options.TLS = func() *tls.Config { return config }
	})
	out, err := pgtest.Command(t, 18, "psql", "-XAtw", "-c", "who", connString(r, dir, "user=certain sslmode=require CERT=certain")).CombinedOutput()
	if want := "FATAL:  client certificates can only be checked if a root certificate store is available"; err == nil || !strings.Contains(string(out), want) {
		t.Errorf("%v: %s", err, out)
	}
}

// Direct TLS without the name of the protocol, with another's, and as it should be.
func TestDirectTLS(t *testing.T) {
	t.Parallel()
	r, _ := newReception(t, nil)
	for _, c := range []struct {
		protocols []string
		log       string // empty gets as far as the session's first words
	}{
		{nil, "without ALPN"},
		{[]string{"h2", "http/1.1"}, "could not accept SSL connection"},
		{[]string{alpn}, ""},
		{[]string{"h2", alpn}, ""},
	} {
		func() {
			raw, err := net.Dial("tcp", "127.0.0.1:"+r.port)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: c.protocols})
			_, writeErr := conn.Write([]byte(startup(3<<16, "user", "eve", "replication", "1")))
			var answer [1]byte
			_, err = conn.Read(answer[:])
			if c.log == "" && (writeErr != nil || err != nil || answer[0] != 'E') {
				t.Errorf("%v: %q, %v, %v", c.protocols, answer, writeErr, err)
			}
			if c.log != "" && err == nil {
				t.Errorf("%v: answered with %q", c.protocols, answer)
			}
		}()
		want := c.log
		if want == "" {
			want = "no pg_hba.conf entry"
		}
		waitForErrors(t, r, fmt.Sprint(c.protocols), want)
	}
}

// waitForErrors waits for the server to be done with one client.
func waitForErrors(t *testing.T, r *reception, reason, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if errs := r.takeErrors(); len(errs) > 0 {
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
				t.Errorf("%s: the server says %v, want %q", reason, errs, want)
			}
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: the server says nothing", reason)
		}
	}
}
