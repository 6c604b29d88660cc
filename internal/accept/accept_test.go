package accept

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"basin/internal/hba"
	"basin/internal/usererr"

	"github.com/jackc/pgx/v5/pgconn"
)

// script is a connection of a client that says what it says, whatever it hears.
type script struct {
	net.Conn // nil: what is not here is not to be called
	said     io.Reader
	heard    bytes.Buffer
	address  net.Addr
	closed   bool
}

func (s *script) Read(p []byte) (int, error)        { return s.said.Read(p) }
func (s *script) Write(p []byte) (int, error)       { return s.heard.Write(p) }
func (s *script) SetDeadline(time.Time) error       { return nil }
func (s *script) SetReadDeadline(t time.Time) error { return nil }
func (s *script) RemoteAddr() net.Addr              { return s.address }
func (s *script) Close() error                      { s.closed = true; return nil }

func newScript(said io.Reader) *script {
	return &script{said: said, address: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}}
}

// packet is one without a kind.
func packet(code uint32, body string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return string(binary.BigEndian.AppendUint32(b, code)) + body
}

// startup is a startup packet with names and values.
func startup(version uint32, parameters ...string) string {
	return packet(version, strings.Join(append(parameters, ""), "\x00")+"\x00")
}

// message is one with a kind.
func message(kind byte, body string) string {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
	return string(head) + body
}

// fatal is the server's last word.
func fatal(code, text string, more ...string) string {
	return message('E', "SFATAL\x00VFATAL\x00C"+code+"\x00M"+text+"\x00"+strings.Join(append(more, ""), "\x00")+"\x00")
}

const (
	v30 = 3 << 16
	v32 = 3<<16 | 2
)

var (
	requestTLS = packet(codeTLS, "")
	requestGSS = packet(codeGSS, "")
	trusted    = startup(v30, "user", "trusted", "replication", "1")
	asks       = message('R', "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00")
	authOK     = message('R', "\x00\x00\x00\x00")
	ready      = "Z\x00\x00\x00\x05I"
)

// rawOptions let the user trusted in, and ask others for a password.
func rawOptions(t testing.TB) Options {
	return Options{
		Rules: rulesOf(t, "host all,replication trusted 127.0.0.1/32 trust\nhost all,replication all all scram-sha-256"),
		Admit: func(_ context.Context, s *Session) ([]Parameter, error) {
			s.PID, s.Key = 7, []byte("keys")
			return nil, nil
		},
		Secret:   []byte(testSecret),
		Verifier: passwords(t, map[string]string{"alice": "secret"}),
	}
}

