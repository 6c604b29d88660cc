package connect

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// errNoPassword is libpq's text for it, which is known to everybody.
//
// Source: PQnoPasswordSupplied in src/interfaces/libpq/libpq-fe.h, PostgreSQL 18.
var errNoPassword = errors.New("fe_sendauth: no password supplied")

// authentication is what a server asks for.
//
// Source: AUTH_REQ_OK and the others in src/include/libpq/protocol.h, PostgreSQL 18.
type authentication uint32

const (
	authOK           authentication = 0
	authKerberos4    authentication = 1
	authKerberos5    authentication = 2
	authPassword     authentication = 3
	authCrypt        authentication = 4
	authMD5          authentication = 5
	authGSS          authentication = 7
	authGSSContinue  authentication = 8
	authSSPI         authentication = 9
	authSASL         authentication = 10
	authSASLContinue authentication = 11
	authSASLFinal    authentication = 12
)

// authenticate answers a request that checkExpected has let pass.
//
// Source: pg_fe_sendauth in src/interfaces/libpq/fe-auth.c, PostgreSQL 18.
func (l *login) authenticate(ctx context.Context, method authentication, body []byte) error {
	switch method {
	case authOK:
		if l.scram != nil && !l.answered {
			// libpq lets this pass. But the server knows by now what is needed
			// to try passwords, and has not shown that it knew one.
			return errors.New("server did not complete authentication")
		}
		l.accepted = true
		return nil
	case authPassword, authMD5:
		return l.answerPassword(method, body)
	case authSASL:
		return l.beginSASL(body)
	case authSASLContinue, authSASLFinal:
		return l.continueSASL(ctx, method, body)
	case authKerberos4:
		//lint:ignore ST1005 libpq's words
		return errors.New("Kerberos 4 authentication not supported")
	case authKerberos5:
		//lint:ignore ST1005 libpq's words
		return errors.New("Kerberos 5 authentication not supported")
	case authCrypt:
		//lint:ignore ST1005 libpq's words
		return errors.New("Crypt authentication not supported")
	case authGSS, authGSSContinue:
		return errors.New("GSSAPI authentication not supported")
	case authSSPI:
		return errors.New("SSPI authentication not supported")
	}
	return fmt.Errorf("authentication method %d not supported", method)
}

// answerPassword sends the password, in the clear or hashed. Where there is
// none it ends the attempt, so that the user can be asked; an empty one would
// leave a failed login in the server's log.
func (l *login) answerPassword(method authentication, salt []byte) error {
	l.asked = true
	if l.password == "" {
		return errNoPassword
	}
	password := l.password
	if method == authMD5 {
		if len(salt) < 4 {
			return errors.New("fe_sendauth: error sending password authentication")
		}
		password = "md5" + hashMD5(hashMD5(l.password, []byte(l.user)), salt[:4])
	}
	l.say(append([]byte(password), 0))
	l.answered = true // no further request is expected
	return nil
}

// Source: pg_md5_encrypt in src/common/md5_common.c, PostgreSQL 18.
func hashMD5(text string, salt []byte) string {
	sum := md5.Sum(append([]byte(text), salt...))
	return hex.EncodeToString(sum[:])
}

// say sends the one kind of message that answers a request.
//
// Source: PqMsg_PasswordMessage, PqMsg_SASLInitialResponse and
// PqMsg_SASLResponse in src/include/libpq/protocol.h, PostgreSQL 18.
func (l *login) say(body []byte) {
	message := binary.BigEndian.AppendUint32([]byte{'p'}, uint32(4+len(body)))
	l.send(append(message, body...))
}

// beginSASL chooses from the mechanisms that the server names.
//
// Source: pg_SASL_init in src/interfaces/libpq/fe-auth.c, PostgreSQL 18.
func (l *login) beginSASL(list []byte) error {
	if l.channelBinding == "require" && l.certificate == nil {
		return errors.New("channel binding required, but SSL not in use")
	}
	if l.scram != nil {
		return errors.New("duplicate SASL authentication request")
	}
	mechanism, err := l.chooseMechanism(list)
	if err != nil {
		return err
	}
	if !l.requireAuth.allows("scram-sha-256") {
		return fmt.Errorf("authentication method requirement \"%s\" failed: server requested %s authentication", l.requireAuth, mechanism)
	}
	if l.channelBinding == "require" && mechanism != scramSHA256Plus {
		return errors.New("channel binding is required, but server did not offer an authentication method that supports channel binding")
	}
	l.asked = true
	if l.password == "" {
		return errNoPassword
	}
	exchange := &scram{password: l.password, nonce: l.nonce, header: gs2CouldNot}
	switch {
	case mechanism == scramSHA256Plus:
		exchange.header = gs2Bound
		if exchange.binding, err = endPoint(l.certificate); err != nil {
			return err
		}
	case l.certificate != nil && l.channelBinding != "disable":
		exchange.header = gs2Could
	}
	l.scram = exchange
	first := exchange.first()
	answer := append([]byte(mechanism), 0)
	answer = binary.BigEndian.AppendUint32(answer, uint32(len(first)))
	l.say(append(answer, first...))
	return nil
}

