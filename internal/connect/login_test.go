package connect

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"basin/internal/conninfo"
)

// script is a connection to a server that says what it says, whatever it hears.
type script struct {
	net.Conn // nil: what is not here is not to be called
	said     io.Reader
	heard    bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)        { return s.said.Read(p) }
func (s *script) Write(p []byte) (int, error)       { return s.heard.Write(p) }
func (s *script) SetDeadline(time.Time) error       { return nil }
func (s *script) SetReadDeadline(t time.Time) error { return nil }

// message is one of the server's.
func message(kind byte, body string) string {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
	return string(head) + body
}

// auth is a request of that kind.
func auth(method authentication, body string) string {
	return message('R', string(binary.BigEndian.AppendUint32(nil, uint32(method)))+body)
}

// negotiate offers a version, and names what is not supported.
func negotiate(v protocolVersion, count int32, names string) string {
	body := binary.BigEndian.AppendUint32(nil, uint32(v))
	return message('v', string(binary.BigEndian.AppendUint32(body, uint32(count)))+names)
}

const (
	ready = "Z\x00\x00\x00\x05I"
	key   = "K\x00\x00\x00\x0c\x00\x00\x12\x67\x01\x02\x03\x04"
)

var (
	ok      = auth(authOK, "")
	lets    = ok + message('S', "server_version\x0018.6\x00") + key + ready
	refusal = message('E', "SFATAL\x00C28P01\x00Mno\x00\x00")

	mechanisms     = auth(authSASL, scramSHA256+"\x00\x00")
	mechanismsPlus = auth(authSASL, scramSHA256Plus+"\x00"+scramSHA256+"\x00\x00")
)

// serverSCRAM returns the two messages of a server that knows the password
// pencil and is told the nonce rfcNonce.
func serverSCRAM(header string, binding []byte) (first, final string) {
	first = "r=" + rfcNonce + "server,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=3"
	s := &scram{password: "pencil", nonce: rfcNonce, header: header, binding: binding}
	s.first()
	if _, err := s.next(context.Background(), []byte(first)); err != nil {
		panic(err)
	}
	return auth(authSASLContinue, first), auth(authSASLFinal, "v="+base64.StdEncoding.EncodeToString(s.signature))
}

