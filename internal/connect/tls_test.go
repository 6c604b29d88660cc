package connect

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
	"strings"
	"testing"
	"time"

	"basin/internal/conninfo"
)

// authority signs certificates, and takes them back.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64 // serial number
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	a.key = a.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name),
	}
	der := a.must(x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key))
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write(name+".crt", "CERTIFICATE", der)
	a.last = 1
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) must(der []byte, err error) []byte {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func (a *authority) write(name, kind string, der []byte) string {
	file := filepath.Join(a.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

// issue makes a certificate for a common name and other names, in memory and
// as files named for the common name.
func (a *authority) issue(common string, names ...string) tls.Certificate {
	a.t.Helper()
	a.last++
	key := a.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.last), Subject: pkix.Name{CommonName: common},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der := a.must(x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key))
	a.write(common+".crt", "CERTIFICATE", der)
	a.write(common+".key", "EC PRIVATE KEY", a.must(x509.MarshalECPrivateKey(key)))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// revoke writes a list of what is revoked, in force for as long as is given.
func (a *authority) revoke(name string, valid time.Duration, serials ...int64) {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: time.Now().Add(valid)}
	for _, serial := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: time.Now()})
	}
	a.write(name, "X509 CRL", a.must(x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)))
}

func TestConnectTLS(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	ours, other := newAuthority(t, dir, "ours"), newAuthority(t, dir, "other")
	certificate := ours.issue("server", "db.example", "127.0.0.1") // serial number 2
	ours.issue("client")
	ours.revoke("empty.crl", time.Hour)
	ours.revoke("revoked.crl", time.Hour, 2)
	ours.revoke("expired.crl", -time.Hour)
	other.revoke("other.crl", time.Hour)
	if err := os.Mkdir(filepath.Join(dir, "lists"), 0o700); err != nil {
		t.Fatal(err)
	}
	ours.revoke("lists/0a1b2c3d.r0", time.Hour, 2)
	if err := os.WriteFile(filepath.Join(dir, "open.key"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)

	plain := new(tls.Config)
	plain.Certificates = []tls.Certificate{certificate}
	old := plain.Clone()
	old.MaxVersion = tls.VersionTLS12
	asks := plain.Clone()
	asks.ClientAuth, asks.ClientCAs = tls.RequireAndVerifyClientCert, pool
	common := &tls.Config{Certificates: []tls.Certificate{ours.issue("*.example")}}

	const verifyFull = "sslmode=verify-full sslrootcert=@/ours.crt "
	for _, c := range []struct {
		name   string
		server *tls.Config
		in     string // @ stands for the directory
		err    string // part of it; empty connects, "clear" does so without TLS
	}{
		{"prefer takes TLS", plain, "sslmode=prefer", ""},
		{"allow goes without", plain, "sslmode=allow", "clear"},
		{"disable goes without", plain, "sslmode=disable", "clear"},
		{"prefer goes without where there is none", nil, "sslmode=prefer", "clear"},
		{"require trusts anybody", plain, "sslmode=require", ""},
		{"require with an authority does not", plain, "sslmode=require sslrootcert=@/other.crt", "certificate verify failed"},
		{"prefer with another authority goes without", plain, "sslmode=prefer sslrootcert=@/other.crt", "clear"},
		{"verify-ca", plain, "sslmode=verify-ca sslrootcert=@/ours.crt", ""},
		{"verify-ca by another", plain, "sslmode=verify-ca sslrootcert=@/other.crt", "certificate verify failed: x509: certificate signed by unknown authority"},
		{"verify-ca without a file", plain, "sslmode=verify-ca sslrootcert=@/none.crt", "/none.crt\" does not exist"},
		{"verify-ca in the home directory", plain, "sslmode=verify-ca", ".postgresql/root.crt\" does not exist"},
		{"verify-full by name", plain, verifyFull + "host=db.example", ""},
		{"verify-full by address", plain, verifyFull + "host=127.0.0.1", ""},
		{"verify-full by another name", plain, verifyFull + "host=db2.example", `server certificate for "db.example" does not match host name "db2.example"`},
		{"verify-full without a name", plain, verifyFull, "host name must be specified for a verified SSL connection"},
		{"verify-full by common name", common, verifyFull + "host=db.example", ""},
		{"a star is one label", common, verifyFull + "host=a.db.example", "does not match host name"},
		{"nothing is revoked", plain, verifyFull + "host=db.example sslcrl=@/empty.crl", ""},
		{"revoked", plain, verifyFull + "host=db.example sslcrl=@/revoked.crl", "certificate verify failed: certificate revoked"},
		{"revoked by a list in a directory", plain, verifyFull + "host=db.example sslcrldir=@/lists", "certificate revoked"},
		{"a list that ran out", plain, verifyFull + "host=db.example sslcrl=@/expired.crl", "CRL has expired"},
		{"a list of another authority", plain, verifyFull + "host=db.example sslcrl=@/other.crl", "unable to get certificate CRL"},
		{"no such list", plain, verifyFull + "host=db.example sslcrl=@/none.crl", "could not read certificate revocation list"},
		{"a server that is too old", old, "sslmode=require ssl_min_protocol_version=TLSv1.3", "SSL error: "},
		{"an old server", old, "sslmode=require ssl_max_protocol_version=TLSv1.2", ""},
		{"a client certificate", asks, "sslmode=require sslcertmode=require sslcert=@/client.crt sslkey=@/client.key", ""},
		{"no client certificate", asks, "sslmode=require", "SSL error: "},
		{"one that is kept back", asks, "sslmode=require sslcertmode=disable sslcert=@/client.crt sslkey=@/client.key", "SSL error: "},
		{"one that nobody wants", plain, "sslmode=require sslcertmode=require sslcert=@/client.crt sslkey=@/client.key", "server did not request an SSL certificate"},
		{"a key that others read", asks, "sslmode=require sslcert=@/client.crt sslkey=@/open.key", "has group or world access"},
		{"no key", asks, "sslmode=require sslcert=@/client.crt sslkey=@/none.key", "certificate present, but not private key file"},
		{"the key of another", asks, "sslmode=require sslcert=@/client.crt sslkey=@/server.key", "could not load certificate file"},
		{"direct needs a server that knows the protocol", plain, "sslmode=require sslnegotiation=direct", "SSL SYSCALL error: EOF detected"},
		{"channel binding needs an authentication", plain, "sslmode=require channel_binding=require", "channel binding required"},
	} {
		port := (&doorman{tls: c.server}).tcp(t)
		o := options(t, strings.ReplaceAll(c.in, "@", dir)+" hostaddr=127.0.0.1 port="+port)
		o.System.Home = dir
		s, err := dial(t, o)
		switch {
		case c.err == "" || c.err == "clear":
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if _, secured := s.Conn.(*tls.Conn); secured == (c.err == "clear") {
				t.Errorf("%s: with TLS is %t", c.name, secured)
			}
		case err == nil:
			t.Errorf("%s: connected", c.name)
		case !strings.Contains(err.Error(), c.err):
			t.Errorf("%s: error %q does not tell %q", c.name, err, c.err)
		}
	}
}

// What a server refuses over TLS it may let in without.
func TestPreferGoesOnInTheClear(t *testing.T) {
	config := &tls.Config{Certificates: []tls.Certificate{newAuthority(t, t.TempDir(), "ours").issue("server")}}
	for _, c := range []struct{ mode, want string }{
		{"prefer", " on then "}, {"allow", "  then on"}, {"require", " on"}, {"disable", " "},
	} {
		d := &doorman{tls: config, reject: fatal("28000", "no")}
		_, err := dial(t, options(t, "host=127.0.0.1 sslmode="+c.mode+" port="+d.tcp(t)))
		var tried []string
		for _, startup := range d.startups {
			tried = append(tried, startup["tls"])
		}
		if got := " " + strings.Join(tried, " then "); got != c.want {
			t.Errorf("%s: tried with TLS%s, want%s", c.mode, got, c.want)
		}
		if n := strings.Count(fmt.Sprint(err), "FATAL:  no"); n != len(tried) {
			t.Errorf("%s: %d of %d attempts are told of: %v", c.mode, n, len(tried), err)
		}
	}
}

func TestDirectTLS(t *testing.T) {
	for _, c := range []struct {
		name      string
		protocols []string
		err       string // part of it
	}{
		{"a server that knows the protocol", []string{"postgresql"}, ""},
		{"one that knows none", nil, "direct SSL connection was established without ALPN protocol negotiation extension"},
		{"one that knows another", []string{"http/1.1"}, "SSL error: tls: no application protocol"},
	} {
		d := &doorman{direct: true, tls: &tls.Config{
			Certificates: []tls.Certificate{newAuthority(t, t.TempDir(), "ours").issue("server")},
			NextProtos:   c.protocols,
		}}
		_, err := dial(t, options(t, "host=127.0.0.1 sslmode=require sslnegotiation=direct port="+d.tcp(t)))
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v, want %s", c.name, err, c.err)
		}
	}
}

