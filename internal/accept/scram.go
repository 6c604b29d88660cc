package accept

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"basin/internal/hba"
)

// The mechanisms of SASL that are known here. The second binds the exchange to
// the channel: it fails if client and server are not the ends of one TLS
// connection.
//
// Source: src/include/common/scram-common.h, PostgreSQL 18.
const (
	scramSHA256     = "SCRAM-SHA-256"
	scramSHA256Plus = "SCRAM-SHA-256-PLUS"
	bindingType     = "tls-server-end-point"
	nonceSize       = 18 // bytes, SCRAM_RAW_NONCE_LEN
)

// exchange is the server's side of one: it reads two messages of the client and
// answers each, by RFC 5802 and RFC 7677. It goes the same way for those who
// are no users, to its end, and makes the same computations.
//
// Source: src/backend/libpq/auth-scram.c, PostgreSQL 18.
type exchange struct {
	verifier hba.Verifier
	known    bool   // whose verifier it is; else it was made up, and nobody's proof counts
	reason   error  // why there is no proof, for the log
	sum      []byte // of the server's certificate; nil is none to bind by
	nonce    string // ours

	bound  bool   // the client has chosen to bind
	header string // of GS2: what the client thinks of channel binding
	both   string // nonces
	said   string // by both so far, as it is signed
}

// errNoProof is the answer to a proof that is none.
var errNoProof = errors.New("the client does not know the password")

// newNonce returns one of the server's.
func newNonce() (string, error) {
	b := make([]byte, nonceSize)
	_, err := rand.Read(b)
	return base64.StdEncoding.EncodeToString(b), err
}

// canBind tells whether the channel could be bound.
func (e *exchange) canBind() bool { return e.sum != nil }

// choose takes the mechanism that the client has chosen.
//
// Source: scram_init in src/backend/libpq/auth-scram.c, PostgreSQL 18.
func (e *exchange) choose(mechanism string) error {
	switch {
	case mechanism == scramSHA256:
	case mechanism == scramSHA256Plus && e.canBind():
		e.bound = true
	default:
		return refuse(codeProtocolViolation, "client selected an invalid SASL authentication mechanism")
	}
	return nil
}

// first takes the client's first message and returns the question in answer.
//
// Source: read_client_first_message and build_server_first_message in
// src/backend/libpq/auth-scram.c, PostgreSQL 18.
func (e *exchange) first(message []byte) (question string, err error) {
	rest, err := checkMessage(message)
	if err != nil {
		return "", err
	}
	if rest, err = e.readHeader(rest); err != nil {
		return "", err
	}
	e.said = rest
	if strings.HasPrefix(rest, "m") {
		return "", refuse(codeFeatureNotSupported, "client requires an unsupported SCRAM extension")
	}
	if _, err = takeValue(&rest, 'n'); err != nil { // the user's name is in the startup packet
		return "", err
	}
	nonce, err := takeValue(&rest, 'r')
	if err != nil {
		return "", err
	}
	for _, b := range []byte(nonce) {
		if b < 0x21 || b > 0x7e {
			return "", refuse(codeProtocolViolation, "non-printable characters in SCRAM nonce")
		}
	}
	for rest != "" { // extensions that need not be known
		if _, _, err := takeAny(&rest); err != nil {
			return "", err
		}
	}
	e.both = nonce + e.nonce
	question = "r=" + e.both + ",s=" + base64.StdEncoding.EncodeToString(e.verifier.Salt) + ",i=" + strconv.Itoa(e.verifier.Iterations)
	e.said += "," + question
	return question, nil
}

// readHeader takes what a client thinks of channel binding from the front of
// its first message. One that could bind, and thinks that the server cannot,
// has been lied to: somebody between the two has cut the better mechanism from
// the list.
func (e *exchange) readHeader(message string) (rest string, err error) {
	rest = message
	switch message[0] {
	case 'n', 'y':
		if e.bound {
			return "", malformed("The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.")
		}
		if message[0] == 'y' && e.canBind() {
			r := refuse(codeInvalidAuthorization, "SCRAM channel binding negotiation error")
			r.Detail = "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding."
			return "", r
		}
		if rest = message[1:]; !strings.HasPrefix(rest, ",") {
			return "", malformed("Comma expected, but found character \"%s\".", character(rest))
		}
		rest = rest[1:]
	case 'p':
		if !e.bound {
			return "", malformed("The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.")
		}
		kind, err := takeValue(&rest, 'p')
		if err != nil {
			return "", err
		}
		if kind != bindingType {
			return "", refuse(codeProtocolViolation, "unsupported SCRAM channel-binding type \"%s\"", printable(kind))
		}
	default:
		return "", malformed("Unexpected channel-binding flag \"%s\".", character(message))
	}
	if strings.HasPrefix(rest, "a") {
		return "", refuse(codeFeatureNotSupported, "client uses authorization identity, but it is not supported")
	}
	if !strings.HasPrefix(rest, ",") {
		return "", malformed("Unexpected attribute \"%s\" in client-first-message.", character(rest))
	}
	rest = rest[1:]
	e.header = message[:len(message)-len(rest)]
	return rest, nil
}