// certificate makes one to bind to.
func certificate(t testing.TB) *x509.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := new(x509.Certificate)
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLogin(t *testing.T) {
	first, final := serverSCRAM(gs2CouldNot, nil)
	peer := certificate(t)
	hash, err := endPoint(peer)
	if err != nil {
		t.Fatal(err)
	}
	firstBound, finalBound := serverSCRAM(gs2Bound, hash)
	firstCould, finalCould := serverSCRAM(gs2Could, nil)
	none := login{password: "pencil"}
	tlsOn := login{password: "pencil", certificate: peer}
	disable := login{password: "pencil", certificate: peer, channelBinding: "disable"}
	require := login{password: "pencil", certificate: peer, channelBinding: "require"}
	requireClear := login{password: "pencil", channelBinding: "require"}
	only := func(methods string) login { return login{password: "pencil", requireAuth: requirement(methods)} }
	newest := func(oldest, newest protocolVersion) login { return login{oldest: oldest, newest: newest} }
	long := strings.Repeat("x", 1996)

	const negotiation = "received invalid protocol negotiation message: "
	for _, c := range []struct {
		reason string
		login  login
		said   string
		want   string // the error; empty is none
		heard  string // part of what we say
	}{
		{"trust", none, lets, "", ""},
		{"no key", none, ok + ready, "", ""},
		{"in the clear", none, auth(authPassword, "") + lets, "", message('p', "pencil\x00")},
		{"MD5", none, auth(authMD5, "salt") + lets, "", message('p', "md5d3d9bcccbaa2fb5234570d4d0f22b055\x00")},
		{"MD5 without salt", none, auth(authMD5, "sal") + lets, "fe_sendauth: error sending password authentication", ""},
		{"no password", login{}, auth(authPassword, "") + lets, "fe_sendauth: no password supplied", ""},
		{"no password for MD5", login{}, auth(authMD5, "salt") + lets, "fe_sendauth: no password supplied", ""},
		{"no password for SCRAM", login{}, mechanisms + lets, "fe_sendauth: no password supplied", ""},
		{"a wrong password", none, auth(authPassword, "") + refusal, "FATAL: no (SQLSTATE 28P01)", ""},
		{"refused after all", none, ok + refusal, "FATAL: no (SQLSTATE 28P01)", ""},
		{"GSSAPI", none, auth(authGSS, "") + lets, "GSSAPI authentication not supported", ""},
		{"GSSAPI out of turn", none, auth(authGSSContinue, "") + lets, "GSSAPI authentication not supported", ""},
		{"SSPI", none, auth(authSSPI, "") + lets, "SSPI authentication not supported", ""},
		{"Kerberos 4", none, auth(authKerberos4, ""), "Kerberos 4 authentication not supported", ""},
		{"Kerberos 5", none, auth(authKerberos5, ""), "Kerberos 5 authentication not supported", ""},
		{"crypt", none, auth(authCrypt, ""), "Crypt authentication not supported", ""},
		{"something new", none, auth(13, "") + lets, "authentication method 13 not supported", ""},

		{"SCRAM", none, mechanisms + first + final + lets, "", "n,,n=,r=" + rfcNonce},
		{"SCRAM that could be bound", tlsOn, mechanisms + firstCould + finalCould + lets, "", "y,,n=,r=" + rfcNonce},
		{"SCRAM that is bound", tlsOn, mechanismsPlus + firstBound + finalBound + lets, "", "p=tls-server-end-point,,n=,r=" + rfcNonce},
		{"in any order", tlsOn, auth(authSASL, "SCRAM-SHA-256\x00X\x00SCRAM-SHA-256-PLUS\x00\x00") + firstBound + finalBound + lets, "", "SCRAM-SHA-256-PLUS\x00"},
		{"SCRAM that is not to be bound", disable, mechanismsPlus + first + final + lets, "", "n,,n=,r=" + rfcNonce},
		{"SCRAM that has to be bound", require, mechanismsPlus + firstBound + finalBound + lets, "", "p=tls-server-end-point,,"},
		{"the best is missing", require, mechanisms, "channel binding is required, but server did not offer an authentication method that supports channel binding", ""},
		{"nothing to bind to", requireClear, mechanisms, "channel binding required, but SSL not in use", ""},
		{"TLS was taken away", none, mechanismsPlus, "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection", ""},
		{"nothing was bound", require, lets, "channel binding required, but server authenticated client without channel binding", ""},
		{"nothing was proved", require, mechanismsPlus + firstBound + lets, "channel binding required, but server authenticated client without channel binding", ""},
		{"a password cannot be bound", require, auth(authPassword, ""), "channel binding required but not supported by server's authentication request", ""},
		{"bound to another's certificate", tlsOn, mechanismsPlus + first + final + lets, "incorrect server signature", ""},
		{"no proof", none, mechanisms + first + lets, "server did not complete authentication", ""},
		{"no exchange", none, mechanisms + lets, "server did not complete authentication", ""},
		{"no mechanism", none, auth(authSASL, "\x00"), "none of the server's SASL authentication mechanisms are supported", ""},
		{"none that we know", none, auth(authSASL, "OAUTHBEARER\x00\x00"), "none of the server's SASL authentication mechanisms are supported", ""},
		{"a list without end", none, auth(authSASL, "SCRAM-SHA-256\x00"), "fe_sendauth: invalid authentication request from server: invalid list of authentication mechanisms", ""},
		{"twice", none, mechanisms + mechanisms, "duplicate SASL authentication request", ""},
		{"continued without beginning", none, first, "fe_sendauth: invalid authentication request from server: AUTH_REQ_SASL_CONT without AUTH_REQ_SASL", ""},
		{"ended without beginning", none, final, "fe_sendauth: invalid authentication request from server: AUTH_REQ_SASL_CONT without AUTH_REQ_SASL", ""},
		{"ended too early", none, mechanisms + "R" + strings.Replace(first[1:], "\x0b", "\x0c", 1), "AuthenticationSASLFinal received from server, but SASL authentication was not completed", ""},
		{"continued after the end", none, mechanisms + first + final + first, "invalid SCRAM exchange state", ""},

		{"as required", only("scram-sha-256"), mechanisms + first + final + lets, "", ""},
		{"one of those required", only("md5,password"), auth(authPassword, "") + lets, "", ""},
		{"required, not asked for", only("password"), lets, `authentication method requirement "password" failed: server did not complete authentication`, ""},
		{"required, begun", only("scram-sha-256"), mechanisms + lets, `authentication method requirement "scram-sha-256" failed: server did not complete authentication`, ""},
		{"none is required", only("none"), lets, "", ""},
		{"none is allowed", only("none,md5"), lets, "", ""},
		{"any but none", only("!none"), lets, `authentication method requirement "!none" failed: server did not complete authentication`, ""},
		{"any but none is given", only("!none"), auth(authPassword, "") + lets, "", ""},
		{"another in the clear", only("scram-sha-256"), auth(authPassword, ""), `authentication method requirement "scram-sha-256" failed: server requested a cleartext password`, ""},
		{"another with MD5", only("scram-sha-256"), auth(authMD5, "salt"), `authentication method requirement "scram-sha-256" failed: server requested a hashed password`, ""},
		{"another with GSSAPI", only("md5"), auth(authGSS, ""), `authentication method requirement "md5" failed: server requested GSSAPI authentication`, ""},
		{"another with SSPI", only("md5"), auth(authSSPI, ""), `authentication method requirement "md5" failed: server requested SSPI authentication`, ""},
		{"another with SASL", only("md5"), mechanisms, `authentication method requirement "md5" failed: server requested SASL authentication`, ""},
		{"another mechanism", only("oauth"), mechanisms, `authentication method requirement "oauth" failed: server requested SCRAM-SHA-256 authentication`, ""},
		{"ruled out", only("!scram-sha-256"), mechanisms, `authentication method requirement "!scram-sha-256" failed: server requested SCRAM-SHA-256 authentication`, ""},
		{"all of SASL ruled out", only("!scram-sha-256,!oauth"), mechanisms, `authentication method requirement "!scram-sha-256,!oauth" failed: server requested SASL authentication`, ""},
		{"unknown with a requirement", only("!md5"), auth(13, ""), `authentication method requirement "!md5" failed: server requested an unknown authentication type`, ""},

		{"3.2 is agreed on", newest(protocol30, protocol32), strings.Replace(lets, key, message('K', "\x00\x00\x12\x67"+strings.Repeat("k", 32)), 1), "", "\x00\x03\x00\x02"},
		{"3.2 is not known", newest(protocol30, protocol32), negotiate(protocol30, 0, "") + lets, "", "\x00\x03\x00\x02"},
		{"3.2 is insisted on", newest(protocol32, protocol32), negotiate(protocol30, 0, "") + lets, `server only supports protocol version 3.0, but "min_protocol_version" was set to 3.2`, ""},
		{"higher", newest(protocol30, protocol30), negotiate(protocol32, 0, ""), negotiation + "server requested downgrade to a higher-numbered version", ""},
		{"before 3.0", newest(protocol30, protocol30), negotiate(2<<16, 0, ""), negotiation + "server requested downgrade to pre-3.0 protocol version", ""},
		{"3.1 never was", newest(protocol30, protocol32), negotiate(protocol31, 0, ""), negotiation + "server requested downgrade to non-existent 3.1 protocol version", ""},
		{"less than none", newest(protocol30, protocol32), negotiate(protocol30, -1, ""), negotiation + "server reported negative number of unsupported parameters", ""},
		{"no change", newest(protocol30, protocol32), negotiate(protocol32, 0, ""), negotiation + "server negotiated but asks for no changes", ""},
		{"another's parameter", newest(protocol30, protocol32), negotiate(protocol30, 1, "x\x00"), negotiation + `server reported unsupported parameter name without a "_pq_." prefix ("x")`, ""},
		{"a parameter of nobody's", newest(protocol30, protocol32), negotiate(protocol30, 1, "_pq_.x\x00"), negotiation + `server reported an unsupported parameter that was not requested ("_pq_.x")`, ""},
		{"no parameter", newest(protocol30, protocol32), negotiate(protocol30, 1, ""), negotiation + "message too short", ""},
		{"short", newest(protocol30, protocol32), message('v', "\x00\x03\x00\x00"), negotiation + "message too short", ""},
		{"negotiated twice", newest(protocol30, protocol32), negotiate(protocol30, 0, "") + negotiate(protocol30, 0, ""), "received duplicate protocol negotiation message", ""},

		{"another server", none, "HTTP/1.1 400 Bad Request\r\n", "expected authentication request from server, but received H", ""},
		{"a notice too early", none, message('N', "\x00") + lets, "expected authentication request from server, but received N", ""},
		{"a long request", none, auth(authSASL, long), "received invalid authentication request", ""},
		{"a request without end", none, "R\xff\xff\xff\xff", "received invalid authentication request", ""},
		{"a short request", none, message('R', ""), "received invalid authentication request", ""},
		{"a long negotiation", none, message('v', long+"x"), "received invalid protocol negotiation message", ""},
		{"an error without text", none, message('E', "SFATAL"), "received invalid error message", ""},
		{"an error of old", none, "Ecould not fork new process for connection: x\n\x00", "could not fork new process for connection: x", ""},
		{"one without end", none, "E" + strings.Repeat("x", 40000), "received invalid error message", ""},
		{"a long setting", none, ok + message('S', strings.Repeat("x", 30000)), `lost synchronization with server: got message type "S", length 30004`, ""},
		{"a length less than its own", none, ok + "S\x00\x00\x00\x03", `lost synchronization with server: got message type "S", length 3`, ""},
		{"half a setting", none, ok + message('S', "x\x00"), `message contents do not agree with length in message type "S"`, ""},
		{"half a notice", none, ok + message('N', "Sx"), `message contents do not agree with length in message type "N"`, ""},
		{"an endless notice", none, ok + "N\x7f\xff\xff\xff", `lost synchronization with server: got message type "N", length 2147483647`, ""},
		{"half a key", none, ok + message('K', "xxx"), `message contents do not agree with length in message type "K"`, ""},
		{"a long key too early", none, ok + message('K', "xxxxkkkkk"), "received invalid BackendKeyData message: cancel key with length 5 not allowed in protocol version 3.0 (must be 4 bytes)", ""},
		{"a short key", newest(protocol30, protocol32), ok + message('K', "xxxxkkk"), "received invalid BackendKeyData message: cancel key with length 3 is too short (minimum 4 bytes)", ""},
		{"a key without end", newest(protocol30, protocol32), ok + message('K', long), "received invalid BackendKeyData message: cancel key with length 1992 is too long (maximum 256 bytes)", ""},
		{"rows", none, ok + message('D', "\x00\x00"), "unexpected message from server during startup", ""},
		{"not quite ready", none, ok + message('Z', ""), `message contents do not agree with length in message type "Z"`, ""},
	} {
		t.Run(c.reason, func(t *testing.T) {
			for _, oneByte := range []bool{false, true} {
				const rest = "what follows is not ours"
				said := strings.NewReader(c.said + rest)
				conn := &script{said: said}
				if oneByte {
					conn.said = iotest.OneByteReader(said)
				}
				l := c.login
				l.conn, l.nonce, l.user = conn, rfcNonce, "user"
				l.oldest, l.newest = max(l.oldest, protocol30), max(l.newest, protocol30)
				err := l.run(t.Context(), []parameter{{"user", "user"}, {"replication", "true"}})
				if got := fmt.Sprint(err); c.want != got && (c.want != "" || err != nil) {
					t.Errorf("got %q, want %q", got, c.want)
				}
				if !strings.Contains(conn.heard.String(), c.heard) {
					t.Errorf("said %q, without %q", conn.heard.String(), c.heard)
				}
				if err == nil && said.Len() != len(rest) {
					t.Errorf("%d bytes are left, want %d", said.Len(), len(rest))
				}
			}
		})
	}
}

