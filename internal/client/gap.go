package client

import (
	"errors"
	"fmt"
	"strings"

	"basin/internal/usererr"
)

// ErrGap is in the error of a stream for which the server does not, or does not
// surely, have the log that was to come next: the segment was removed, or the slot
// that was to hold it is missing or was invalidated. Another attempt brings
// nothing, and a new base backup is needed to go on after the gap.
var ErrGap = errors.New("the log that was to come next is missing")

// gap marks err as ErrGap and says what to do, slot being what is wrong with the
// slot, if that is it.
func gap(err error, slot string) error {
	return &usererr.Error{
		Err: &gapError{err},
		Hint: "Nothing holds the log that comes next, so that it may be gone. If the server, a standby or an archive has the missing segments, copy them here. " +
			"If not, receive into an empty directory and take a new base backup." + slot,
	}
}

// What to do about slots.
const (
	slotMissing     = " See whether the slot's name is right, and make the slot with --create-slot."
	slotInvalidated = " The slot is of no use any more: drop it with --drop-slot, make it anew with --create-slot, and raise max_slot_wal_keep_size."
)

// gapError is an error that is ErrGap too, but does not say so itself.
type gapError struct{ error }

func (e *gapError) Unwrap() []error { return []error{e.error, ErrGap} }

// SQLSTATEs with which a server refuses to stream.
//
// Source: src/backend/utils/errcodes.txt, PostgreSQL 18.
const (
	stateUndefinedFile   = "58P01" // requested WAL segment %s has already been removed
	stateUndefinedObject = "42704" // replication slot "%s" does not exist
	stateNotInState      = "55000" // can no longer access replication slot "%s", with many other things
)

// refusedStream words the error with which a server refused to stream, or ended a
// stream, and marks a gap.
func refusedStream(err error, format string, args ...any) error {
	worded := fmt.Errorf(format+": %w", append(args, err)...)
	switch sqlState(err) {
	case stateUndefinedFile:
		return gap(worded, "")
	case stateUndefinedObject:
		return gap(worded, slotMissing)
	case stateNotInState:
		// A slot that was invalidated. The words differ with the release, and with the server's
		// language, which the name of its function does not.
		text := err.Error()
		if serverRoutine(err) == "ReplicationSlotAcquire" || strings.Contains(text, "can no longer") || strings.Contains(text, "invalidated") {
			return gap(worded, slotInvalidated)
		}
	}
	return worded
}