func TestRaw(t *testing.T) {
	in := authOK + message('K', "\x00\x00\x00\x07keys") + ready
	protocol := func(version string) string {
		return fatal("0A000", "unsupported frontend protocol "+version+": server supports 3.0 to 3.2")
	}
	layout := fatal("08P01", "invalid startup packet layout: expected terminator as last byte")
	noUser := fatal("28000", "no PostgreSQL user name specified in startup packet")
	negotiate := func(version uint32, names ...string) string {
		body := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, version), uint32(len(names)))
		return message('v', string(body)+strings.Join(append(names, ""), "\x00"))
	}
	initial := func(mechanism string, length int32, data string) string {
		return message('p', mechanism+"\x00"+string(binary.BigEndian.AppendUint32(nil, uint32(length)))+data)
	}
	ask := startup(v30, "user", "alice", "replication", "1")
	for _, c := range []struct {
		reason, said, heard string
		session             string // empty for an error
		log                 string // part of it
	}{
		{"in", trusted, in, "trusted@ 1", ""},
		{"nothing", "", "", "", "EOF"},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", "", "", "invalid length of startup packet"},
		{"half a length", "\x00\x00", "", "", "incomplete startup packet"},
		{"length zero", "\x00\x00\x00\x00", "", "", "invalid length of startup packet"},
		{"no code", "\x00\x00\x00\x07\x00\x03\x00", "", "", "invalid length of startup packet"},
		{"a negative length", "\xff\xff\xff\xff\x00\x03\x00\x00", "", "", "invalid length of startup packet"},
		{"the longest", startup(v30, "user", "trusted", "replication", "1", "x", strings.Repeat("x", 10000-8-34)), in, "trusted@ 1", ""},
		{"longer", startup(v30, "user", "trusted", "replication", "1", "x", strings.Repeat("x", 10000)), "", "", "invalid length of startup packet"},
		{"half a packet", trusted[:20], "", "", "incomplete startup packet"},
		{"TLS that there is not", "\x16\x03\x01\x00\x05hello", "", "", "there is no TLS"},
		{"TLS asked for", requestTLS + trusted, "N" + in, "trusted@ 1", ""},
		{"TLS and GSSAPI asked for", requestTLS + requestGSS + trusted, "NN" + in, "trusted@ 1", ""},
		{"the other way round", requestGSS + requestTLS + trusted, "NN" + in, "trusted@ 1", ""},
		{"TLS twice", requestTLS + requestTLS + trusted, "N" + protocol("1234.5679"), "", "unsupported"},
		{"GSSAPI twice", requestGSS + requestGSS + trusted, "N" + protocol("1234.5680"), "", "unsupported"},
		{"TLS, GSSAPI, TLS", requestTLS + requestGSS + requestTLS, "NN" + protocol("1234.5679"), "", "unsupported"},
		{"TLS asked for, and gone", requestTLS, "N", "", "EOF"},
		{"TLS in the middle", requestTLS + "\x16\x03\x01\x00", "N", "", "invalid length"},
		{"protocol 2", startup(2<<16, "user", "trusted"), "EFATAL:  unsupported frontend protocol 2.0: server supports 3.0 to 3.2\n\x00", "", "unsupported"},
		{"protocol 4", startup(4<<16, "user", "trusted"), protocol("4.0"), "", "unsupported"},
		{"protocol 3.1, which never was", startup(3<<16|1, "user", "trusted", "replication", "1"), in, "trusted@ 1", ""},
		{"protocol 3.2", startup(v32, "user", "trusted", "replication", "1"), in, "trusted@ 1", ""},
		{"protocol 3.3", startup(3<<16|3, "user", "trusted", "replication", "1"), negotiate(v32) + in, "trusted@ 1", ""},
		{"protocol 3.9999, to see what happens", startup(3<<16|9999, "user", "trusted", "replication", "1"), negotiate(v32) + in, "trusted@ 1", ""},
		{"options of the protocol", startup(v30, "user", "trusted", "_pq_.a", "1", "replication", "1", "_pq_.b", ""), negotiate(v30, "_pq_.a", "_pq_.b") + in, "trusted@ 1", ""},
		{"no user", startup(v30, "replication", "1"), noUser, "", "no PostgreSQL user name"},
		{"an empty user", startup(v30, "user", "", "replication", "1"), noUser, "", "no PostgreSQL user name"},
		{"no parameters", packet(v30, "\x00"), noUser, "", "no PostgreSQL user name"},
		{"no terminator", packet(v30, ""), layout, "", "layout"},
		{"no value", packet(v30, "user\x00\x00"), layout, "", "layout"},
		{"no name's end", packet(v30, "user"), layout, "", "layout"},
		{"no value's end", packet(v30, "user\x00x"), layout, "", "layout"},
		{"no last byte", packet(v30, "user\x00trusted\x00"), layout, "", "layout"},
		{"more after it", packet(v30, "user\x00trusted\x00\x00x"), layout, "", "layout"},
		{"an ordinary connection", startup(v30, "user", "trusted", "replication", "off"), in, "trusted@trusted 0", ""},
		{"to a database", startup(v30, "user", "trusted", "database", "d"), in, "trusted@d 0", ""},
		{"replication of a database", startup(v30, "user", "trusted", "database", "d", "replication", "database"), in, "trusted@d 2", ""},
		{"physical replication has none", startup(v30, "user", "trusted", "database", "d", "replication", "YES"), in, "trusted@ 1", ""},
		{"the later value", startup(v30, "user", "eve", "user", "trusted", "replication", "1"), in, "trusted@ 1", ""},
		{"replication of what", startup(v30, "user", "trusted", "replication", "maybe"), fatal("22023", `invalid value for parameter "replication": "maybe"`, `HValid values are: "false", 0, "true", 1, "database".`), "", "maybe"},
		{"cancel", packet(codeCancel, "\x00\x00\x00\x09keys"), "", "", "request to cancel"},
		{"cancel after a request", requestTLS + packet(codeCancel, "\x00\x00\x00\x09keys"), "N", "", "request to cancel"},
		{"cancel without a key", packet(codeCancel, "\x00\x00\x00\x09"), "", "", "invalid length of cancel request"},
		{"cancel with a long key", packet(codeCancel, strings.Repeat("x", 261)), "", "", "invalid length of cancel request"},

		{"left at the question", ask, asks, "", "EOF"},
		{"a query for an answer", ask + message('Q', "SELECT\x00"), asks + fatal("08P01", "expected SASL response, got message type 81"), "", "expected SASL"},
		{"a long answer", ask + message('p', strings.Repeat("x", 1025)), asks + fatal("08P01", "invalid message length"), "", "invalid message length"},
		{"a very long answer", ask + "p\xff\xff\xff\xff", asks + fatal("08P01", "invalid message length"), "", "invalid message length"},
		{"a short answer", ask + "p\x00\x00\x00\x03", asks + fatal("08P01", "invalid message length"), "", "invalid message length"},
		{"half an answer", ask + "p\x00\x00\x00\x09abc", asks, "", "incomplete message"},
		{"a password in the clear", ask + message('p', "secret\x00"), asks + fatal("08P01", "invalid message format"), "", "invalid message format"},
		{"no length", ask + message('p', "SCRAM-SHA-256\x00\x00"), asks + fatal("08P01", "invalid message format"), "", "invalid message format"},
		{"another length", ask + initial("SCRAM-SHA-256", 5, "x"), asks + fatal("08P01", "invalid message format"), "", "invalid message format"},
		{"a negative length of something", ask + initial("SCRAM-SHA-256", -1, "x"), asks + fatal("08P01", "invalid message format"), "", "invalid message format"},
		{"another mechanism", ask + initial("OAUTHBEARER", -1, ""), asks + fatal("08P01", "client selected an invalid SASL authentication mechanism"), "", "mechanism"},
		{"a binding of nothing", ask + initial("SCRAM-SHA-256-PLUS", -1, ""), asks + fatal("08P01", "client selected an invalid SASL authentication mechanism"), "", "mechanism"},
		{"wants to be asked", ask + initial("SCRAM-SHA-256", -1, "") + message('p', ""), asks + message('R', "\x00\x00\x00\x0b") + fatal("08P01", "malformed SCRAM message", "DThe message is empty."), "", "malformed"},
	} {
		for _, inParts := range []bool{false, true} {
			// What follows is the session's.
			rest := strings.NewReader(c.said)
			if c.session != "" {
				rest = strings.NewReader(c.said + "more")
			}
			conn := newScript(rest)
			if inParts {
				conn.said = iotest.OneByteReader(rest)
			}
			s, err := Accept(t.Context(), conn, rawOptions(t))
			if got := conn.heard.String(); got != c.heard {
				t.Errorf("%s: heard %q, want %q", c.reason, got, c.heard)
			}
			switch {
			case c.session == "" && (err == nil || !strings.Contains(err.Error(), c.log) || !conn.closed):
				t.Errorf("%s: %v, want %s", c.reason, err, c.log)
			case c.session != "" && err != nil:
				t.Errorf("%s: %v", c.reason, err)
			case c.session != "":
				if got := fmt.Sprintf("%s@%s %d", s.User, s.Database, s.Replication); got != c.session {
					t.Errorf("%s: %s, want %s", c.reason, got, c.session)
				}
				if s.Conn != conn || rest.Len() != len("more") || conn.closed {
					t.Errorf("%s: %d bytes are left", c.reason, rest.Len())
				}
			}
		}
	}
}