// chooseMechanism takes the best mechanism of a list of strings, each with a
// zero byte behind it, the last one empty.
func (l *login) chooseMechanism(list []byte) (chosen string, err error) {
	for {
		name, rest, ok := bytes.Cut(list, []byte{0})
		if !ok {
			return "", errors.New("fe_sendauth: invalid authentication request from server: invalid list of authentication mechanisms")
		}
		list = rest
		switch string(name) {
		case scramSHA256Plus:
			if l.certificate == nil {
				// Somebody between us and the server may have taken the TLS away.
				return "", errors.New("server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection")
			}
			if l.channelBinding != "disable" {
				chosen = scramSHA256Plus
			}
		case scramSHA256:
			if chosen == "" {
				chosen = scramSHA256
			}
		case "":
			if chosen == "" {
				return "", errors.New("none of the server's SASL authentication mechanisms are supported")
			}
			return chosen, nil
		}
	}
}

// continueSASL takes a message of an exchange that has begun.
//
// Source: pg_SASL_continue in src/interfaces/libpq/fe-auth.c, PostgreSQL 18.
func (l *login) continueSASL(ctx context.Context, method authentication, challenge []byte) error {
	if l.scram == nil {
		return errors.New("fe_sendauth: invalid authentication request from server: AUTH_REQ_SASL_CONT without AUTH_REQ_SASL")
	}
	answer, err := l.scram.next(ctx, challenge)
	switch {
	case err != nil:
		return err
	case l.scram.step == scramDone:
		l.answered = true
		return nil
	case method == authSASLFinal:
		return errors.New("AuthenticationSASLFinal received from server, but SASL authentication was not completed")
	}
	l.say([]byte(answer))
	return nil
}

// bound says whether the server has proved to be the other end of this very
// TLS connection.
func (l *login) bound() bool {
	return l.scram != nil && l.scram.header == gs2Bound && l.scram.step == scramDone
}

// checkExpected refuses a request that the user does not want answered, and a
// welcome that came too easily.
//
// Source: check_expected_areq in src/interfaces/libpq/fe-auth.c, PostgreSQL 18.
func (l *login) checkExpected(method authentication) error {
	var allowed bool
	var reason string
	switch method {
	case authOK:
		allowed, reason = l.answered || l.requireAuth.allows("none"), "server did not complete authentication"
	case authPassword:
		allowed, reason = l.requireAuth.allows("password"), "server requested a cleartext password"
	case authMD5:
		allowed, reason = l.requireAuth.allows("md5"), "server requested a hashed password"
	case authGSS:
		allowed, reason = l.requireAuth.allows("gss"), "server requested GSSAPI authentication"
	case authGSSContinue:
		allowed, reason = l.requireAuth.allows("gss") || l.requireAuth.allows("sspi"), "server requested GSSAPI authentication"
	case authSSPI:
		allowed, reason = l.requireAuth.allows("sspi"), "server requested SSPI authentication"
	case authSASL, authSASLContinue, authSASLFinal:
		allowed = l.requireAuth.allows("scram-sha-256") || l.requireAuth.allows("oauth")
		reason = "server requested SASL authentication"
	default:
		allowed, reason = l.requireAuth == "", "server requested an unknown authentication type"
	}
	if !allowed {
		return fmt.Errorf("authentication method requirement \"%s\" failed: %s", l.requireAuth, reason)
	}
	if l.channelBinding != "require" {
		return nil
	}
	switch method {
	case authSASL, authSASLContinue, authSASLFinal:
	case authOK:
		if !l.bound() {
			return errors.New("channel binding required, but server authenticated client without channel binding")
		}
	default:
		return errors.New("channel binding required but not supported by server's authentication request")
	}
	return nil
}

// requirement is the value of require_auth: a list of methods that the server
// may ask for, or of methods with a ! that it may not. Empty allows all.
type requirement string

func (r requirement) allows(method string) bool {
	if r == "" {
		return true
	}
	list := strings.Split(string(r), ",")
	if strings.HasPrefix(list[0], "!") { // then all have one
		return !slices.Contains(list, "!"+method)
	}
	return slices.Contains(list, method)
}
