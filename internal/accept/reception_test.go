package accept

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"basin/internal/hba"

	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"
)

// testSecret makes up salts in tests.
const testSecret = "0123456789abcdef"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rulesOf reads rules.
func rulesOf(t testing.TB, text string) func() hba.Rules {
	t.Helper()
	rules, err := hba.Parse("rules", []byte(text), hba.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return func() hba.Rules { return rules }
}

// passwords returns a lookup of users' secrets, few enough of iterations to be fast.
func passwords(t testing.TB, byUser map[string]string) func(context.Context, string) (string, bool, error) {
	t.Helper()
	verifiers := make(map[string]string)
	for user, password := range byUser {
		v, err := NewVerifier(password, 64)
		if err != nil {
			t.Fatal(err)
		}
		verifiers[user] = v.Text()
	}
	return func(_ context.Context, user string) (string, bool, error) {
		verifier, ok := verifiers[user]
		return verifier, ok, nil
	}
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	serial      int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{serial: 1}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue returns a certificate for a common name, which is also at 127.0.0.1.
func (a *authority) issue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.serial++
	form := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// writePEM writes a file in PEM that only its owner may read.
func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// save writes a certificate and its key into dir, as name.crt and name.key.
func save(t testing.TB, dir, name string, c tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, name+".crt"), "CERTIFICATE", c.Certificate[0])
	writePEM(t, filepath.Join(dir, name+".key"), "PRIVATE KEY", key)
}

// reception is a server that lets clients in and tells them who they are.
type reception struct {
	options Options
	port    string

	mu     sync.Mutex
	errors []error // of clients that were not let in
}

// open answers clients on the loopback until the test ends.
func (r *reception) open(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() {
				s, err := Accept(ctx, conn, r.options)
				if err != nil {
					r.mu.Lock()
					defer r.mu.Unlock()
					r.errors = append(r.errors, err)
					return
				}
				defer s.Conn.Close()
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				answer(s)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		clients.Wait()
	})
}

// takeErrors returns the errors since the last time.
func (r *reception) takeErrors() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := r.errors
	r.errors = nil
	return errs
}

// describe tells what is known of a session, in one line.
func describe(s *Session) string {
	return fmt.Sprintf("%s@%s %d %v %s tls=%v cn=%s 3.%d key=%d", s.User, s.Database, s.Replication, s.Method,
		s.ApplicationName, s.TLS, s.CertificateCN, s.ProtocolMinor, len(s.Key))
}

// answer tells a client who it is, as often as it asks.
func answer(s *Session) {
	b := pgproto3.NewBackend(s.Conn, s.Conn)
	for {
		message, err := b.Receive()
		if err != nil {
			return
		}
		if _, ok := message.(*pgproto3.Query); !ok {
			continue
		}
		b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("answer"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1}}})
		b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(describe(s))}})
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if b.Flush() != nil {
			return
		}
	}
}

// settings are what a server reports.
func settings(context.Context, *Session) ([]Parameter, error) {
	return []Parameter{
		{"server_version", "18.6"}, {"integer_datetimes", "on"}, {"client_encoding", "UTF8"},
		{"in_hot_standby", "off"}, {"default_transaction_read_only", "off"}, {"standard_conforming_strings", "on"},
	}, nil
}
