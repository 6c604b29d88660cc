package server

import (
	"context"
	"sync"
)

// cancels lets another connection cancel the command of this one.
type cancels struct {
	mu     sync.Mutex
	cancel context.CancelCauseFunc // of the command in hand; nil between two
}

// begin returns the context of a command, which cancelling it ends, and what to call at
// its end.
func (c *cancels) begin(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	c.cancel = cancel
	c.mu.Unlock()
	return ctx, func() {
		c.mu.Lock()
		c.cancel = nil
		c.mu.Unlock()
		cancel(nil)
	}
}

// end cancels the command in hand, if there is one.
func (c *cancels) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel(cause)
	}
}
