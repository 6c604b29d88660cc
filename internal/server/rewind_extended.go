package server

import (
	"bytes"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
)

// maxPrepared is how many statements a client may have prepared, and how many portals.
const maxPrepared = 8

// portal is a statement with its parameters.
type portal struct {
	statement
	values  [][]byte
	formats []int16 // of results
}

// prepared is what a client has made with the extended query protocol. Portals last until
// the next Sync, for there are no transactions.
type prepared struct {
	statements map[string]statement
	portals    map[string]portal
}

// extended answers a message of the extended query protocol, and says whether those behind it
// are skipped up to a Sync. An error that it returns is the end of the session.
//
// Source: PostgresMain in src/backend/tcop/postgres.c, PostgreSQL 18.
func (s *session) extended(ctx context.Context, kind byte, body []byte) (skip bool, err error) {
	err = s.interruptible(ctx, func(ctx context.Context) error {
		s.endAtStop(ctx)
		switch kind {
		case 'P':
			return s.parse(body)
		case 'B':
			return s.bind(body)
		case 'D':
			return s.describe(body)
		case 'E':
			return s.executePortal(ctx, body)
		}
		return s.closePrepared(body)
	})
	if err == nil {
		return false, nil
	}
	return true, s.failed(err)
}

// malformed is the error of a message that is none.
func malformed(err error) error {
	return &Error{Code: codeProtocolViolation, Message: fmt.Sprintf("invalid message: %v", err)}
}

// parse prepares a statement.
func (s *session) parse(body []byte) error {
	var m pgproto3.Parse
	if err := m.Decode(body); err != nil {
		return malformed(err)
	}
	s.log.Debug("parse", "name", m.Name, "text", m.Query)
	known, ok := s.find(m.Query)
	if !ok {
		return errStatement
	}
	if len(m.ParameterOIDs) > len(known.parameters) {
		return &Error{Code: codeProtocolViolation, Message: "there are more types than parameters"}
	}
	for i, oid := range m.ParameterOIDs {
		if oid != 0 && oid != known.parameters[i] {
			return &Error{Code: codeFeatureNotSupported, Message: fmt.Sprintf("parameter $%d cannot be of the type with OID %d", i+1, oid)}
		}
	}
	if _, taken := s.prepared.statements[m.Name]; taken && m.Name != "" {
		return &Error{Code: "42P05", Message: fmt.Sprintf("prepared statement \"%s\" already exists", m.Name)}
	}
	if err := add(&s.prepared.statements, m.Name, known); err != nil {
		return err
	}
	return s.queueMessage(&pgproto3.ParseComplete{})
}

// add puts what is new into a map that is not to have too much.
func add[T any](m *map[string]T, name string, value T) error {
	if *m == nil {
		*m = make(map[string]T)
	}
	if _, replaced := (*m)[name]; !replaced && len(*m) == maxPrepared {
		return &Error{Code: codeProgramLimit, Message: fmt.Sprintf("there cannot be more than %d prepared statements, or portals", maxPrepared)}
	}
	(*m)[name] = value
	return nil
}

