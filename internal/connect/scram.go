package connect

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	_ "crypto/sha512" // for certificates that are signed with it
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"basin/internal/usererr"

	"github.com/xdg-go/stringprep"
)

// The mechanisms of SASL that are known here. The second binds the exchange to
// the channel: it fails if client and server are not the ends of one TLS
// connection.
//
// Source: src/include/common/scram-common.h, PostgreSQL 18.
const (
	scramSHA256     = "SCRAM-SHA-256"
	scramSHA256Plus = "SCRAM-SHA-256-PLUS"
)

// scram is the client's side of one exchange: three messages of ours and two
// of the server's, by RFC 5802 and RFC 7677.
//
// Source: src/interfaces/libpq/fe-auth-scram.c, PostgreSQL 18.
type scram struct {
	password string
	nonce    string // ours
	user     string // empty: the server knows it from the startup packet
	header   string // of GS2: what the client thinks of channel binding
	binding  []byte // hash of the server's certificate, if the header binds

	step      scramStep
	said      string // by both so far, as it is signed
	salted    []byte // the password
	signature []byte // the server's own, to be
}

// scramStep is the message that an exchange waits for.
type scramStep int

const (
	scramServerFirst scramStep = iota
	scramServerFinal
	scramDone
)

// The three headers of GS2. The second one says that the client could bind but
// that the server seems not to know how. A server that knows will refuse it:
// somebody between the two has cut the better mechanism from its list.
const (
	gs2Bound    = "p=tls-server-end-point,,"
	gs2Could    = "y,,"
	gs2CouldNot = "n,,"
)

// first returns the client's first message.
func (s *scram) first() string {
	s.said = "n=" + s.user + ",r=" + s.nonce
	return s.header + s.said
}

// next takes the server's message and returns the client's answer to it; the
// second one is not answered. A server that does not know the password is an
// error.
func (s *scram) next(ctx context.Context, challenge []byte) (answer string, err error) {
	switch {
	case len(challenge) == 0:
		return "", errors.New("malformed SCRAM message (empty message)")
	case bytes.IndexByte(challenge, 0) >= 0:
		return "", errors.New("malformed SCRAM message (length mismatch)")
	}
	switch s.step {
	case scramServerFirst:
		s.step = scramServerFinal
		return s.prove(ctx, string(challenge))
	case scramServerFinal:
		s.step = scramDone
		return "", s.verify(string(challenge))
	}
	return "", errors.New("invalid SCRAM exchange state")
}

