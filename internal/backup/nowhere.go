package backup

import (
	"context"
	"io"

	"basin/internal/wal"
)

// Nowhere is a sink that keeps nothing: for a backup that the server itself
// puts somewhere, of which no bytes come.
type Nowhere struct{}

// Begin does nothing.
func (Nowhere) Begin(context.Context, Start) error { return nil }

// Put reads r to its end.
func (Nowhere) Put(_ context.Context, _ Member, r io.Reader) error {
	if r == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// Commit does nothing.
func (Nowhere) Commit(context.Context, wal.Position) error { return nil }

// Close does nothing.
func (Nowhere) Close() error { return nil }
