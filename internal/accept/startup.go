package accept

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// What the first packets of a connection begin with, after their length.
//
// Source: src/include/libpq/pqcomm.h, PostgreSQL 18.
const (
	codeCancel = 80877102
	codeTLS    = 80877103
	codeGSS    = 80877104

	latestMinor     = 2          // of protocol 3
	protocolOptions = "_pq_."    // names of parameters that are the protocol's own
	maxPacket       = 10000      // bytes without the length; MAX_STARTUP_PACKET_LENGTH
	maxCancelKey    = 256        // bytes, in protocol 3.2
	helloOfTLS      = byte(0x16) // its record type is a handshake; the length of no packet begins so
)

// introduce reads up to the startup packet, which it returns without its
// length. What comes before is answered: who asks for TLS gets it here.
//
// Source: ProcessSSLStartup and ProcessStartupPacket in
// src/backend/tcop/backend_startup.c, PostgreSQL 18.
func (g *guest) introduce(ctx context.Context) ([]byte, error) {
	config := g.tlsConfig()
	askedTLS, askedGSS := false, false
	for first := true; ; first = false {
		var head [4]byte
		if err := g.read(head[:1]); err != nil {
			if errors.Is(err, io.EOF) && !first {
				return nil, fmt.Errorf("the client left after a request for encryption: %w", err)
			}
			return nil, err
		}
		if first && head[0] == helloOfTLS {
			askedTLS = true
			if err := g.secureDirectly(ctx, config, head[:1]); err != nil {
				return nil, err
			}
			continue
		}
		packet, err := g.readPacket(head)
		if err != nil {
			return nil, err
		}
		switch code := binary.BigEndian.Uint32(packet); {
		case code == codeCancel:
			return nil, g.cancel(packet[4:])
		case code == codeTLS && !askedTLS:
			askedTLS = true
			if err := g.answerTLS(ctx, config); err != nil {
				return nil, err
			}
		case code == codeGSS && !askedGSS && !g.session.TLS:
			askedGSS = true
			if _, err := g.conn.Write([]byte{'N'}); err != nil {
				return nil, err
			}
		default:
			return packet, nil
		}
	}
}

// readPacket reads the rest of a packet, of whose length there is the first
// byte. There is a code in it.
func (g *guest) readPacket(head [4]byte) ([]byte, error) {
	if err := g.read(head[1:]); err != nil {
		return nil, fmt.Errorf("incomplete startup packet: %w", unexpected(err))
	}
	length := int64(binary.BigEndian.Uint32(head[:])) - int64(len(head))
	if length < 4 || length > maxPacket {
		return nil, fmt.Errorf("invalid length of startup packet: %d bytes", length)
	}
	packet := make([]byte, length)
	if err := g.read(packet); err != nil {
		return nil, fmt.Errorf("incomplete startup packet: %w", unexpected(err))
	}
	return packet, nil
}

// unexpected makes the end of what a client sends one that is too early.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// cancel hands a request to cancel on. There is no answer to it.
//
// Source: ProcessCancelRequestPacket in src/backend/tcop/backend_startup.c, PostgreSQL 18.
func (g *guest) cancel(body []byte) error {
	g.mute = true
	if len(body) <= 4 || len(body) > 4+maxCancelKey {
		return fmt.Errorf("invalid length of cancel request packet: %d bytes", len(body))
	}
	if g.options.Cancel != nil {
		g.options.Cancel(binary.BigEndian.Uint32(body), body[4:])
	}
	return ErrCancel
}

