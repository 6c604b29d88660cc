package connect

import (
	"crypto/tls"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"basin/internal/pgtest"
)

// The majors that have TLS in all the ways there are.
var majors = []int{15, 17, 18}

// newSecuredServer starts a server that has TLS and lets the user "scram" in
// with the password "secret". Over TLS it asks for that.
func newSecuredServer(t *testing.T, major int) *pgtest.Server {
	t.Helper()
	s := pgtest.Start(t, pgtest.Config{
		Major: major, TLS: true,
		HBA:  []string{"hostssl all,replication scram 127.0.0.1/32 scram-sha-256"},
		Conf: map[string]string{"password_encryption": "scram-sha-256"},
	})
	s.Exec(t, "CREATE ROLE scram REPLICATION LOGIN PASSWORD 'secret'")
	return s
}

func TestServerTLS(t *testing.T) {
	for _, major := range majors {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			server := newSecuredServer(t, major)
			for _, c := range []struct {
				reason, in string
				since      int    // major; the older ones give the error
				err        string // part of it
			}{
				{"bound to the channel", "sslmode=verify-full channel_binding=require", 0, ""},
				{"nothing to bind to", "sslmode=disable channel_binding=require", 99, "channel binding required"},
				{"wrong password", "sslmode=verify-full password=wrong", 99, `FATAL:  password authentication failed for user "scram"`},
				{"method as demanded", "sslmode=verify-full require_auth=scram-sha-256", 0, ""},
				{"method as ruled out", "sslmode=verify-full require_auth=!scram-sha-256", 99, "authentication method requirement"},
				{"direct", "sslmode=verify-full sslnegotiation=direct channel_binding=require", 17, "SSL"},
				{"old protocol", "sslmode=require max_protocol_version=3.0", 0, ""},
				{"new protocol if the server has it", "sslmode=require max_protocol_version=latest", 0, ""},
				{"new protocol", "sslmode=require min_protocol_version=3.2 max_protocol_version=3.2", 18, "protocol version"},
			} {
				in := fmt.Sprintf("password=secret %s host=localhost hostaddr=127.0.0.1 port=%d user=scram sslrootcert=%s", c.in, server.Port, server.RootCert)
				s, err := Connect(t.Context(), options(t, in))
				if err != nil {
					if major >= c.since || !strings.Contains(err.Error(), c.err) {
						t.Errorf("%s: %v", c.reason, err)
					}
					continue
				}
				if major < c.since {
					t.Errorf("%s: connected", c.reason)
				}
				if s.Version/10000 != major {
					t.Errorf("%s: version %d", c.reason, s.Version)
				}
				if got := server.Query(t, fmt.Sprintf("SELECT ssl FROM pg_stat_ssl WHERE pid = %d", s.PID)); got != "t" {
					t.Errorf("%s: the server says of TLS %q", c.reason, got)
				}
				if secured, ok := s.Conn.(*tls.Conn); !ok || (secured.ConnectionState().NegotiatedProtocol == alpn) != (major >= 17) {
					t.Errorf("%s: %T", c.reason, s.Conn)
				}
				if err := s.Close(); err != nil {
					t.Errorf("%s: %v", c.reason, err)
				}
			}
		})
	}
}