func TestParseReplication(t *testing.T) {
	for want, values := range map[string]string{
		"1 true":  "true TRUE t tr yes y on On 1",
		"0 true":  "false f fal no n off of OFF 0",
		"2 true":  "database",
		"0 false": "o DATABASE data 2 10 truex onn maybe",
	} {
		for value := range strings.FieldsSeq(values) {
			if r, ok := parseReplication(value); fmt.Sprint(int(r), " ", ok) != want {
				t.Errorf("%q: %d, %v, want %s", value, r, ok, want)
			}
		}
	}
	if _, ok := parseReplication(""); ok {
		t.Error("an empty value is one")
	}
}

func TestStartupParameters(t *testing.T) {
	o := rawOptions(t)
	o.Admit = nil
	conn := newScript(strings.NewReader(startup(v32, "user", "trusted", "application_name", "a\tb\xff", "options", "-c x=1", "DateStyle", "ISO")))
	s, err := Accept(t.Context(), conn, o)
	if err != nil {
		t.Fatal(err)
	}
	if s.ApplicationName != `a\x09b\xff` || len(s.Parameters) != 2 || s.Parameters["options"] != "-c x=1" || s.Parameters["DateStyle"] != "ISO" {
		t.Errorf("%q, %v", s.ApplicationName, s.Parameters)
	}
	if s.PID == 0 || s.PID > 1<<31-1 || len(s.Key) != 32 || s.Address.String() != "127.0.0.1" || s.Method != hba.Trust {
		t.Errorf("PID %d, a key of %d bytes, %v", s.PID, len(s.Key), s.Address)
	}
}