func TestStartupPacket(t *testing.T) {
	const want = "\x00\x00\x00\x24\x00\x03\x00\x02user\x00me\x00application_name\x00x\x00\x00"
	if got := string(startupPacket(protocol32, []parameter{{"user", "me"}, {"application_name", "x"}})); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNoticesOfTheStartup(t *testing.T) {
	var told []string
	conn := &script{said: strings.NewReader(ok + message('N', "SWARNING\x00Ma\x00Hb\x00\x00") + message('A', "x") + message('N', "SNOTICE\x00Mc\x00\x00") + key + ready)}
	l := login{wire: wire{conn: conn, notice: func(text string) { told = append(told, text) }}, newest: protocol30}
	if err := l.run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(told, "; "), "WARNING:  a\nHINT:  b; NOTICE:  c"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if l.backend.pid != 4711 || string(l.backend.secret) != "\x01\x02\x03\x04" {
		t.Errorf("key is %d, %q", l.backend.pid, l.backend.secret)
	}
}

// broken is a connection that nothing can be written to.
type broken struct{ script }

func (b *broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// Who closes the connection on us may have said why.
func TestLastWordsOfServer(t *testing.T) {
	for _, c := range []struct {
		reason string
		said   io.Reader
		want   string
	}{
		{"it said why", strings.NewReader(refusal), "FATAL: no (SQLSTATE 28P01)"},
		{"it let somebody in", strings.NewReader(lets), "broken pipe"},
		{"it said nothing", strings.NewReader(""), "EOF"},
		{"it is not known", iotest.ErrReader(errors.New("timeout")), "broken pipe"},
	} {
		l := login{wire: wire{conn: &broken{script{said: c.said}}}, newest: protocol30}
		if err := l.run(t.Context(), nil); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.reason, err, c.want)
		}
	}
}

