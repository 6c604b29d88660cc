package connect

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// login is one startup exchange: from the startup packet to the first
// ReadyForQuery, by which the server is idle and the connection ours.
//
// Source: CONNECTION_AWAITING_RESPONSE and CONNECTION_AUTH_OK in PQconnectPoll
// in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
type login struct {
	wire
	user           string
	password       string // empty is none
	nonce          string // for SCRAM
	certificate    *x509.Certificate
	channelBinding string // disable, prefer or require
	requireAuth    requirement
	oldest, newest protocolVersion
	logical        bool // the connection is for logical replication

	negotiated bool
	asked      bool   // the server wants a password
	answered   bool   // it has all that it asked for, and proved what it has to
	accepted   bool   // it is content
	scram      *scram // nil until it is asked for
	backend    backend
}

// backend is the other end of a connection that is idle.
type backend struct {
	wire
	pid      uint32
	secret   []byte            // to cancel with
	settings map[string]string // those that the server reports
}

// protocolVersion is a version of the protocol as the packets have it.
//
// Source: PG_PROTOCOL in src/include/libpq/pqcomm.h, PostgreSQL 18.
type protocolVersion uint32

const (
	protocol30 protocolVersion = 3 << 16
	protocol31 protocolVersion = 3<<16 | 1 // never existed
	protocol32 protocolVersion = 3<<16 | 2
)

func (v protocolVersion) String() string { return fmt.Sprintf("%d.%d", v>>16, v&0xffff) }

// parameter is one of the startup packet.
type parameter struct{ name, value string }

// startupPacket is the first thing a client says.
//
// Source: build_startup_packet in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func startupPacket(v protocolVersion, parameters []parameter) []byte {
	packet := make([]byte, 4)
	packet = binary.BigEndian.AppendUint32(packet, uint32(v))
	for _, p := range parameters {
		packet = append(append(packet, p.name...), 0)
		packet = append(append(packet, p.value...), 0)
	}
	packet = append(packet, 0)
	binary.BigEndian.PutUint32(packet, uint32(len(packet)))
	return packet
}

// run makes the exchange. The end of ctx ends what takes long here; that it
// also ends a read is up to the caller.
func (l *login) run(ctx context.Context, parameters []parameter) error {
	if l.nonce == "" {
		l.nonce = rand.Text()
	}
	l.send(startupPacket(l.newest, parameters))
	for !l.accepted {
		if err := l.request(ctx); err != nil {
			return err
		}
	}
	return l.settle()
}

// request reads what the server wants first, and answers.
func (l *login) request(ctx context.Context) error {
	kind, length, err := l.header()
	if err != nil {
		return err
	}
	longest, invalid := int64(longestRequest), ""
	switch kind {
	case 'R':
		invalid = "received invalid authentication request"
	case 'v':
		invalid = "received invalid protocol negotiation message"
	case 'E':
		longest = longestRefusal
	default:
		return fmt.Errorf("expected authentication request from server, but received %c", kind)
	}
	if length < 8 || length > longest {
		if kind == 'E' {
			return l.oldError(uint32(length))
		}
		return errors.New(invalid)
	}
	body, err := l.body(length)
	if err != nil {
		return err
	}
	switch kind {
	case 'E':
		return decodeError(body)
	case 'v':
		return l.negotiate(body)
	}
	method := authentication(binary.BigEndian.Uint32(body))
	if err := l.checkExpected(method); err != nil {
		return err
	}
	return l.authenticate(ctx, method, body[4:])
}

// oldError reads an error in the form of protocol 2, a text that ends with a
// zero byte. What was taken for its length is its beginning. A server says it
// like that if it cannot start a process for the connection.
//
// Source: report_fork_failure_to_client in src/backend/postmaster/postmaster.c, PostgreSQL 18.
func (l *login) oldError(beginning uint32) error {
	text := binary.BigEndian.AppendUint32(nil, beginning)
	for len(text) < longestRefusal && bytes.IndexByte(text, 0) < 0 {
		var b [1]byte
		if _, err := l.read(b[:]); err != nil {
			return err
		}
		text = append(text, b[0])
	}
	said, _, ended := strings.Cut(string(text), "\x00")
	if !ended || said == "" {
		return errors.New("received invalid error message")
	}
	return errors.New(strings.TrimSuffix(said, "\n"))
}

// negotiate takes the version that the server offers in place of ours.
//
// Source: pqGetNegotiateProtocolVersion3 in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func (l *login) negotiate(body []byte) error {
	if l.negotiated {
		return errors.New("received duplicate protocol negotiation message")
	}
	l.negotiated = true
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("received invalid protocol negotiation message: "+format, args...)
	}
	if len(body) < 8 {
		return invalid("message too short")
	}
	theirs, unsupported := protocolVersion(binary.BigEndian.Uint32(body)), int32(binary.BigEndian.Uint32(body[4:]))
	switch {
	case theirs > l.newest:
		return invalid("server requested downgrade to a higher-numbered version")
	case theirs < protocol30:
		return invalid("server requested downgrade to pre-3.0 protocol version")
	case theirs == protocol31:
		return invalid("server requested downgrade to non-existent 3.1 protocol version")
	case unsupported < 0:
		return invalid("server reported negative number of unsupported parameters")
	case theirs == l.newest && unsupported == 0:
		return invalid("server negotiated but asks for no changes")
	case theirs < l.oldest:
		return fmt.Errorf("server only supports protocol version %v, but \"min_protocol_version\" was set to %v", theirs, l.oldest)
	}
	l.newest = theirs
	if unsupported == 0 {
		return nil
	}
	// No extension was asked for, so none can be missing.
	name, _, ok := bytes.Cut(body[8:], []byte{0})
	switch {
	case !ok:
		return invalid("message too short")
	case !bytes.HasPrefix(name, []byte("_pq_.")):
		return invalid("server reported unsupported parameter name without a \"_pq_.\" prefix (\"%s\")", name)
	}
	return invalid("server reported an unsupported parameter that was not requested (\"%s\")", name)
}

// settle reads all that a server says between its welcome and its first
// ReadyForQuery.
func (l *login) settle() error {
	l.backend = backend{wire: l.wire, settings: make(map[string]string)}
	b := &l.backend
	for {
		kind, body, err := b.receive()
		if err != nil {
			return err
		}
		switch kind {
		case 'S':
			var setting pgproto3.ParameterStatus
			if setting.Decode(body) != nil {
				return errMalformed(kind)
			}
			b.settings[setting.Name] = setting.Value
		case 'K':
			if err := b.setKey(body, l.newest); err != nil {
				return err
			}
		case 'Z':
			if len(body) != 1 {
				return errMalformed(kind)
			}
			return b.failed // if what we said did not reach it, it was not us it let in
		default:
			return errors.New("unexpected message from server during startup")
		}
	}
}

// setKey takes the number of the server's process and the secret to cancel
// with.
//
// Source: getBackendKeyData in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func (b *backend) setKey(body []byte, v protocolVersion) error {
	if len(body) < 4 {
		return errMalformed('K')
	}
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("received invalid BackendKeyData message: "+format, args...)
	}
	b.pid, b.secret = binary.BigEndian.Uint32(body), body[4:]
	switch n := len(b.secret); {
	case n != 4 && v == protocol30:
		return invalid("cancel key with length %d not allowed in protocol version 3.0 (must be 4 bytes)", n)
	case n < 4:
		return invalid("cancel key with length %d is too short (minimum 4 bytes)", n)
	case n > 256:
		return invalid("cancel key with length %d is too long (maximum 256 bytes)", n)
	}
	return nil
}
