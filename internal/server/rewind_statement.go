package server

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/accept"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// OIDs of types of results and parameters.
//
// Source: src/include/catalog/pg_type.dat, PostgreSQL 18.
const (
	typeBool      = 16
	typeBytea     = 17
	typeInt8      = 20
	typeInt4      = 23
	typeText      = 25
	typeInt4Array = 1007
	typeTextArray = 1009
	typeInt8Array = 1016
	typeLSN       = 3220 // pg_lsn
)

// column returns a column of a type.
func column(name string, oid uint32) protocol.Column {
	c := protocol.Column{Name: name, Type: oid, Size: -1, Modifier: -1}
	switch oid {
	case typeBool:
		c.Size = 1
	case typeInt4:
		c.Size = 4
	case typeInt8, typeLSN:
		c.Size = 8
	}
	return c
}

// statement is one that is answered.
type statement struct {
	columns    []protocol.Column
	parameters []uint32 // their types
	// tag ends the answer. To SELECT the number of rows is added; empty is the answer to
	// a statement that is empty.
	tag  string
	rows func(s *session, ctx context.Context, parameters [][]byte, emit emitter) error // nil: none
}

// emitter takes a row. A value is a string, an int64, a bool, a []byte, a wal.LSN, or nil
// for NULL.
type emitter func(row ...any) error

// one returns what a statement answers of which one value is known.
func one(column protocol.Column, tag string, value func(ctx context.Context, s *session) (any, error)) statement {
	return statement{columns: []protocol.Column{column}, tag: tag,
		rows: func(s *session, ctx context.Context, _ [][]byte, emit emitter) error {
			v, err := value(ctx, s)
			if err != nil {
				return err
			}
			return emit(v)
		}}
}

// inRecovery says whether the cluster is a standby now: it may have been promoted.
func (s *session) inRecovery(ctx context.Context) (bool, error) {
	d, err := s.server.o.Cluster.Describe(ctx)
	return d.Standby, err
}

// checks are statements that libraries send, or that checks are made with. They are in lower
// case, with one space between words.
var checks = map[string]statement{
	"":         {},
	"begin":    {tag: "BEGIN"},
	"commit":   {tag: "COMMIT"},
	"rollback": {tag: "ROLLBACK"},
	"select 1": one(column("?column?", typeInt4), "SELECT", func(context.Context, *session) (any, error) { return int64(1), nil }),

	"select pg_is_in_recovery()":            selectInRecovery,
	"select pg_catalog.pg_is_in_recovery()": selectInRecovery,

	"select pg_catalog.set_config('search_path', '', false)": one(column("set_config", typeText), "SELECT",
		func(context.Context, *session) (any, error) { return "", nil }),
	"show transaction_read_only": one(column("transaction_read_only", typeText), "SHOW",
		func(ctx context.Context, s *session) (any, error) {
			standby, err := s.inRecovery(ctx)
			return onOff(standby), err
		}),
}

var selectInRecovery = one(column("pg_is_in_recovery", typeBool), "SELECT",
	func(ctx context.Context, s *session) (any, error) { return s.inRecovery(ctx) })

// find returns the statement that a text is. What is not known word for word is not answered.
func (s *session) find(text string) (statement, bool) {
	words := strings.Join(strings.Fields(strings.TrimRight(text, "; \t\r\n")), " ")
	if s.client.Replication == accept.None {
		if known, ok := rewinds[words]; ok {
			_, can := s.server.o.Cluster.(FileSource)
			return known, can
		}
	}
	words = strings.ToLower(words)
	if strings.HasPrefix(words, "set ") {
		return statement{tag: "SET"}, true
	}
	known, ok := checks[words]
	return known, ok
}

// errStatement is the answer to all statements that are not known.
var errStatement = &Error{Code: codeFeatureNotSupported, Message: "cannot execute SQL commands here",
	Detail: "This server sends backups and the write-ahead log of a cluster, and answers no queries.",
	Hint:   "Connect to the cluster itself."}

// simple answers a statement of a simple query. Its values are text.
func (s *session) simple(ctx context.Context, known statement) error {
	if len(known.parameters) > 0 {
		return &Error{Code: "42P02", Message: "there is no parameter $1"}
	}
	if len(known.columns) > 0 {
		if err := s.queueMessage(rowDescription(known.columns, nil)); err != nil {
			return err
		}
	}
	return s.sendRows(ctx, known, nil, nil)
}

// sendRows sends the rows of a statement, and their end.
func (s *session) sendRows(ctx context.Context, known statement, parameters [][]byte, formats []int16) error {
	n := 0
	if known.rows != nil {
		var message []byte
		values := make([][]byte, len(known.columns))
		err := known.rows(s, ctx, parameters, func(row ...any) error {
			n++
			for i, v := range row {
				values[i] = encode(v, known.columns[i], format(formats, i))
			}
			message = protocol.AppendDataRow(message[:0], values...)
			if len(message) >= whole {
				return s.conn.Send(message)
			}
			return s.conn.queueBytes(message)
		})
		if err != nil {
			return err
		}
	}
	switch known.tag {
	case "":
		return s.queueMessage(&pgproto3.EmptyQueryResponse{})
	case "SELECT":
		return s.queueMessage(&pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "SELECT %d", n)})
	}
	return s.queueMessage(&pgproto3.CommandComplete{CommandTag: []byte(known.tag)})
}

// queueMessage keeps a message for the next Flush, which comes by itself once there are many.
func (s *session) queueMessage(m pgproto3.BackendMessage) error {
	p, err := m.Encode(nil)
	if err != nil {
		return fmt.Errorf("message to client: %w", err)
	}
	return s.conn.queueBytes(p)
}

// Formats of values.
const (
	formatText   = 0
	formatBinary = 1
)

// format returns the format of a value: none is text, and one is that of all.
func format(formats []int16, i int) int16 {
	switch {
	case len(formats) == 1:
		return formats[0]
	case i < len(formats):
		return formats[i]
	}
	return formatText
}

// rowDescription returns what tells of columns.
func rowDescription(columns []protocol.Column, formats []int16) *pgproto3.RowDescription {
	r := &pgproto3.RowDescription{}
	for i, c := range columns {
		r.Fields = append(r.Fields, pgproto3.FieldDescription{
			Name: []byte(c.Name), DataTypeOID: c.Type, DataTypeSize: c.Size, TypeModifier: c.Modifier, Format: format(formats, i),
		})
	}
	return r
}

// encode returns a value as it goes to the client.
//
// Source: the output and send functions of the types in src/backend/utils/adt, PostgreSQL 18.
func encode(value any, c protocol.Column, format int16) []byte {
	binaryForm := format == formatBinary
	switch v := value.(type) {
	case string:
		return append([]byte{}, v...) // which is not nil if v is empty
	case []byte:
		if !binaryForm {
			return hex.AppendEncode([]byte(`\x`), v)
		}
		if v == nil {
			v = []byte{}
		}
		return v
	case bool:
		switch {
		case !binaryForm:
			return []byte(letter(v))
		case v:
			return []byte{1}
		}
		return []byte{0}
	case int64:
		switch {
		case !binaryForm:
			return strconv.AppendInt(nil, v, 10)
		case c.Size == 4:
			return binary.BigEndian.AppendUint32(nil, uint32(v))
		}
		return binary.BigEndian.AppendUint64(nil, uint64(v))
	case wal.LSN:
		if !binaryForm {
			return []byte(v.String())
		}
		return binary.BigEndian.AppendUint64(nil, uint64(v))
	}
	return nil
}