// connectorTo is one whose parameters are known without a system.
func connectorTo(t *testing.T) *connector {
	t.Helper()
	var params conninfo.Params
	for keyword, value := range map[string]string{"user": "me", "password": "pencil", "dbname": "postgres"} {
		if err := params.Set(keyword, value); err != nil {
			t.Fatal(err)
		}
	}
	return &connector{params: params}
}

// A server that stops in the middle, wherever that is, is not waited for
// longer than the user wants.
func TestServerStops(t *testing.T) {
	said := auth(authMD5, "salt") + lets
	for n := range len(said) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			go func() {
				_, _ = io.Copy(io.Discard, far) // until near is closed
			}()
			go func() {
				_, _ = far.Write([]byte(said[:n]))
			}()
			ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, errTimeout)
			defer cancel()
			began := time.Now()
			_, f := connectorTo(t).authenticate(ctx, near, target{}, nil)
			if f == nil || !errors.Is(f, errTimeout) || time.Since(began) != 5*time.Second {
				t.Errorf("after %d of %d bytes: %v after %v", n, len(said), f, time.Since(began))
			}
			near.Close()
		})
	}
}

// A server that does not read is not waited for either.
func TestServerDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, errTimeout)
		defer cancel()
		_, f := connectorTo(t).authenticate(ctx, near, target{}, nil)
		if f == nil || !errors.Is(f, errTimeout) {
			t.Errorf("got %v", f)
		}
	})
}

