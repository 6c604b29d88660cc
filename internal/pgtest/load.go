package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Load is a number of clients that write until they are told to stop.
type Load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu        sync.Mutex
	committed []int64
	err       error
}

// StartLoad lets clients insert, update and delete, a few hundred transactions a
// second each, until ctx or the test ends or the server goes away. Transaction n
// of client c leaves a row (c, n) in the table load_log, which nothing removes.
//
// settings are added to the clients' connection string and win over it, such as
// "options=-csynchronous_commit=remote_write".
func StartLoad(ctx context.Context, t testing.TB, s *Server, clients int, settings ...string) *Load {
	t.Helper()
	s.Exec(t,
		`CREATE TABLE IF NOT EXISTS load_log (client int, n bigint, PRIMARY KEY (client, n))`,
		`CREATE TABLE IF NOT EXISTS load_rows (id bigserial PRIMARY KEY, client int, payload text, changes int DEFAULT 0)`,
		`CREATE INDEX IF NOT EXISTS load_rows_payload ON load_rows (payload)`,
		`CREATE TABLE IF NOT EXISTS load_totals (client int PRIMARY KEY, total bigint)`,
		`INSERT INTO load_totals SELECT c, 0 FROM generate_series(0, 99) c ON CONFLICT DO NOTHING`,
	)
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{cancel: cancel, committed: make([]int64, clients)}
	server := strings.Join(append([]string{s.ConnString()}, settings...), " ")
	for client := range clients {
		l.done.Go(func() { l.run(ctx, server, client) })
	}
	t.Cleanup(func() { l.Stop(t) })
	return l
}

// Stop ends the clients and returns how many transactions of each are known to
// have been committed; the server may have made one more of each durable. An error
// other than the end of the server fails the test.
func (l *Load) Stop(t testing.TB) []int64 {
	t.Helper()
	l.cancel()
	l.done.Wait()
	if l.err != nil {
		t.Error(l.err)
		l.err = nil
	}
	return l.committed
}

// Committed returns how many transactions are known to have been committed so far.
func (l *Load) Committed() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sum int64
	for _, n := range l.committed {
		sum += n
	}
	return sum
}

// run is one client.
func (l *Load) run(ctx context.Context, server string, client int) {
	err := l.write(ctx, server, client)
	if ctx.Err() != nil || serverGone(err) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, fmt.Errorf("client %d of the load: %w", client, err))
}

func (l *Load) write(ctx context.Context, server string, client int) error {
	conn, err := pgconn.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	// A client that was told to stop may have left a transaction behind that the server commits yet.
	if _, err := query(ctx, conn, fmt.Sprintf("SELECT total FROM load_totals WHERE client = %d FOR UPDATE", client)); err != nil {
		return err
	}
	first, err := query(ctx, conn, fmt.Sprintf("SELECT coalesce(max(n), 0) FROM load_log WHERE client = %d", client))
	if err != nil {
		return err
	}
	var start int64
	if _, err := fmt.Sscan(first[0], &start); err != nil {
		return err
	}
	pace := time.NewTicker(3 * time.Millisecond)
	defer pace.Stop()
	for n := start + 1; ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pace.C:
		}
		// In one message, which the server makes one transaction of.
		if _, err := query(ctx, conn, fmt.Sprintf(`
			INSERT INTO load_log VALUES (%[1]d, %[2]d);
			INSERT INTO load_rows (client, payload) SELECT %[1]d, repeat(md5((%[2]d + g)::text), %[2]d %% 60) FROM generate_series(1, 5) g;
			UPDATE load_rows SET changes = changes + 1, payload = md5(payload) WHERE id = (SELECT max(id) - %[2]d %% 40 FROM load_rows WHERE client = %[1]d);
			UPDATE load_totals SET total = total + 5 WHERE client = %[1]d;
			DELETE FROM load_rows WHERE client = %[1]d AND id < (SELECT max(id) - 5000 FROM load_rows);`, client, n)); err != nil {
			return err
		}
		l.mu.Lock()
		l.committed[client]++
		l.mu.Unlock()
	}
}

// serverGone tells whether a client ended because its server did.
func serverGone(err error) bool {
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) {
		return refusal.Code[:3] == "57P" // shutdown, crash, not yet ready
	}
	return true // no answer at all
}