// final takes the client's last message, and returns what proves to the client
// that the server knows the password too. errNoProof is a client that does not.
//
// Source: read_client_final_message and build_server_final_message in
// src/backend/libpq/auth-scram.c, PostgreSQL 18.
func (e *exchange) final(message []byte) (answer string, err error) {
	text, err := checkMessage(message)
	if err != nil {
		return "", err
	}
	rest := text
	binding, err := takeValue(&rest, 'c')
	if err != nil {
		return "", err
	}
	bound := []byte(e.header)
	if e.bound {
		bound = append(bound, e.sum...)
	}
	if binding != base64.StdEncoding.EncodeToString(bound) {
		if e.bound {
			return "", refuse(codeInvalidAuthorization, "SCRAM channel binding check failed")
		}
		return "", refuse(codeProtocolViolation, "unexpected SCRAM channel-binding attribute in client-final-message")
	}
	nonce, err := takeValue(&rest, 'r')
	if err != nil {
		return "", err
	}
	signed, proof := "", ""
	for attribute := byte(0); attribute != 'p'; { // extensions that need not be known
		signed = strings.TrimSuffix(text[:len(text)-len(rest)], ",")
		if attribute, proof, err = takeAny(&rest); err != nil {
			return "", err
		}
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(proof)
	if err != nil || len(decoded) != sha256.Size {
		return "", malformed("Malformed proof in client-final-message.")
	}
	if rest != "" {
		return "", malformed("Garbage found at the end of client-final-message.")
	}
	if subtle.ConstantTimeCompare([]byte(nonce), []byte(e.both)) != 1 {
		r := refuse(codeProtocolViolation, "invalid SCRAM response")
		r.Detail = "Nonce does not match."
		return "", r
	}
	e.said += "," + signed
	if !e.verify(decoded) {
		return "", errNoProof
	}
	return "v=" + base64.StdEncoding.EncodeToString(sign(e.verifier.ServerKey[:], e.said)), nil
}

// verify checks a client's proof. What it computes does not depend on whether
// there is such a user.
//
// Source: verify_client_proof in src/backend/libpq/auth-scram.c, PostgreSQL 18.
func (e *exchange) verify(proof []byte) bool {
	clientKey := make([]byte, sha256.Size)
	subtle.XORBytes(clientKey, proof, sign(e.verifier.StoredKey[:], e.said))
	storedKey := sha256.Sum256(clientKey)
	known := 0
	if e.known {
		known = 1
	}
	return subtle.ConstantTimeCompare(storedKey[:], e.verifier.StoredKey[:])&known == 1
}

func sign(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// malformed says what is wrong with a client's message. The detail is as for
// fmt.Sprintf.
func malformed(detail string, args ...any) error {
	r := refuse(codeProtocolViolation, "malformed SCRAM message")
	r.Detail = fmt.Sprintf(detail, args...)
	return r
}

// checkMessage returns a message as a text, which is not empty.
func checkMessage(message []byte) (string, error) {
	switch {
	case len(message) == 0:
		return "", malformed("The message is empty.")
	case bytes.IndexByte(message, 0) >= 0:
		return "", malformed("Message length does not match input length.")
	}
	return string(message), nil
}

// takeValue takes an attribute, such as r=value, and the comma after it from
// the front of a message.
//
// Source: read_attr_value in src/backend/libpq/auth-scram.c, PostgreSQL 18.
func takeValue(message *string, attribute byte) (string, error) {
	rest := *message
	if rest == "" || rest[0] != attribute {
		return "", malformed("Expected attribute \"%c\" but found \"%s\".", attribute, character(rest))
	}
	if len(rest) < 2 || rest[1] != '=' {
		return "", malformed("Expected character \"=\" for attribute \"%c\".", attribute)
	}
	value, rest, _ := strings.Cut(rest[2:], ",")
	*message = rest
	return value, nil
}

// takeAny takes any attribute from the front of a message.
//
// Source: read_any_attr in src/backend/libpq/auth-scram.c, PostgreSQL 18.
func takeAny(message *string) (attribute byte, value string, err error) {
	rest := *message
	if rest == "" {
		return 0, "", malformed("Attribute expected, but found end of string.")
	}
	if letter := rest[0] | 0x20; letter < 'a' || letter > 'z' {
		return 0, "", malformed("Attribute expected, but found invalid character \"%s\".", character(rest))
	}
	attribute = rest[0]
	value, err = takeValue(message, attribute)
	return attribute, value, err
}

// character returns the first of a text in a form that can be printed.
//
// Source: sanitize_char in src/backend/libpq/auth-scram.c, PostgreSQL 18.
func character(text string) string {
	switch {
	case text == "":
		return "0x00"
	case text[0] >= 0x21 && text[0] <= 0x7e:
		return text[:1]
	}
	return fmt.Sprintf("0x%02x", text[0])
}

// printable returns a text in a form that can be printed, cut if it is long.
//
// Source: sanitize_str in src/backend/libpq/auth-scram.c, PostgreSQL 18.
func printable(text string) string {
	b := []byte(text[:min(len(text), 30)])
	for i, c := range b {
		if c < 0x21 || c > 0x7e {
			b[i] = '?'
		}
	}
	return string(b)
}