// sluggish is a connection whose writes take a while.
type sluggish struct{ net.Conn }

func (s sluggish) Write(p []byte) (int, error) {
	<-time.After(time.Second)
	return s.Conn.Write(p)
}

// However long a write of the startup takes, nothing reads in its shadow: the
// first answer is for whoever has the connection then.
func TestAnswerAfterSlowWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			(&doorman{password: "pencil", value: "42"}).answer(far, nil)
		}()
		c := connectorTo(t)
		b, f := c.authenticate(t.Context(), sluggish{near}, target{}, c.startupParameters("true"))
		if f != nil {
			t.Fatal(f)
		}
		for range 3 {
			synctest.Wait()
			if answer, err := b.query("SHOW answer"); answer != "42" || err != nil {
				t.Errorf("the answer is %q, %v", answer, err)
			}
		}
		if err := terminate(b.conn); err != nil {
			t.Error(err)
		}
	})
}

func FuzzStartup(f *testing.F) {
	first, final := serverSCRAM(gs2CouldNot, nil)
	for _, said := range []string{
		lets, refusal, auth(authPassword, "") + lets, auth(authMD5, "salt") + lets,
		mechanisms + first + final + lets, mechanismsPlus, negotiate(protocol30, 0, "") + lets,
		negotiate(protocol30, 1, "_pq_.x\x00"), "Efork failed\n\x00", ok + message('N', "SWARNING\x00Mx\x00\x00") + ready,
	} {
		f.Add([]byte(said), false)
		f.Add([]byte(said), true)
	}
	peer := certificate(f)
	f.Fuzz(func(t *testing.T, data []byte, secured bool) {
		if bytes.Contains(data, []byte(",i=")) && !bytes.Contains(data, []byte(",i=3")) {
			return // would take its time
		}
		login := func(said io.Reader) (*login, error) {
			l := &login{wire: wire{conn: &script{said: said}}, user: "user", password: "pencil", nonce: rfcNonce, oldest: protocol30, newest: protocol32}
			if secured {
				l.certificate, l.channelBinding = peer, "require"
			}
			return l, l.run(t.Context(), nil)
		}
		rest := bytes.NewReader(data)
		whole, err := login(rest)
		_, errOfParts := login(iotest.OneByteReader(bytes.NewReader(data)))
		if fmt.Sprint(err) != fmt.Sprint(errOfParts) {
			t.Errorf("at once %v, in parts %v", err, errOfParts)
		}
		switch read := data[:len(data)-rest.Len()]; {
		case err == nil && (len(read) < 6 || !bytes.Equal(read[len(read)-6:len(read)-1], []byte(ready[:5]))):
			t.Errorf("the last bytes read are %q, of no ReadyForQuery", read)
		case err == nil && secured && !whole.bound():
			t.Error("let in without the binding")
		case err == nil && whole.scram != nil && whole.scram.step != scramDone:
			t.Error("let in without proof")
		}
	})
}