// bind makes a portal.
func (s *session) bind(body []byte) error {
	var m pgproto3.Bind
	if err := m.Decode(body); err != nil {
		return malformed(err)
	}
	known, ok := s.prepared.statements[m.PreparedStatement]
	if !ok {
		return noStatement(m.PreparedStatement)
	}
	if len(m.Parameters) != len(known.parameters) {
		return &Error{Code: codeProtocolViolation, Message: fmt.Sprintf("bind message supplies %d parameters, but prepared statement \"%s\" requires %d",
			len(m.Parameters), m.PreparedStatement, len(known.parameters))}
	}
	if n := len(m.ParameterFormatCodes); n > 1 && n != len(m.Parameters) {
		return &Error{Code: codeProtocolViolation, Message: fmt.Sprintf("bind message has %d parameter formats but %d parameters", n, len(m.Parameters))}
	}
	if n := len(m.ResultFormatCodes); n > 1 && n != len(known.columns) {
		return &Error{Code: codeProtocolViolation, Message: fmt.Sprintf("bind message has %d result formats but query has %d columns", n, len(known.columns))}
	}
	for i := range known.columns {
		if f := format(m.ResultFormatCodes, i); f != formatText && f != formatBinary {
			return &Error{Code: codeInvalidParameter, Message: fmt.Sprintf("unsupported format code: %d", f)}
		}
	}
	p := portal{statement: known, formats: m.ResultFormatCodes}
	for i, value := range m.Parameters {
		text := format(m.ParameterFormatCodes, i) == formatText
		switch {
		case value == nil:
			return &Error{Code: "22004", Message: fmt.Sprintf("parameter $%d cannot be null here", i+1)}
		case !text && known.parameters[i] != typeText: // text is the same in both formats
			return &Error{Code: codeFeatureNotSupported, Message: fmt.Sprintf("parameter $%d has to be text", i+1)}
		case bytes.IndexByte(value, 0) >= 0:
			return &Error{Code: "22021", Message: "invalid byte sequence for encoding \"UTF8\": 0x00"}
		}
		p.values = append(p.values, bytes.Clone(value))
	}
	if _, taken := s.prepared.portals[m.DestinationPortal]; taken && m.DestinationPortal != "" {
		return &Error{Code: "42P03", Message: fmt.Sprintf("cursor \"%s\" already exists", m.DestinationPortal)}
	}
	if err := add(&s.prepared.portals, m.DestinationPortal, p); err != nil {
		return err
	}
	return s.queueMessage(&pgproto3.BindComplete{})
}

func noStatement(name string) error {
	if name == "" {
		return &Error{Code: "26000", Message: "unnamed prepared statement does not exist"}
	}
	return &Error{Code: "26000", Message: fmt.Sprintf("prepared statement \"%s\" does not exist", name)}
}

func noPortal(name string) error {
	return &Error{Code: "34000", Message: fmt.Sprintf("portal \"%s\" does not exist", name)}
}

// describe tells of a statement or a portal.
func (s *session) describe(body []byte) error {
	var m pgproto3.Describe
	if err := m.Decode(body); err != nil {
		return malformed(err)
	}
	known, formats := statement{}, []int16(nil)
	switch m.ObjectType {
	case 'S':
		var ok bool
		if known, ok = s.prepared.statements[m.Name]; !ok {
			return noStatement(m.Name)
		}
		if err := s.queueMessage(&pgproto3.ParameterDescription{ParameterOIDs: known.parameters}); err != nil {
			return err
		}
	case 'P':
		p, ok := s.prepared.portals[m.Name]
		if !ok {
			return noPortal(m.Name)
		}
		known, formats = p.statement, p.formats
	default:
		return &Error{Code: codeProtocolViolation, Message: fmt.Sprintf("invalid DESCRIBE message subtype %d", m.ObjectType)}
	}
	if len(known.columns) == 0 {
		return s.queueMessage(&pgproto3.NoData{})
	}
	return s.queueMessage(rowDescription(known.columns, formats))
}

// executePortal sends all rows of a portal.
func (s *session) executePortal(ctx context.Context, body []byte) error {
	var m pgproto3.Execute
	if err := m.Decode(body); err != nil {
		return malformed(err)
	}
	p, ok := s.prepared.portals[m.Portal]
	if !ok {
		return noPortal(m.Portal)
	}
	if m.MaxRows != 0 {
		return &Error{Code: codeFeatureNotSupported, Message: "the number of rows cannot be limited"}
	}
	delete(s.prepared.portals, m.Portal) // another Execute would have no more rows
	return s.sendRows(ctx, p.statement, p.values, p.formats)
}

// closePrepared forgets a statement or a portal, if there is one.
func (s *session) closePrepared(body []byte) error {
	var m pgproto3.Close
	if err := m.Decode(body); err != nil {
		return malformed(err)
	}
	switch m.ObjectType {
	case 'S':
		delete(s.prepared.statements, m.Name)
	case 'P':
		delete(s.prepared.portals, m.Name)
	default:
		return &Error{Code: codeProtocolViolation, Message: fmt.Sprintf("invalid CLOSE message subtype %d", m.ObjectType)}
	}
	return s.queueMessage(&pgproto3.CloseComplete{})
}
