package connect

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/conninfo"

	"github.com/jackc/pgx/v5/pgproto3"
)

// sluggish is a connection whose writes take a second.
type sluggish struct {
	net.Conn
}

// Write writes p, later.
func (s sluggish) Write(p []byte) (int, error) {
	<-time.After(time.Second)
	return s.Conn.Write(p)
}

// TestAnswerAfterSlowWrite has a write of the startup take so long that pgconn
// begins to read in the background, where it would keep the first answer.
func TestAnswerAfterSlowWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			(&doorman{password: "secret", value: "42"}).answer(far, done)
			far.Close()
		}()
		params := conninfo.Params{}
		for keyword, value := range map[string]string{"user": "me", "password": "secret", "dbname": "postgres"} {
			if err := params.Set(keyword, value); err != nil {
				t.Fatal(err)
			}
		}
		c := &connector{params: params}
		pg, f := c.authenticate(t.Context(), sluggish{near}, target{}, nil)
		if f != nil {
			t.Fatal(f)
		}
		s, err := c.session(pg, target{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		query, err := (&pgproto3.Query{String: "SHOW answer"}).Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := near.Write(query); err != nil {
			t.Fatal(err)
		}
		var kind [1]byte
		if _, err := io.ReadFull(s.Reader, kind[:]); err != nil || kind[0] != 'T' {
			t.Errorf("the answer begins with %q, %v", kind, err)
		}
	})
}