// prove answers the server's first message: r=nonce,s=salt,i=iterations.
func (s *scram) prove(ctx context.Context, challenge string) (string, error) {
	rest := challenge
	nonce, err := scramValue(&rest, 'r')
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(nonce, s.nonce) {
		return "", errors.New("invalid SCRAM response (nonce mismatch)")
	}
	encodedSalt, err := scramValue(&rest, 's')
	if err != nil {
		return "", err
	}
	salt, err := base64.StdEncoding.Strict().DecodeString(encodedSalt)
	if err != nil {
		return "", errors.New("malformed SCRAM message (invalid salt)")
	}
	count, err := scramValue(&rest, 'i')
	if err != nil {
		return "", err
	}
	iterations, err := strconv.Atoi(count)
	if err != nil || iterations < 1 || iterations > math.MaxInt32 {
		return "", errors.New("malformed SCRAM message (invalid iteration count)")
	}
	if rest != "" {
		return "", errors.New("malformed SCRAM message (garbage at end of server-first-message)")
	}
	if s.salted, err = saltPassword(ctx, s.password, salt, iterations); err != nil {
		return "", err
	}
	bound := append([]byte(s.header), s.binding...)
	final := "c=" + base64.StdEncoding.EncodeToString(bound) + ",r=" + nonce
	s.said += "," + challenge + "," + final

	clientKey := sign(s.salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	proof := make([]byte, len(clientKey))
	subtle.XORBytes(proof, clientKey, sign(storedKey[:], s.said))
	s.signature = sign(sign(s.salted, "Server Key"), s.said)
	return final + ",p=" + base64.StdEncoding.EncodeToString(proof), nil
}

// verify looks at the server's last message: v=signature, or e=error.
func (s *scram) verify(outcome string) error {
	rest := outcome
	if strings.HasPrefix(outcome, "e") {
		text, err := scramValue(&rest, 'e')
		if err != nil {
			return err
		}
		return fmt.Errorf("error received from server in SCRAM exchange: %s", text)
	}
	encoded, err := scramValue(&rest, 'v')
	if err != nil {
		return err
	}
	if rest != "" {
		return errors.New("malformed SCRAM message (garbage at end of server-final-message)")
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(signature) != sha256.Size {
		return errors.New("malformed SCRAM message (invalid server signature)")
	}
	if !hmac.Equal(signature, s.signature) {
		return errors.New("incorrect server signature")
	}
	return nil
}

// scramValue takes an attribute, such as r=value, and the comma after it from
// the front of a message.
//
// Source: read_attr_value in src/interfaces/libpq/fe-auth-scram.c, PostgreSQL 18.
func scramValue(message *string, attribute byte) (string, error) {
	rest := *message
	if rest == "" || rest[0] != attribute {
		return "", fmt.Errorf("malformed SCRAM message (attribute \"%c\" expected)", attribute)
	}
	if len(rest) < 2 || rest[1] != '=' {
		return "", fmt.Errorf("malformed SCRAM message (expected character \"=\" for attribute \"%c\")", attribute)
	}
	value, rest, _ := strings.Cut(rest[2:], ",")
	*message = rest
	return value, nil
}

func sign(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// saltPassword is Hi() of RFC 5802, which is PBKDF2 for one block. The number
// of iterations is the server's to choose, and it may choose hours: the end of
// ctx ends it, as crypto/pbkdf2 would not.
func saltPassword(ctx context.Context, password string, salt []byte, iterations int) ([]byte, error) {
	const between = 4096 // iterations; about a millisecond
	h := hmac.New(sha256.New, []byte(preparePassword(password)))
	h.Write(salt)
	h.Write([]byte{0, 0, 0, 1})
	last := h.Sum(nil)
	sum := bytes.Clone(last)
	for i := 1; i < iterations; i++ {
		if i%between == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		h.Reset()
		h.Write(last)
		last = h.Sum(last[:0])
		subtle.XORBytes(sum, sum, last)
	}
	return sum, nil
}

// preparePassword brings a password to the form that the server keeps. One
// that has no such form, since it is not UTF-8 or has characters that are not
// allowed, is taken as it is.
//
// Source: scram_init in src/interfaces/libpq/fe-auth-scram.c and pg_saslprep
// in src/common/saslprep.c, PostgreSQL 18.
func preparePassword(password string) string {
	profile := stringprep.SASLprep
	// U+200B is in both tables. PostgreSQL makes a space of it.
	profile.Mappings = []stringprep.Mapping{profile.Mappings[1], profile.Mappings[0]}
	prepared, err := profile.Prepare(password)
	if err != nil || prepared == "" {
		return password
	}
	return prepared
}

// endPoint returns the hash of a server's certificate that a channel is bound
// by: tls-server-end-point of RFC 5929.
//
// Source: pgtls_get_peer_certificate_hash in
// src/interfaces/libpq/fe-secure-openssl.c, PostgreSQL 18.
func endPoint(certificate *x509.Certificate) ([]byte, error) {
	var hash crypto.Hash
	switch certificate.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1,
		x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256, x509.DSAWithSHA256:
		hash = crypto.SHA256
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	default:
		return nil, usererr.Hinted("log in without channel binding: channel_binding=disable",
			"could not determine server certificate signature algorithm")
	}
	h := hash.New()
	h.Write(certificate.Raw)
	return h.Sum(nil), nil
}
