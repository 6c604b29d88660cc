package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ConnString returns how the superuser reaches the server through its socket.
func (s *Server) ConnString() string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable", s.SocketDir, s.Port)
}

// TCPConnString returns how the superuser reaches the server over the loopback
// address, encrypted and checked if it was started with TLS.
func (s *Server) TCPConnString() string {
	tls := "sslmode=disable"
	if s.RootCert != "" {
		tls = "sslmode=verify-full sslrootcert=" + s.RootCert
	}
	return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres %s", s.Port, tls)
}

// Connect returns a connection that lasts until the test ends. settings are added
// to ConnString and win over it: "replication=true", "dbname=second".
func (s *Server) Connect(t testing.TB, settings string) *pgconn.PgConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := pgconn.Connect(ctx, s.ConnString()+" "+settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(conn) })
	return conn
}

// closeConn says goodbye to the server, which may be gone.
func closeConn(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn.Close(ctx)
}

// Exec runs statements in the database postgres, each by itself.
func (s *Server) Exec(t testing.TB, statements ...string) {
	t.Helper()
	s.ExecIn(t, "postgres", statements...)
}

// ExecIn is Exec in another database.
func (s *Server) ExecIn(t testing.TB, database string, statements ...string) {
	t.Helper()
	if _, err := s.run(t.Context(), database, statements...); err != nil {
		t.Fatal(err)
	}
}

// Query returns the rows of a statement in the database postgres in the form of
// psql -At: columns apart by "|", rows by a new line.
func (s *Server) Query(t testing.TB, statement string) string {
	t.Helper()
	return s.QueryIn(t, "postgres", statement)
}

// QueryIn is Query in another database.
func (s *Server) QueryIn(t testing.TB, database, statement string) string {
	t.Helper()
	rows, err := s.run(t.Context(), database, statement)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(rows, "\n")
}

// WaitFor asks until a statement gives what is wanted. Recovery, which is often what is waited for, may cancel it, and that
// is no answer.
func (s *Server) WaitFor(t testing.TB, statement, want string) {
	t.Helper()
	wait(t, statement+" = "+want, func() bool {
		rows, err := s.run(t.Context(), "postgres", statement)
		if err != nil && !isConflict(err) {
			t.Fatal(err)
		}
		return err == nil && strings.Join(rows, "\n") == want
	})
}

// isConflict says whether a statement, or a session that began, was in the way of recovery.
//
// Source: ProcessRecoveryConflictInterrupt in src/backend/tcop/postgres.c, PostgreSQL 18.
func isConflict(err error) bool {
	server := (*pgconn.PgError)(nil)
	return errors.As(err, &server) && server.Code == "40001" && strings.Contains(server.Message, "conflict with recovery")
}

// Set changes a setting of the running server, also for its next starts. What a
// backup holds of it is in postgresql.auto.conf.
func (s *Server) Set(t testing.TB, name, value string) {
	t.Helper()
	s.Exec(t, "ALTER SYSTEM SET "+name+" = '"+strings.ReplaceAll(value, "'", "''")+"'", "SELECT pg_reload_conf()")
	s.WaitFor(t, "SHOW "+name, value)
}

// quoteSetting returns a value for a connection string.
func quoteSetting(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// run returns the rows of the last statement that has some.
func (s *Server) run(ctx context.Context, database string, statements ...string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgconn.Connect(ctx, s.ConnString()+" dbname="+quoteSetting(database))
	if err != nil {
		return nil, err
	}
	defer closeConn(conn)
	var rows []string
	for _, statement := range statements {
		got, err := query(ctx, conn, statement)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", statement, err)
		}
		if got != nil {
			rows = got
		}
	}
	return rows, nil
}

func query(ctx context.Context, conn *pgconn.PgConn, statement string) ([]string, error) {
	results, err := conn.Exec(ctx, statement).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows []string
	for _, result := range results {
		for _, row := range result.Rows {
			columns := make([]string, len(row))
			for i, column := range row {
				columns[i] = string(column)
			}
			rows = append(rows, strings.Join(columns, "|"))
		}
	}
	return rows, nil
}