func TestCancel(t *testing.T) {
	for _, key := range []string{"keys", strings.Repeat("k", 32), strings.Repeat("k", 256)} {
		o := rawOptions(t)
		conn, called := newScript(strings.NewReader(packet(codeCancel, "\x00\x00\x00\x09"+key))), 0
		o.Cancel = func(pid uint32, got []byte) {
			if called++; pid != 9 || string(got) != key || conn.closed {
				t.Errorf("pid %d, key %q", pid, got)
			}
		}
		if _, err := Accept(t.Context(), conn, o); !errors.Is(err, ErrCancel) || called != 1 || conn.heard.Len() > 0 || !conn.closed {
			t.Errorf("%v, called %d times, heard %q", err, called, conn.heard.String())
		}
	}
}

func TestAdmit(t *testing.T) {
	for _, c := range []struct {
		reason string
		err    error
		want   string
	}{
		{"a refusal", &Refusal{Code: "42501", Message: "no", Detail: "d", Hint: "h"}, fatal("42501", "no", "Dd", "Hh")},
		{"wrapped", fmt.Errorf("for the log: %w", &Refusal{Code: "42501", Message: "no"}), fatal("42501", "no")},
		{"of a server", fmt.Errorf("for the log: %w", &pgconn.PgError{Severity: "ERROR", Code: "53300", Message: "too many", Hint: "h"}), fatal("53300", "too many", "Hh")},
		{"with a hint", usererr.Hinted("h", "broken"), fatal("XX000", "broken", "Hh")},
		{"any", errors.New("broken"), fatal("XX000", "broken")},
	} {
		o := rawOptions(t)
		o.Admit = func(context.Context, *Session) ([]Parameter, error) { return nil, c.err }
		conn := newScript(strings.NewReader(trusted))
		_, err := Accept(t.Context(), conn, o)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.reason, err)
		}
		if r := (*Refusal)(nil); !errors.As(err, &r) {
			t.Errorf("%s: %v is no refusal", c.reason, err)
		}
		if got := conn.heard.String(); got != authOK+c.want {
			t.Errorf("%s: heard %q, want %q", c.reason, got, c.want)
		}
	}
	o := rawOptions(t)
	o.Admit = settings
	conn := newScript(strings.NewReader(trusted))
	if _, err := Accept(t.Context(), conn, o); err != nil || !strings.HasPrefix(conn.heard.String(), authOK+message('S', "server_version\x0018.6\x00")) {
		t.Errorf("%v, heard %q", err, conn.heard.String())
	}
}

func TestNoSecret(t *testing.T) {
	o := rawOptions(t)
	o.Secret = o.Secret[:15]
	conn := newScript(strings.NewReader(trusted))
	if _, err := Accept(t.Context(), conn, o); err == nil || conn.heard.Len() > 0 {
		t.Errorf("%v, heard %q", err, conn.heard.String())
	}
}

func TestNoRulesLetNobodyIn(t *testing.T) {
	o := rawOptions(t)
	o.Rules = nil
	conn := newScript(strings.NewReader(trusted))
	_, err := Accept(t.Context(), conn, o)
	if want := fatal("28000", `no pg_hba.conf entry for replication connection from host "127.0.0.1", user "trusted", no encryption`); err == nil || conn.heard.String() != want {
		t.Errorf("%v, heard %q", err, conn.heard.String())
	}
}

// What is sent in the clear before TLS begins is not what is said inside it.
func TestInjection(t *testing.T) {
	config := &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue(t, "localhost")}}
	o := rawOptions(t)
	o.TLS = func() *tls.Config { return config }
	conn := newScript(strings.NewReader(requestTLS + trusted))
	_, err := Accept(t.Context(), conn, o)
	want := "S" + fatal("08P01", "received unencrypted data after SSL request",
		"DThis could be either a client-software bug or evidence of an attempted man-in-the-middle attack.")
	if err == nil || conn.heard.String() != want {
		t.Errorf("%v, heard %q, want %q", err, conn.heard.String(), want)
	}
}

