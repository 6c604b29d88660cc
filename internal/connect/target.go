package connect

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
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
func (c *connector) checkTarget(ctx context.Context, pg *pgconn.PgConn, t target, m method) error {
	switch c.attrs {
	case "read-write", "read-only":
		standby, readOnly := pg.ParameterStatus("in_hot_standby"), pg.ParameterStatus("default_transaction_read_only")
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
		standby := pg.ParameterStatus("in_hot_standby")
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
	startup := c.startupParameters()
	delete(startup, "replication")
	pg, f := c.open(ctx, t, m, startup)
	if f != nil {
		return "", told(f.err)
	}
	defer closePolitely(pg)
	results, err := pg.Exec(ctx, statement).ReadAll()
	if err != nil {
		return "", told(err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return "", told(fmt.Errorf("\"%s\" failed", statement))
	}
	return string(results[0].Rows[0][0]), nil
}