// readStartup takes a startup packet.
//
// Source: ProcessStartupPacket in src/backend/tcop/backend_startup.c, PostgreSQL 18.
func (g *guest) readStartup(packet []byte) error {
	major, minor := binary.BigEndian.Uint16(packet), binary.BigEndian.Uint16(packet[2:])
	if g.old = major < 3; major != 3 {
		return refuse(codeFeatureNotSupported, "unsupported frontend protocol %d.%d: server supports 3.0 to 3.%d", major, minor, latestMinor)
	}
	s := &g.session
	s.ProtocolMinor = int(min(minor, latestMinor))
	parameters, unknown, ok := splitParameters(packet[4:])
	if !ok {
		return refuse(codeProtocolViolation, "invalid startup packet layout: expected terminator as last byte")
	}
	if minor > latestMinor || len(unknown) > 0 {
		if err := g.send(&pgproto3.NegotiateProtocolVersion{
			NewestMinorProtocol: 3<<16 | uint32(s.ProtocolMinor), // a whole version, whatever the name says
			UnrecognizedOptions: unknown,
		}); err != nil {
			return err
		}
	}
	take := func(name string) string {
		value := parameters[name]
		delete(parameters, name)
		return value
	}
	s.User, s.Database = take("user"), take("database")
	s.ApplicationName = cleanASCII(take("application_name"))
	replication, isReplication := parameters["replication"]
	delete(parameters, "replication")
	s.Parameters = parameters
	if s.User == "" {
		return refuse(codeInvalidAuthorization, "no PostgreSQL user name specified in startup packet")
	}
	if isReplication {
		if s.Replication, ok = parseReplication(replication); !ok {
			r := refuse(codeInvalidValue, `invalid value for parameter "replication": "%s"`, replication)
			r.Hint = `Valid values are: "false", 0, "true", 1, "database".`
			return r
		}
	}
	switch {
	case s.Replication == Physical:
		s.Database = "" // clients name one that is not meant
	case s.Database == "":
		s.Database = s.User
	}
	return nil
}

// splitParameters returns the parameters of a startup packet and the names of
// those that are the protocol's own, none of which is known. They are strings
// that end with a zero byte, the last of which is empty. Of two values the
// later one counts.
func splitParameters(b []byte) (parameters map[string]string, unknown []string, ok bool) {
	parameters = make(map[string]string)
	for {
		name, rest, found := bytes.Cut(b, []byte{0})
		switch {
		case !found:
			return nil, nil, false
		case len(name) == 0:
			return parameters, unknown, len(rest) == 0
		}
		value, rest, found := bytes.Cut(rest, []byte{0})
		if !found {
			return nil, nil, false
		}
		b = rest
		if strings.HasPrefix(string(name), protocolOptions) {
			unknown = append(unknown, string(name))
			continue
		}
		parameters[string(name)] = string(value)
	}
}

// parseReplication reads the value of the parameter replication.
func parseReplication(value string) (r Replication, ok bool) {
	if value == "database" {
		return Database, true
	}
	on, ok := parseBool(value)
	if ok && on {
		return Physical, true
	}
	return None, ok
}

// parseBool reads a boolean in any of its spellings.
//
// Source: parse_bool_with_len in src/backend/utils/adt/bool.c, PostgreSQL 18.
func parseBool(value string) (on, ok bool) {
	for _, word := range []struct {
		text  string
		least int // letters that tell it from others
		on    bool
	}{
		{"true", 1, true}, {"false", 1, false}, {"yes", 1, true}, {"no", 1, false},
		{"on", 2, true}, {"off", 2, false}, {"1", 1, true}, {"0", 1, false},
	} {
		if n := len(value); n >= word.least && n <= len(word.text) && strings.EqualFold(value, word.text[:n]) {
			return word.on, true
		}
	}
	return false, false
}

// cleanASCII writes every byte that is not printable ASCII as \xHH.
//
// Source: pg_clean_ascii in src/common/string.c, PostgreSQL 18.
func cleanASCII(text string) string {
	var clean strings.Builder
	for _, b := range []byte(text) {
		if b < ' ' || b > '~' {
			fmt.Fprintf(&clean, `\x%02x`, b)
			continue
		}
		clean.WriteByte(b)
	}
	return clean.String()
}
