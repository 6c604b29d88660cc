package checkup

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/client"
	"basin/internal/connect"
)

// answering returns a connection to a server that answers everything with one row of so many columns, each of them 1.
func answering(t *testing.T, columns int) *client.Conn {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	go func() {
		b := pgproto3.NewBackend(far, far)
		for {
			if _, err := b.Receive(); err != nil {
				return // the client is gone
			}
			row := &pgproto3.DataRow{}
			for range columns {
				row.Values = append(row.Values, []byte("1"))
			}
			b.Send(row)
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			if err := b.Flush(); err != nil {
				return
			}
		}
	}()
	return client.NewConn(&connect.Session{Conn: near, ServerVersion: "18.6", Version: 180006})
}

// Answers of another shape than was asked for, as of a pooler, are errors, whatever they are answers to.
func TestAnswersOfAnotherShape(t *testing.T) {
	for name, read := range map[string]func(*Server, context.Context, *client.Conn) error{
		"identity": (*Server).readIdentity, "role": (*Server).readRole, "settings": (*Server).readSettings,
		"place": (*Server).readPlace, "slots": (*Server).readSlots, "archiver": (*Server).readArchiver,
	} {
		for _, columns := range []int{0, 1, 9} {
			s := Server{Version: 180006, Settings: make(map[string]string)}
			err := read(&s, t.Context(), answering(t, columns))
			if err == nil || !strings.Contains(err.Error(), "columns") {
				t.Errorf("%s of %d columns: %v", name, columns, err)
			}
		}
	}
}
