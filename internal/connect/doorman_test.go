package connect

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// doorman is a server that lets clients in or does not, and no more.
type doorman struct {
	tls      *tls.Config // nil has no TLS
	direct   bool        // speaks TLS from the first byte on
	tlsByte  byte        // answers a request for TLS instead; zero is S or N
	password string      // wanted in the clear; empty trusts
	reject   *pgproto3.ErrorResponse
	settings map[string]string // reported, over the usual ones; an empty one is not
	value    string            // answers every statement
	silent   chan struct{}     // if not nil, gets a value for every client, who hears nothing

	mu       sync.Mutex
	startups []map[string]string // of the clients that came, with "tls" for on
}

// serve answers on l until the test ends.
func (d *doorman) serve(t *testing.T, l net.Listener) {
	var clients sync.WaitGroup
	done := make(chan struct{})
	clients.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() {
				defer conn.Close()
				stop := context.AfterFunc(t.Context(), func() { conn.Close() })
				defer stop()
				d.answer(conn, done)
			})
		}
	})
	t.Cleanup(func() {
		close(done)
		l.Close()
		clients.Wait()
	})
}

func (d *doorman) answer(conn net.Conn, done <-chan struct{}) {
	if d.silent != nil {
		select {
		case d.silent <- struct{}{}:
			<-done
		case <-done:
		}
		return
	}
	secured := ""
	if d.direct {
		conn, secured = tls.Server(conn, d.tls), "on"
	}
	b := pgproto3.NewBackend(conn, conn)
	first, err := b.ReceiveStartupMessage()
	if err != nil {
		return
	}
	if _, ok := first.(*pgproto3.SSLRequest); ok {
		answer := d.tlsByte
		if answer == 0 {
			answer = 'N'
			if d.tls != nil {
				answer = 'S'
			}
		}
		if _, err := conn.Write([]byte{answer}); err != nil {
			return
		}
		if answer == 'S' {
			conn, secured = tls.Server(conn, d.tls), "on"
		}
		b = pgproto3.NewBackend(conn, conn)
		if first, err = b.ReceiveStartupMessage(); err != nil {
			return
		}
	}
	startup, ok := first.(*pgproto3.StartupMessage)
	if !ok {
		return
	}
	startup.Parameters["tls"] = secured
	d.mu.Lock()
	d.startups = append(d.startups, startup.Parameters)
	d.mu.Unlock()
	if !d.admit(b) {
		return
	}
	for {
		msg, err := b.Receive()
		if err != nil {
			return
		}
		if _, ok := msg.(*pgproto3.Query); !ok {
			continue
		}
		b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("answer")}}})
		b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(d.value)}})
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if b.Flush() != nil {
			return
		}
	}
}

// admit sends all up to the first ReadyForQuery.
func (d *doorman) admit(b *pgproto3.Backend) bool {
	refuse := func(e *pgproto3.ErrorResponse) bool {
		b.Send(e)
		_ = b.Flush() // the client may be gone
		return false
	}
	if d.reject != nil {
		return refuse(d.reject)
	}
	if d.password != "" {
		b.Send(&pgproto3.AuthenticationCleartextPassword{})
		if b.Flush() != nil || b.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
			return false
		}
		msg, err := b.Receive()
		if err != nil {
			return false
		}
		if p, ok := msg.(*pgproto3.PasswordMessage); !ok || p.Password != d.password {
			return refuse(fatal("28P01", `password authentication failed for user "me"`))
		}
	}
	b.Send(&pgproto3.AuthenticationOk{})
	settings := map[string]string{"server_version": "18.6", "integer_datetimes": "on", "in_hot_standby": "off", "default_transaction_read_only": "off"}
	for k, v := range d.settings {
		settings[k] = v
	}
	for k, v := range settings {
		if v != "" {
			b.Send(&pgproto3.ParameterStatus{Name: k, Value: v})
		}
	}
	b.Send(&pgproto3.BackendKeyData{ProcessID: 4711, SecretKey: []byte{1, 2, 3, 4}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	return b.Flush() == nil
}

func fatal(code, message string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: message}
}

// tcp serves on the loopback and returns the port.
func (d *doorman) tcp(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.serve(t, l)
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// unix serves on a socket and returns its directory.
func (d *doorman) unix(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "basin") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	d.serve(t, l)
	return dir
}
