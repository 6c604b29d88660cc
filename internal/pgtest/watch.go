package pgtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Watch looks all the time at what a receiver of the log has acknowledged, as the
// server shows it in pg_stat_replication.
type Watch struct {
	statement string
	done      chan struct{}

	mu           sync.Mutex
	write, flush uint64 // the highest ever shown
	begun        int    // looks
	absent       int    // the number of the last look that did not find the receiver
	ended        bool   // the server has gone
}

// WatchReceiver looks at the receivers with an application_name until the test
// ends or the server does.
func WatchReceiver(t testing.TB, s *Server, application string) *Watch {
	t.Helper()
	w := &Watch{done: make(chan struct{}), statement: fmt.Sprintf(`
		SELECT count(*), coalesce(max(write_lsn - '0/0'::pg_lsn), 0), coalesce(max(flush_lsn - '0/0'::pg_lsn), 0)
		FROM pg_stat_replication WHERE application_name = '%s'`, application)}
	conn := s.Connect(t, "")
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	go w.run(ctx, conn)
	t.Cleanup(func() {
		cancel()
		<-w.done
	})
	return w
}

func (w *Watch) run(ctx context.Context, conn *pgconn.PgConn) {
	defer close(w.done)
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for w.look(ctx, conn) {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
	}
}

// look looks once, and returns false if there is no server to look at.
func (w *Watch) look(ctx context.Context, conn *pgconn.PgConn) bool {
	w.mu.Lock()
	w.begun++
	number := w.begun
	w.mu.Unlock()
	rows, err := query(ctx, conn, w.statement)

	w.mu.Lock()
	defer w.mu.Unlock()
	var receivers int
	var write, flush uint64
	if err == nil {
		_, err = fmt.Sscanf(rows[0], "%d|%d|%d", &receivers, &write, &flush)
	}
	if err != nil {
		w.ended = true
		return false
	}
	w.write, w.flush = max(w.write, write), max(w.flush, flush)
	if receivers == 0 {
		w.absent = number
	}
	return true
}

// Acknowledged returns the highest positions that were ever shown as written and
// as flushed, in bytes since the beginning of the log; zero is none.
func (w *Watch) Acknowledged() (write, flush uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.write, w.flush
}

// Gone waits until the server has noticed that the receiver is gone, so that
// nothing that it has acknowledged can show later.
func (w *Watch) Gone(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	begun := w.begun
	w.mu.Unlock()
	wait(t, "end of a receiver's connection", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.absent > begun || w.ended
	})
}
