package connect

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

// The exchange of RFC 7677, section 3.
const (
	rfcNonce       = "rOprNGfwEbeRWgbNEkqO"
	rfcFirst       = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
	rfcServerFirst = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	rfcFinal       = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcServerFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

func rfcExchange() *scram {
	return &scram{password: "pencil", nonce: rfcNonce, user: "user", header: gs2CouldNot}
}

func TestSCRAM(t *testing.T) {
	s := rfcExchange()
	if got := s.first(); got != rfcFirst {
		t.Errorf("begins with %q, want %q", got, rfcFirst)
	}
	if got, err := s.next(t.Context(), []byte(rfcServerFirst)); got != rfcFinal || err != nil {
		t.Errorf("proves %q, %v, want %q", got, err, rfcFinal)
	}
	if got, err := s.next(t.Context(), []byte(rfcServerFinal)); got != "" || err != nil || s.step != scramDone {
		t.Errorf("ends with %q, %v", got, err)
	}
}

func TestSCRAMDamage(t *testing.T) {
	const wrong = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="
	for _, c := range []struct{ reason, first, final, want string }{
		{"intact", rfcServerFirst, rfcServerFinal, ""},
		{"nothing", "", "", "malformed SCRAM message (empty message)"},
		{"a zero byte", rfcServerFirst + "\x00", "", "malformed SCRAM message (length mismatch)"},
		{"no nonce", "s=W22Z,i=1", "", `malformed SCRAM message (attribute "r" expected)`},
		{"half an attribute", "r", "", `malformed SCRAM message (expected character "=" for attribute "r")`},
		{"an extension that must be known", "m=x,r=" + rfcNonce, "", `malformed SCRAM message (attribute "r" expected)`},
		{"another's nonce", "r=xxx,s=W22Z,i=1", "", "invalid SCRAM response (nonce mismatch)"},
		{"a part of ours", "r=" + rfcNonce[1:] + ",s=W22Z,i=1", "", "invalid SCRAM response (nonce mismatch)"},
		{"no salt", "r=" + rfcNonce + ",i=1", "", `malformed SCRAM message (attribute "s" expected)`},
		{"a salt that is no base64", "r=" + rfcNonce + ",s=?,i=1", "", "malformed SCRAM message (invalid salt)"},
		{"no iterations", "r=" + rfcNonce + ",s=W22Z", "", `malformed SCRAM message (attribute "i" expected)`},
		{"zero iterations", "r=" + rfcNonce + ",s=W22Z,i=0", "", "malformed SCRAM message (invalid iteration count)"},
		{"too many", "r=" + rfcNonce + ",s=W22Z,i=2147483648", "", "malformed SCRAM message (invalid iteration count)"},
		{"many x", "r=" + rfcNonce + ",s=W22Z,i=5x", "", "malformed SCRAM message (invalid iteration count)"},
		{"more than there should be", rfcServerFirst + ",x=y", "", "malformed SCRAM message (garbage at end of server-first-message)"},
		{"nothing at the end", rfcServerFirst, "", "malformed SCRAM message (empty message)"},
		{"an error", rfcServerFirst, "e=invalid-proof", "error received from server in SCRAM exchange: invalid-proof"},
		{"half an error", rfcServerFirst, "e", `malformed SCRAM message (expected character "=" for attribute "e")`},
		{"no signature", rfcServerFirst, "x=y", `malformed SCRAM message (attribute "v" expected)`},
		{"a signature that is no base64", rfcServerFirst, "v=?", "malformed SCRAM message (invalid server signature)"},
		{"a short signature", rfcServerFirst, "v=6rri", "malformed SCRAM message (invalid server signature)"},
		{"bits beyond the signature", rfcServerFirst, wrong, "malformed SCRAM message (invalid server signature)"},
		{"who does not know the password", rfcServerFirst, "v=7" + rfcServerFinal[3:], "incorrect server signature"},
		{"more at the end", rfcServerFirst, rfcServerFinal + ",x=y", "malformed SCRAM message (garbage at end of server-final-message)"},
	} {
		s := rfcExchange()
		s.first()
		_, err := s.next(t.Context(), []byte(c.first))
		if err == nil {
			_, err = s.next(t.Context(), []byte(c.final))
		}
		if got := fmt.Sprint(err); got != c.want && (c.want != "" || err != nil) {
			t.Errorf("%s: %s, want %s", c.reason, got, c.want)
		}
	}
}

// A server that asks for two thousand million iterations asks for an hour.
func TestSCRAMIsAbandoned(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := rfcExchange()
	s.first()
	if _, err := s.next(ctx, []byte("r="+rfcNonce+"x,s=W22Z,i=2147483647")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSaltPassword(t *testing.T) {
	for _, iterations := range []int{1, 2, 4095, 4096, 4097, 10000} {
		want, err := pbkdf2.Key(sha256.New, "pencil", []byte("salt"), iterations, sha256.Size)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := saltPassword(t.Context(), "pencil", []byte("salt"), iterations); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d iterations: %x, %v, want %x", iterations, got, err, want)
		}
	}
}

// passwords are some whose form PostgreSQL changes, or does not.
var passwords = []struct{ reason, given, prepared string }{
	{"plain", "secret", "secret"},
	{"a no-break space", "a\u00a0b", "a b"},
	{"a zero-width space is a space", "a\u200bb", "a b"},
	{"a soft hyphen is nothing", "a\u00adb", "ab"},
	{"soft hyphens alone", "\u00ad\u00ad", "\u00ad\u00ad"},
	{"a ligature is two letters", "\ufb01x", "fix"},
	{"roman nine", "\u2168", "IX"},
	{"accents are put together", "e\u0301", "\u00e9"},
	{"control characters are not allowed", "\u00aa\u0007", "\u00aa\u0007"},
	{"what Unicode 3.2 did not know", "\ufb01\U0001f600", "\ufb01\U0001f600"},
	{"right to left", "\u05d0\u05d1", "\u05d0\u05d1"},
	{"both directions", "\u05d0\ufb01", "\u05d0\ufb01"},
	{"Latin-1", "\xe9\xff", "\xe9\xff"},
}

func TestPreparePassword(t *testing.T) {
	for _, c := range passwords {
		if got := preparePassword(c.given); got != c.prepared {
			t.Errorf("%s: %q, want %q", c.reason, got, c.prepared)
		}
	}
}

func TestEndPoint(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		algorithm x509.SignatureAlgorithm
		key       crypto.Signer
		want      int // bytes; zero is an error
	}{
		{x509.SHA256WithRSA, rsaKey, 32},
		{x509.SHA384WithRSA, rsaKey, 48},
		{x509.SHA512WithRSA, rsaKey, 64},
		{x509.SHA512WithRSAPSS, rsaKey, 64},
		{x509.PureEd25519, edKey, 0},
	} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), SignatureAlgorithm: c.algorithm}
		der, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Public(), c.key)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		hash, err := endPoint(certificate)
		if len(hash) != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%v: %d bytes, %v, want %d", c.algorithm, len(hash), err, c.want)
		}
	}
	for _, weak := range []x509.SignatureAlgorithm{x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1} {
		want := sha256.Sum256([]byte("certificate"))
		if hash, err := endPoint(&x509.Certificate{SignatureAlgorithm: weak, Raw: []byte("certificate")}); err != nil || !bytes.Equal(hash, want[:]) {
			t.Errorf("%v is too weak to bind with: %x, %v", weak, hash, err)
		}
	}
	if _, err := endPoint(new(x509.Certificate)); err == nil || !strings.Contains(err.Error(), "signature algorithm") {
		t.Errorf("one of an unknown kind: %v", err)
	}
}
