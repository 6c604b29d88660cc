package protocol

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"basin/internal/pgtest"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestServers compares what is known here with what servers do.
func TestServers(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(pgtest.Version(t, major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major, Conf: map[string]string{"wal_level": "logical"}})
			compareTexts(t, s)

			// A recovery from no archive ends at once, on a timeline of its own.
			pgtest.SetRecovery(t, major, s.DataDir, pgtest.Recovery{Settings: map[string]string{"restore_command": "false"}})
			s.Restart(t)
			s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
			compareShapes(t, s)
		})
	}
}

// compareTexts sends the same texts to a server and to ParseCommand. What the
// server refuses is to be refused here in the same words, and what it takes it
// must also take as it is written back.
func compareTexts(t *testing.T, s *pgtest.Server) {
	conn := s.Connect(t, "replication=true")
	// Minor versions differ in this, and ParseCommand is like the newest.
	old := s.Major >= firstMajorDoubledQuote && refusal(t, conn, `SHOW "a""b"`) == "42601 syntax error"
	for _, text := range texts {
		if old && strings.Contains(text, `""`) {
			continue
		}
		refused := refusal(t, conn, text)
		c, err := ParseCommand(text, s.Major)
		if err != nil {
			if e := err.(*CommandError); e.SQLState+" "+e.Message != refused {
				t.Errorf("%s:\n is refused with %s %s\nby the server with %s", text, e.SQLState, e.Message, refused)
			}
			continue
		}
		if _, ok := c.(SQL); ok {
			if want := "0A000 cannot execute SQL commands in WAL sender for physical replication"; refused != want {
				t.Errorf("%s: is SQL, but the server says %s", text, refused)
			}
			continue
		}
		if !isOfState(refused) {
			t.Errorf("%s: is read as %#v, but the server says %s", text, c, refused)
		}
		if name, ok := named(c); ok && refused != "" && !strings.Contains(refused, name) {
			t.Errorf("%s: is of %q, but the server says %s", text, name, refused)
		}
		if again := refusal(t, conn, c.Command(s.Major*10000)); again != refused {
			t.Errorf("%s: the server says %s;\nof %s it says %s", text, refused, c.Command(s.Major*10000), again)
		}
	}
}

// refusal returns what a server says against a text, SQLSTATE first.
func refusal(t *testing.T, conn *pgconn.PgConn, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := conn.Exec(ctx, text).ReadAll()
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return ""
	case !errors.As(err, &refused):
		t.Fatalf("%s: %v", text, err)
	}
	return refused.Code + " " + refused.Message
}

// isOfState tells whether a server refused a text for the state it is in, having
// understood it, if it refused it at all.
func isOfState(refused string) bool {
	state, message, _ := strings.Cut(refused, " ")
	switch state {
	case "", "42602", "42704", "55000", "58P01": // invalid name, undefined object, not in prerequisite state, undefined file
		return true
	case "42601":
		return strings.HasPrefix(message, "invalid compression specification: ")
	case "XX000":
		return strings.HasPrefix(message, "requested ")
	}
	return false
}

// named returns what servers name in their answer to a command.
func named(c Command) (string, bool) {
	switch c := c.(type) {
	case Show:
		return `"` + c.Name + `"`, true
	case DropReplicationSlot:
		return `"` + c.Slot + `"`, true
	case AlterReplicationSlot:
		return `"` + c.Slot + `"`, true
	case CreatePhysicalSlot:
		return `"` + c.Slot + `"`, true
	case TimelineHistory:
		return fmt.Sprintf("%08X.history", c.Timeline), true
	case StartPhysicalReplication:
		if c.Slot != "" {
			return `"` + c.Slot + `"`, true
		}
		return c.From.LSN.String(), c.From.Timeline == 1
	}
	return "", false
}
