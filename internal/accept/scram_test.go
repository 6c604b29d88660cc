package accept

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"
	"testing"

	"basin/internal/hba"
	"basin/internal/pgtest"
)

// The exchange of RFC 7677, section 3.
const (
	rfcFirst       = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
	rfcServerNonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	rfcServerFirst = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	rfcFinal       = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcServerFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

// keys returns the keys for a password.
func keys(t testing.TB, password string, salt []byte, iterations int) (client []byte, v hba.Verifier) {
	t.Helper()
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	client = sign(salted, "Client Key")
	v = hba.Verifier{Iterations: iterations, Salt: salt, StoredKey: sha256.Sum256(client)}
	copy(v.ServerKey[:], sign(salted, "Server Key"))
	return client, v
}

func rfcVerifier(t testing.TB) (client []byte, v hba.Verifier) {
	t.Helper()
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	return keys(t, "pencil", salt, 4096)
}

func TestExchange(t *testing.T) {
	clientKey, verifier := rfcVerifier(t)
	sum := sha256.Sum256([]byte("certificate"))
	other := sha256.Sum256([]byte("another's"))
	bound := func(header string, sum []byte) string {
		return base64.StdEncoding.EncodeToString(append([]byte(header), sum...))
	}
	const plus = "p=tls-server-end-point,,"
	nonce := strings.TrimPrefix(rfcServerFirst[:strings.Index(rfcServerFirst, ",")], "r=")
	// prove returns a final message with the right proof of what was said.
	prove := func(first, signed string) string {
		_, bare, _ := strings.Cut(first, ",,")
		said := bare + "," + rfcServerFirst + "," + signed
		proof := make([]byte, sha256.Size)
		subtle.XORBytes(proof, clientKey, sign(verifier.StoredKey[:], said))
		return signed + ",p=" + base64.StdEncoding.EncodeToString(proof)
	}
	const n = "n=,r=rOprNGfwEbeRWgbNEkqO"
	for _, c := range []struct {
		reason, mechanism string
		sum               []byte // of the server's certificate
		first, final      string
		want              string // empty is a proof
	}{
		{"of the RFC", scramSHA256, nil, rfcFirst, rfcFinal, ""},
		{"could bind, and there is nothing to", scramSHA256, nil, "y,," + n, prove("y,,"+n, "c=eSws,r="+nonce), ""},
		{"could not bind", scramSHA256, sum[:], "n,," + n, prove("n,,"+n, "c=biws,r="+nonce), ""},
		{"bound", scramSHA256Plus, sum[:], plus + n, prove(plus+n, "c="+bound(plus, sum[:])+",r="+nonce), ""},
		{"extensions", scramSHA256, nil, "n,," + n + ",x=1,y=", prove("n,,"+n+",x=1,y=", "c=biws,r="+nonce+",x=1,y="), ""},

		{"downgraded", scramSHA256, sum[:], "y,," + n, "", "SCRAM channel binding negotiation error"},
		{"bound to another's", scramSHA256Plus, sum[:], plus + n, prove(plus+n, "c="+bound(plus, other[:])+",r="+nonce), "SCRAM channel binding check failed"},
		{"bound to nothing", scramSHA256Plus, sum[:], plus + n, prove(plus+n, "c="+bound(plus, nil)+",r="+nonce), "SCRAM channel binding check failed"},
		{"another header in the end", scramSHA256, nil, "n,," + n, prove("n,,"+n, "c=eSws,r="+nonce), "unexpected SCRAM channel-binding attribute in client-final-message"},
		{"a binding not chosen", scramSHA256, sum[:], plus + n, "", "malformed SCRAM message: The client selected SCRAM-SHA-256 without channel binding"},
		{"chosen and not done", scramSHA256Plus, sum[:], "n,," + n, "", "malformed SCRAM message: The client selected SCRAM-SHA-256-PLUS, but"},
		{"chosen and denied", scramSHA256Plus, sum[:], "y,," + n, "", "malformed SCRAM message: The client selected SCRAM-SHA-256-PLUS, but"},
		{"another kind of binding", scramSHA256Plus, sum[:], "p=tls-\x01unique,," + n, "", `unsupported SCRAM channel-binding type "tls-?unique"`},
		{"chosen and not to be had", scramSHA256Plus, nil, "", "", "client selected an invalid SASL authentication mechanism"},
		{"another mechanism", "PLAIN", nil, "", "", "client selected an invalid SASL authentication mechanism"},

		{"nothing", scramSHA256, nil, "", "", "malformed SCRAM message: The message is empty."},
		{"a zero byte", scramSHA256, nil, "n,,\x00", "", "malformed SCRAM message: Message length does not match input length."},
		{"no header", scramSHA256, nil, n[2:], "", `malformed SCRAM message: Unexpected channel-binding flag ",".`},
		{"a flag alone", scramSHA256, nil, "n", "", `malformed SCRAM message: Comma expected, but found character "0x00".`},
		{"no comma", scramSHA256, nil, "nn", "", `malformed SCRAM message: Comma expected, but found character "n".`},
		{"no second comma", scramSHA256, nil, "n,", "", `malformed SCRAM message: Unexpected attribute "0x00" in client-first-message.`},
		{"an identity", scramSHA256, nil, "n,a=b," + n, "", "client uses authorization identity, but it is not supported"},
		{"an extension that must be known", scramSHA256, nil, "n,,m=x," + n, "", "client requires an unsupported SCRAM extension"},
		{"no user", scramSHA256, nil, "n,,r=x", "", `malformed SCRAM message: Expected attribute "n" but found "r".`},
		{"no nonce", scramSHA256, nil, "n,,n=", "", `malformed SCRAM message: Expected attribute "r" but found "0x00".`},
		{"half a nonce", scramSHA256, nil, "n,,n=,r", "", `malformed SCRAM message: Expected character "=" for attribute "r".`},
		{"a nonce of all sorts", scramSHA256, nil, "n,,n=,r=a b", "", "non-printable characters in SCRAM nonce"},
		{"an extension without a name", scramSHA256, nil, "n,," + n + ",1=x", "", `malformed SCRAM message: Attribute expected, but found invalid character "1".`},

		{"nothing at the end", scramSHA256, nil, rfcFirst, "", "malformed SCRAM message: The message is empty."},
		{"no binding", scramSHA256, nil, rfcFirst, "r=" + nonce, `malformed SCRAM message: Expected attribute "c" but found "r".`},
		{"no nonce at the end", scramSHA256, nil, rfcFirst, "c=biws", `malformed SCRAM message: Expected attribute "r" but found "0x00".`},
		{"no proof", scramSHA256, nil, rfcFirst, "c=biws,r=" + nonce, "malformed SCRAM message: Attribute expected, but found end of string."},
		{"a short proof", scramSHA256, nil, rfcFirst, "c=biws,r=" + nonce + ",p=dHzb", "malformed SCRAM message: Malformed proof in client-final-message."},
		{"a proof that is no base64", scramSHA256, nil, rfcFirst, "c=biws,r=" + nonce + ",p=?", "malformed SCRAM message: Malformed proof in client-final-message."},
		{"more at the end", scramSHA256, nil, rfcFirst, rfcFinal + ",x=y", "malformed SCRAM message: Garbage found at the end of client-final-message."},
		{"its own nonce alone", scramSHA256, nil, rfcFirst, prove(rfcFirst, "c=biws,r=rOprNGfwEbeRWgbNEkqO"), "invalid SCRAM response: Nonce does not match."},
		{"another nonce", scramSHA256, nil, rfcFirst, prove(rfcFirst, "c=biws,r=x"), "invalid SCRAM response: Nonce does not match."},
		{"a wrong proof", scramSHA256, nil, rfcFirst, strings.Replace(rfcFinal, "dHzb", "dHzc", 1), errNoProof.Error()},
		{"a proof of something else", scramSHA256, nil, "n,," + n, rfcFinal, errNoProof.Error()},
	} {
		for _, known := range []bool{true, false} {
			e := &exchange{verifier: verifier, known: known, sum: c.sum, nonce: rfcServerNonce}
			final := ""
			err := e.choose(c.mechanism)
			if err == nil {
				if _, err = e.first([]byte(c.first)); err == nil {
					final, err = e.final([]byte(c.final))
				}
			}
			want := c.want
			if want == "" && !known { // as if the proof were wrong
				want = errNoProof.Error()
			}
			if want == "" && (err != nil || !strings.HasPrefix(final, "v=")) || want != "" && (err == nil || final != "" || !strings.HasPrefix(err.Error(), want)) {
				t.Errorf("%s, known %v: %q, %v, want %s", c.reason, known, final, err, want)
			}
			if c.first == rfcFirst && known && err == nil && final != rfcServerFinal {
				t.Errorf("%s: %q, want %q", c.reason, final, rfcServerFinal)
			}
		}
	}
	e := &exchange{verifier: verifier, nonce: rfcServerNonce}
	if question, err := e.first([]byte(rfcFirst)); question != rfcServerFirst || err != nil {
		t.Errorf("%q, %v, want %q", question, err, rfcServerFirst)
	}
}

// Those who are no users get questions like those of users, always the same.
func TestMock(t *testing.T) {
	known := rawOptions(t).Verifier
	question := func(user string, lookup func(context.Context, string) (string, bool, error), iterations int) (salt string, rest string) {
		g := &guest{options: Options{Secret: []byte(testSecret), Verifier: lookup, Iterations: func() int { return iterations }}}
		g.session.User = user
		e, err := g.newExchange(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.known != (user == "alice") {
			t.Errorf("%s is known: %v", user, e.known)
		}
		if err := e.choose(scramSHA256); err != nil {
			t.Fatal(err)
		}
		text, err := e.first([]byte(rfcFirst))
		if err != nil {
			t.Fatal(err)
		}
		nonce, text, _ := strings.Cut(text, ",s=")
		salt, rest, _ = strings.Cut(text, ",")
		return salt, rest + " " + strings.Repeat("x", len(nonce))
	}
	alice, rest := question("alice", known, 64)
	for _, user := range []string{"eve", "eva", ""} {
		salt, restOfUser := question(user, known, 64)
		again, _ := question(user, known, 64)
		if salt != again || len(salt) != len(alice) || restOfUser != rest {
			t.Errorf("%q: salt %q, then %q; %q, of a user %q", user, salt, again, restOfUser, rest)
		}
	}
	eve, _ := question("eve", known, 64)
	eva, _ := question("eva", known, 64)
	hashed, _ := question("eve", func(context.Context, string) (string, bool, error) { return "md5x", true, nil }, 64)
	if eve == eva || eve != hashed {
		t.Errorf("salts %q, %q, %q", eve, eva, hashed)
	}
	if _, rest := question("eve", nil, 0); !strings.HasPrefix(rest, "i=4096 ") {
		t.Errorf("%q", rest)
	}
}

func TestNewVerifier(t *testing.T) {
	for _, c := range []struct {
		password   string
		iterations int
		prepared   string // empty is an error
		want       int
	}{
		{"secret", 0, "secret", 4096},
		{"secret", 10, "secret", 10},
		{"a\u00a0\u00adb\ufb01", 10, "a bfi", 10},
		{"\xe9", 10, "\xe9", 10},
		{"", 10, "", 0},
		{"secret", -1, "", 0},
	} {
		v, err := NewVerifier(c.password, c.iterations)
		if c.prepared == "" {
			if err == nil {
				t.Errorf("%q, %d: made", c.password, c.iterations)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, want := keys(t, c.prepared, v.Salt, c.want); v.Text() != want.Text() || len(v.Salt) != 16 {
			t.Errorf("%q: %s, want %s", c.password, v.Text(), want.Text())
		}
	}
}

// PostgreSQL takes the secrets that are made here, and what it makes is taken.
func TestVerifierOfServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Config{HBA: []string{"host all alice,bob 127.0.0.1/32 scram-sha-256"}})
	server.Exec(t, "CREATE ROLE bob LOGIN PASSWORD 'b\u00a0ob'")
	theirs, err := hba.ParseVerifier(server.Query(t, "SELECT rolpassword FROM pg_authid WHERE rolname = 'bob'"))
	if err != nil {
		t.Fatal(err)
	}
	if _, want := keys(t, "b ob", theirs.Salt, theirs.Iterations); theirs.Text() != want.Text() {
		t.Errorf("%s, want %s", theirs.Text(), want.Text())
	}
	ours, err := NewVerifier("a\u00a0lice", 0)
	if err != nil {
		t.Fatal(err)
	}
	server.Exec(t, "CREATE ROLE alice LOGIN PASSWORD '"+ours.Text()+"'")
	psql := pgtest.Command(t, server.Major, "psql", "-XAtwc", "SELECT current_user", server.TCPConnString()+" user=alice")
	psql.Env = append(psql.Env, "PGPASSWORD=a lice")
	if out, err := psql.CombinedOutput(); err != nil || string(out) != "alice\n" {
		t.Errorf("%v: %s", err, out)
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
		want      int // bytes
	}{
		{x509.SHA256WithRSA, rsaKey, 32}, {x509.SHA384WithRSA, rsaKey, 48}, {x509.SHA512WithRSA, rsaKey, 64},
		{x509.SHA512WithRSAPSS, rsaKey, 64}, {x509.PureEd25519, edKey, 0},
	} {
		form := &x509.Certificate{SerialNumber: big.NewInt(1), SignatureAlgorithm: c.algorithm}
		der, err := x509.CreateCertificate(rand.Reader, form, form, c.key.Public(), c.key)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if sum := endPoint(certificate); len(sum) != c.want {
			t.Errorf("%v: %d bytes, want %d", c.algorithm, len(sum), c.want)
		}
	}
}

func TestCommonName(t *testing.T) {
	name := func(values ...any) *x509.Certificate {
		c := new(x509.Certificate)
		c.Subject.Names = append(c.Subject.Names, pkix.AttributeTypeAndValue{Type: []int{2, 5, 4, 10}, Value: "organization"})
		for _, v := range values {
			c.Subject.Names = append(c.Subject.Names, pkix.AttributeTypeAndValue{Type: []int{2, 5, 4, 3}, Value: v})
		}
		return c
	}
	for _, c := range []struct {
		certificate *x509.Certificate
		want        string
	}{
		{name("alice"), "alice"}, {name("alice", "bob"), "alice"}, {name("alice\x00.example"), ""}, {name(7), ""}, {name(), ""},
	} {
		if got := commonName(c.certificate); got != c.want {
			t.Errorf("%v: %q, want %q", c.certificate.Subject, got, c.want)
		}
	}
}

func TestRefusalIsFound(t *testing.T) {
	err := refuse("28P01", "no").because("%w", errNoProof)
	var r *Refusal
	if !errors.As(err, &r) || r.SQLState() != "28P01" || err.Error() != "no: the client does not know the password" || !errors.Is(err, errNoProof) {
		t.Errorf("%v, %v", err, r)
	}
}
