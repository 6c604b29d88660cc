package accept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"basin/internal/hba"

	"github.com/jackc/pgx/v5/pgproto3"
)

// authenticate finds out whether the user is who it says it is, and tells it so.
//
// Source: ClientAuthentication in src/backend/libpq/auth.c, PostgreSQL 18.
func (g *guest) authenticate(ctx context.Context) error {
	s := &g.session
	var rules hba.Rules
	if g.options.Rules != nil {
		rules = g.options.Rules()
	}
	rule, ok := rules.Match(hba.Connection{
		Address: s.Address, TLS: s.TLS, Physical: s.Replication == Physical, Database: s.Database, User: s.User,
	})
	switch {
	case !ok:
		return g.refuseByRule("no pg_hba.conf entry for replication connection from host", "no pg_hba.conf entry for host")
	case rule.Method == hba.Reject:
		return g.refuseByRule("pg_hba.conf rejects replication connection for host", "pg_hba.conf rejects connection for host")
	}
	s.Method = rule.Method
	if rule.ClientCert != hba.ClientCertOff && !g.verified {
		if !g.authorities {
			return refuse(codeConfigFileError, "client certificates can only be checked if a root certificate store is available")
		}
		return refuse(codeInvalidAuthorization, "connection requires a valid client certificate")
	}
	var last []pgproto3.BackendMessage
	switch rule.Method {
	case hba.Trust, hba.Certificate:
	case hba.SCRAM:
		final, err := g.askPassword(ctx)
		if err != nil {
			return err
		}
		last = append(last, &pgproto3.AuthenticationSASLFinal{Data: []byte(final)})
	default:
		return fmt.Errorf("line %d of the rules has a method that is not known: %v", rule.Line, rule.Method)
	}
	if rule.ClientCert == hba.ClientCertFull && s.CertificateCN != s.User {
		if err := g.send(last...); err != nil {
			return err
		}
		return g.refuseUser(rule.Method).because("the client's certificate is in the name of %q", s.CertificateCN)
	}
	return g.send(append(last, &pgproto3.AuthenticationOk{})...)
}

// refuseByRule says that there is no rule that lets a connection in.
func (g *guest) refuseByRule(physical, other string) error {
	s := &g.session
	encryption := "no encryption"
	if s.TLS {
		encryption = "SSL encryption"
	}
	host := "[local]"
	if s.Address.IsValid() {
		host = s.Address.String()
	}
	if s.Replication == Physical {
		return refuse(codeInvalidAuthorization, `%s "%s", user "%s", %s`, physical, host, s.User, encryption)
	}
	return refuse(codeInvalidAuthorization, `%s "%s", user "%s", database "%s", %s`, other, host, s.User, s.Database, encryption)
}

// refuseUser says that a user has not proved who it is, and not why.
//
// Source: auth_failed in src/backend/libpq/auth.c, PostgreSQL 18.
func (g *guest) refuseUser(m hba.Method) *Refusal {
	switch m {
	case hba.SCRAM:
		return refuse(codeInvalidPassword, `password authentication failed for user "%s"`, g.session.User)
	case hba.Trust:
		return refuse(codeInvalidAuthorization, `"trust" authentication failed for user "%s"`, g.session.User)
	}
	return refuse(codeInvalidAuthorization, `certificate authentication failed for user "%s"`, g.session.User)
}

// maxSASL is the most bytes of a message about a password, without its length.
//
// Source: PG_MAX_SASL_MESSAGE_LENGTH in src/backend/libpq/auth-scram.c, PostgreSQL 18.
const maxSASL = 1024

// askPassword has a client prove that it knows the user's password, and returns
// what then proves to the client that the server knew it too.
//
// Source: CheckSASLAuth in src/backend/libpq/auth-sasl.c, PostgreSQL 18.
func (g *guest) askPassword(ctx context.Context) (final string, err error) {
	e, err := g.newExchange(ctx)
	if err != nil {
		return "", err
	}
	mechanisms := []string{scramSHA256}
	if e.canBind() {
		mechanisms = []string{scramSHA256Plus, scramSHA256}
	}
	if err := g.send(&pgproto3.AuthenticationSASL{AuthMechanisms: mechanisms}); err != nil {
		return "", err
	}
	response, err := g.readResponse()
	if err != nil {
		return "", err
	}
	mechanism, first, isFirst, err := splitInitial(response)
	if err != nil {
		return "", err
	}
	if err := e.choose(mechanism); err != nil {
		return "", err
	}
	if !isFirst { // it wants to be asked
		if first, err = g.challenge(""); err != nil {
			return "", err
		}
	}
	question, err := e.first(first)
	if err != nil {
		return "", err
	}
	proof, err := g.challenge(question)
	if err != nil {
		return "", err
	}
	final, err = e.final(proof)
	if errors.Is(err, errNoProof) {
		return "", g.refuseUser(hba.SCRAM).because("%w", e.reason)
	}
	return final, err
}

// challenge sends the client a message of SASL and returns its answer.
func (g *guest) challenge(data string) (answer []byte, err error) {
	if err := g.send(&pgproto3.AuthenticationSASLContinue{Data: []byte(data)}); err != nil {
		return nil, err
	}
	return g.readResponse()
}

// readResponse reads one message of the client about its password.
func (g *guest) readResponse() ([]byte, error) {
	var head [5]byte
	if err := g.read(head[:1]); err != nil {
		return nil, fmt.Errorf("the client left when it was asked for a password: %w", err)
	}
	if head[0] != 'p' {
		return nil, refuse(codeProtocolViolation, "expected SASL response, got message type %d", head[0])
	}
	if err := g.read(head[1:]); err != nil {
		return nil, fmt.Errorf("incomplete message: %w", unexpected(err))
	}
	length := int64(binary.BigEndian.Uint32(head[1:])) - 4
	if length < 0 || length > maxSASL {
		return nil, refuse(codeProtocolViolation, "invalid message length")
	}
	body := make([]byte, length)
	if err := g.read(body); err != nil {
		return nil, fmt.Errorf("incomplete message: %w", unexpected(err))
	}
	return body, nil
}

// splitInitial returns the mechanism of SASL that a client has chosen and its
// first message, which it may leave for later.
func splitInitial(body []byte) (mechanism string, first []byte, isFirst bool, err error) {
	invalid := refuse(codeProtocolViolation, "invalid message format")
	for i, b := range body {
		if b == 0 {
			mechanism, body = string(body[:i]), body[i+1:]
			isFirst = true
			break
		}
	}
	if !isFirst || len(body) < 4 {
		return "", nil, false, invalid
	}
	length, body := int32(binary.BigEndian.Uint32(body)), body[4:]
	switch {
	case length == -1 && len(body) == 0:
		return mechanism, nil, false, nil
	case int(length) != len(body):
		return "", nil, false, invalid
	}
	return mechanism, body, true, nil
}