// A client that takes its time, or reads nothing, is not waited for.
func TestSlowClients(t *testing.T) {
	config := &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue(t, "localhost")}}
	for _, c := range []struct {
		reason string
		said   string // at once
		then   string // a byte every second, and over again
		reads  bool
	}{
		{"says nothing", "", "", true},
		{"a byte every second", "", trusted[:8] + strings.Repeat("x", 100), true},
		{"stops in the middle", trusted[:10], "", true},
		{"stops at the password", startup(v30, "user", "alice"), "", true},
		{"a slow answer", startup(v30, "user", "alice"), message('p', strings.Repeat("x", 1000)), true},
		{"stops after a request", requestGSS, "", true},
		{"stops before the handshake", requestTLS, "", true},
		{"stops in the handshake", requestTLS + "\x16\x03\x01", "", true},
		{"a slow handshake", requestTLS + "\x16\x03\x01\x02\x00", "x", true},
		{"a slow direct handshake", "\x16\x03\x01\x02\x00", "x", true},
		{"does not read", trusted, "", false},
		{"does not read the answer to a request", requestTLS, "", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			done := make(chan struct{})
			if c.reads {
				go io.Copy(io.Discard, client)
			}
			go func() {
				if _, err := io.WriteString(client, c.said); err != nil || c.then == "" {
					return
				}
				tick := time.NewTicker(time.Second)
				defer tick.Stop()
				for i := 0; ; i = (i + 1) % len(c.then) {
					select {
					case <-tick.C:
					case <-done:
						return
					}
					if _, err := client.Write([]byte{c.then[i]}); err != nil {
						return
					}
				}
			}()
			begin := time.Now()
			o := rawOptions(t)
			o.TLS = func() *tls.Config { return config }
			_, err := Accept(t.Context(), located{server}, o)
			if took := time.Since(begin); !errors.Is(err, os.ErrDeadlineExceeded) || took < 10*time.Second || took > 12*time.Second {
				t.Errorf("%s: %v after %v", c.reason, err, took)
			}
			close(done)
			client.Close()
		})
	}
}

// located is a pipe from the loopback.
type located struct{ net.Conn }

func (located) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func TestAcceptIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("the server stops")
		time.AfterFunc(time.Second, func() { cancel(stopped) })
		begin := time.Now()
		if _, err := Accept(ctx, located{server}, rawOptions(t)); !errors.Is(err, stopped) || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// A session has all the time there is, and so has who admits it.
func TestNoDeadlineStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		o := rawOptions(t)
		o.Admit = func(context.Context, *Session) ([]Parameter, error) {
			<-time.After(time.Hour)
			return nil, nil
		}
		go func() {
			io.WriteString(client, trusted)
			io.CopyN(io.Discard, client, int64(len(authOK)+13+len(ready)))
			<-time.After(time.Hour)
			io.WriteString(client, "x")
		}()
		s, err := Accept(t.Context(), located{server}, o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Conn.Close()
		var b [1]byte
		if _, err := s.Conn.Read(b[:]); err != nil || b[0] != 'x' {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func FuzzStartup(f *testing.F) {
	nonce := message('p', "n,,n=,r=abc")
	for _, said := range []string{
		trusted, requestTLS + trusted, requestGSS + requestTLS + "\x16\x03\x01\x02\x00\x01", packet(codeCancel, "\x00\x00\x00\x09keys"),
		startup(3<<16|9999, "user", "alice", "_pq_.x", "1", "replication", "database"),
		startup(v30, "user", "alice") + message('p', "SCRAM-SHA-256\x00\xff\xff\xff\xff") + nonce + message('p', "c=biws,r=abc,p=AAAA"),
		startup(v30, "user", "alice") + message('p', "SCRAM-SHA-256\x00\x00\x00\x00\x0bn,,n=,r=abc") + message('p', "c=biws,r=abc,p=AAAA"),
		"\x16\x03\x01\x00\x05hello",
	} {
		f.Add([]byte(said))
	}
	config := &tls.Config{Certificates: []tls.Certificate{newAuthority(f).issue(f, "localhost")}}
	o := rawOptions(f)
	o.TLS = func() *tls.Config { return config }
	o.Rules = rulesOf(f, "host all,replication all all scram-sha-256")
	o.Admit = func(context.Context, *Session) ([]Parameter, error) { return nil, errors.New("let in") }
	f.Fuzz(func(t *testing.T, data []byte) {
		conn := newScript(bytes.NewReader(data))
		_, err := Accept(t.Context(), conn, o)
		if err == nil || err.Error() == "let in" || bytes.Contains(conn.heard.Bytes(), []byte(authOK)) {
			t.Errorf("let in: %v", err)
		}
		if !conn.closed {
			t.Error("not closed")
		}
		parts := newScript(iotest.OneByteReader(bytes.NewReader(data)))
		if _, errOfParts := Accept(t.Context(), parts, o); fmt.Sprint(errOfParts) != fmt.Sprint(err) && !strings.Contains(err.Error(), "SSL") {
			t.Errorf("at once %v, in parts %v", err, errOfParts)
		}
	})
}