func TestServerNameAndKeyLog(t *testing.T) {
	dir := t.TempDir()
	var name string
	config := &tls.Config{
		Certificates: []tls.Certificate{newAuthority(t, dir, "ours").issue("server")},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = strings.Join(append([]string{hello.ServerName}, hello.SupportedProtos...), " ")
			return nil, nil
		},
	}
	for _, c := range []struct{ in, want string }{
		{"host=db.example", "db.example postgresql"},
		{"host=db.example sslsni=0", " postgresql"},
		{"host=127.0.0.1", " postgresql"}, // an address is no server name
		{"", " postgresql"},
	} {
		log := filepath.Join(dir, "keys")
		port := (&doorman{tls: config}).tcp(t)
		if _, err := dial(t, options(t, c.in+" hostaddr=127.0.0.1 sslmode=require sslkeylogfile="+log+" port="+port)); err != nil {
			t.Errorf("%q: %v", c.in, err)
		}
		if name != c.want {
			t.Errorf("%q: the server heard %q, want %q", c.in, name, c.want)
		}
		if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "CLIENT_TRAFFIC_SECRET_0") {
			t.Errorf("%q: key log %q, %v", c.in, text, err)
		}
	}
}

func TestNewlyAskedPasswordHidesTheFile(t *testing.T) {
	d := &doorman{password: "secret"}
	o := options(t, "host=127.0.0.1 port="+d.tcp(t))
	o.System.Home = t.TempDir()
	o.Password = func(context.Context) (string, error) { return "secret", nil }
	s, err := dial(t, o)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := conninfo.RecoveryConf(s.Params, conninfo.Recovery{ServerVersion: s.Version})
	if !strings.Contains(text, "password=secret") || strings.Contains(text, "passfile") {
		t.Errorf("a standby would be told %s", text)
	}
}
