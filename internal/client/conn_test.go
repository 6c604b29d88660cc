package client

import (
	"context"
	"errors"
	"testing"
)

// TestQueryEndsWithContext has the context of a query ended by what a server said
// on another connection, which is not to be taken for the answer to the query.
func TestQueryEndsWithContext(t *testing.T) {
	c, s := dialogue(t)
	defer c.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	elsewhere := decodeError(errorSaid("54000", "file name too long")[5:])
	go func() {
		s.expectQuery("SHOW nothing")
		cancel(elsewhere)
		s.heard() // Terminate
	}()
	if _, err := c.Query(ctx, "SHOW nothing"); !errors.Is(err, elsewhere) {
		t.Errorf("query: %v", err)
	}
}

// TestQueryCanFollowError has a connection used again after the server refused something.
func TestQueryCanFollowError(t *testing.T) {
	c, s := dialogue(t)
	defer c.Close()
	go func() {
		s.expectQuery("SHOW nothing")
		s.say(errorSaid("42704", "unrecognized"), ready)
		s.expectQuery("SHOW something")
		s.say(answer([]any{"42"}), ready)
		s.heard() // Terminate
	}()
	if _, err := c.Query(t.Context(), "SHOW nothing"); sqlState(err) != "42704" {
		t.Errorf("first query: %v", err)
	}
	rows, err := c.Query(t.Context(), "SHOW something")
	if err != nil || len(rows) != 1 || rows[0].text(0) != "42" {
		t.Errorf("second query: %v, %v", rows, err)
	}
}
