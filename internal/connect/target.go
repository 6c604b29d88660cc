package connect

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// checkTarget makes sure that the server is of the kind that
// target_session_attrs asks for. Its answer is an error with libpq's text.
//
// Servers since release 14 report what is needed. libpq asks older ones with
// a statement, which a physical replication connection refuses; an ordinary
// connection to the same server is asked instead.
//
// Source: CONNECTION_CHECK_TARGET in PQconnectPoll in
// src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (c *connector) checkTarget(ctx context.Context, b *backend, t target, m method) error {
	switch c.attrs {
	case "read-write", "read-only":
		standby, readOnly := b.settings["in_hot_standby"], b.settings["default_transaction_read_only"]
		isReadOnly := standby == "on" || readOnly == "on"
		if standby == "" || readOnly == "" {
			answer, err := c.probe(ctx, t, m, "SHOW transaction_read_only")
			if err != nil {
				return err
			}
			isReadOnly = answer == "on"
		}
		switch {
		case c.attrs == "read-write" && isReadOnly:
			return errors.New("session is read-only")
		case c.attrs == "read-only" && !isReadOnly:
			return errors.New("session is not read-only")
		}
	case "primary", "standby":
		standby := b.settings["in_hot_standby"]
		isStandby := standby == "on"
		if standby == "" {
			answer, err := c.probe(ctx, t, m, "SELECT pg_catalog.pg_is_in_recovery()")
			if err != nil {
				return err
			}
			isStandby = answer == "t"
		}
		switch {
		case c.attrs == "primary" && isStandby:
			return errors.New("server is in hot standby mode")
		case c.attrs == "standby" && !isStandby:
			return errors.New("server is not in hot standby mode")
		}
	}
	return nil
}

// probe runs a statement on an ordinary connection and returns the one value
// that it yields.
func (c *connector) probe(ctx context.Context, t target, m method, statement string) (string, error) {
	told := func(err error) error {
		return fmt.Errorf("target_session_attrs=%s cannot be checked, since the server is older than 14 and does not take an ordinary connection: %w",
			c.attrs, err)
	}
	b, f := c.open(ctx, t, m, c.startupParameters(""))
	if f != nil {
		return "", told(f.err)
	}
	defer terminate(b.conn)
	release := interruptible(ctx, b.conn)
	defer release()
	answer, err := b.query(statement)
	if err != nil {
		return "", told(err)
	}
	return answer, nil
}

// query runs a statement that yields one value.
func (b *backend) query(statement string) (string, error) {
	message, err := (&pgproto3.Query{String: statement}).Encode(nil)
	if err != nil {
		return "", err
	}
	b.send(message)
	var values [][]byte
	rows := 0
	for {
		kind, body, err := b.receive()
		if server := (*pgconn.PgError)(nil); errors.As(err, &server) {
			return "", &ServerError{server}
		}
		if err != nil {
			return "", err
		}
		switch kind {
		case 'D':
			var row pgproto3.DataRow
			if row.Decode(body) != nil {
				return "", errMalformed(kind)
			}
			rows, values = rows+1, row.Values
		case 'Z':
			if rows != 1 || len(values) != 1 {
				return "", fmt.Errorf("\"%s\" failed", statement)
			}
			return string(values[0]), nil
		}
	}
}