// Protocol 3.2 is known by the secret to cancel with, which is no longer an integer.
func TestServerProtocol(t *testing.T) {
	for _, major := range majors {
		server := newSecuredServer(t, major)
		for _, c := range []struct {
			newest string
			want   int // bytes from 18 on
		}{
			{"3.0", 4}, {"3.2", 32}, {"latest", 32},
		} {
			o := options(t, fmt.Sprintf("hostaddr=127.0.0.1 port=%d user=postgres max_protocol_version=%s", server.Port, c.newest))
			params, err := o.Params.Complete(o.System)
			if err != nil {
				t.Fatal(err)
			}
			connector, err := newConnector(params, o)
			if err != nil {
				t.Fatal(err)
			}
			b, f := connector.open(t.Context(), target{connector.hosts[0], "127.0.0.1"}, tlsOnly, connector.startupParameters("true"))
			connector.close()
			if f != nil {
				t.Errorf("%d, %s: %v", major, c.newest, f)
				continue
			}
			want := c.want
			if major < 18 {
				want = 4
			}
			if got := len(b.secret); got != want {
				t.Errorf("%d, %s: a secret of %d bytes, want %d", major, c.newest, got, want)
			}
			if err := terminate(b.conn); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestServerPeer(t *testing.T) {
	server := pgtest.Start(t, pgtest.Config{})
	info, err := os.Stat(server.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := user.LookupId(strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Uid)))
	if err != nil {
		t.Fatal(err)
	}
	in := fmt.Sprintf("host=%s port=%d user=postgres requirepeer=", server.SocketDir, server.Port)
	if _, err := dial(t, options(t, in+owner.Username)); err != nil {
		t.Error(err)
	}
	if _, err := dial(t, options(t, in+"somebody-else")); err == nil || !strings.Contains(err.Error(), `but actual peer user name is "`+owner.Username+`"`) {
		t.Errorf("somebody else: %v", err)
	}
}

func TestServerTarget(t *testing.T) {
	for _, major := range append([]int{13}, majors...) { // 13 does not report what it is
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			primary := pgtest.Start(t, pgtest.Config{Major: major})
			standby := primary.Standby(t, nil)
			for _, c := range []struct {
				attrs string
				hosts []*pgtest.Server
				want  *pgtest.Server // nil for none
			}{
				{"any", []*pgtest.Server{standby, primary}, standby},
				{"primary", []*pgtest.Server{standby, primary}, primary},
				{"read-write", []*pgtest.Server{standby, primary}, primary},
				{"standby", []*pgtest.Server{primary, standby}, standby},
				{"read-only", []*pgtest.Server{primary, standby}, standby},
				{"prefer-standby", []*pgtest.Server{primary, standby}, standby},
				{"prefer-standby", []*pgtest.Server{primary}, primary},
				{"standby", []*pgtest.Server{primary}, nil},
				{"primary", []*pgtest.Server{standby}, nil},
			} {
				var addresses, ports []string
				for _, h := range c.hosts {
					addresses, ports = append(addresses, "127.0.0.1"), append(ports, strconv.Itoa(h.Port))
				}
				s, err := dial(t, options(t, fmt.Sprintf("hostaddr=%s port=%s user=postgres target_session_attrs=%s",
					strings.Join(addresses, ","), strings.Join(ports, ","), c.attrs)))
				switch {
				case c.want == nil && err == nil:
					t.Errorf("%s of %v: reached %v", c.attrs, ports, s.reached)
				case c.want != nil && err != nil:
					t.Errorf("%s of %v: %v", c.attrs, ports, err)
				case c.want != nil && s.reached.host.Port != c.want.Port:
					t.Errorf("%s of %v: reached %v, want port %d", c.attrs, ports, s.reached, c.want.Port)
				}
			}
		})
	}
}

// What we make of a password has to be what the server made of it.
func TestServerPasswords(t *testing.T) {
	for _, major := range append([]int{13}, majors...) {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			server := pgtest.Start(t, pgtest.Config{Major: major, HBA: []string{
				"host replication hashed 127.0.0.1/32 md5",
				"host replication clear 127.0.0.1/32 password",
				"host replication scram 127.0.0.1/32 scram-sha-256",
			}})
			login := func(user, password string, more string) error {
				o := options(t, fmt.Sprintf("host=127.0.0.1 port=%d user=%s %s", server.Port, user, more))
				if err := o.Params.Set("password", password); err != nil {
					t.Fatal(err)
				}
				_, err := dial(t, o)
				return err
			}
			for _, c := range []struct{ user, encryption, require string }{
				{"hashed", "md5", "md5"}, {"clear", "md5", "password"}, {"scram", "scram-sha-256", "scram-sha-256"},
			} {
				server.Exec(t, fmt.Sprintf("SET password_encryption = '%s'; CREATE ROLE %s REPLICATION LOGIN PASSWORD 'secret'", c.encryption, c.user))
				if err := login(c.user, "secret", "require_auth="+c.require); err != nil {
					t.Errorf("%s: %v", c.user, err)
				}
				if err := login(c.user, "wrong", ""); err == nil || !strings.Contains(err.Error(), "password authentication failed") {
					t.Errorf("%s with a wrong password: %v", c.user, err)
				}
			}
			for _, c := range passwords {
				if !utf8.ValidString(c.given) {
					continue // no SQL
				}
				server.Exec(t, "SET password_encryption = 'scram-sha-256'; ALTER ROLE scram PASSWORD '"+c.given+"'")
				for _, password := range []string{c.given, c.prepared} {
					if err := login("scram", password, ""); err != nil {
						t.Errorf("%s: %q: %v", c.reason, password, err)
					}
				}
			}
		})
	}
}
