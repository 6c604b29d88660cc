package object

import (
	"context"
	"fmt"
	"time"
)

// Locker is a Store that can keep objects from being removed for some time, whoever
// wants to. Whether those that it creates are kept, and for how long, is set where it is
// opened. To Delete one that is kept is a *LockedError.
type Locker interface {
	Store

	// Lock keeps an object from being removed before a time. One that is kept longer stays so.
	Lock(ctx context.Context, name string, until time.Time) error

	// CheckDelete returns the *LockedError that a Delete would, and changes nothing. Of
	// an object that is absent, or that can be removed, it is nil.
	CheckDelete(ctx context.Context, name string) error
}

// LockedError is an object that cannot be removed yet. It is an ErrRefused.
type LockedError struct {
	Name  string    // where the object is
	Until time.Time // when it can be removed; zero as long as somebody holds it
}

// Error says until when.
func (e *LockedError) Error() string {
	if e.Until.IsZero() {
		return fmt.Sprintf("%s is locked by a legal hold", e.Name)
	}
	return fmt.Sprintf("%s is locked until %s", e.Name, e.Until.UTC().Format("2006-01-02 15:04 MST"))
}

// Is says that it is an ErrRefused.
func (e *LockedError) Is(target error) bool { return target == ErrRefused }

// retryLocker is a retry of a Locker.
type retryLocker struct {
	*retry
	locker Locker
}

func (r *retryLocker) Lock(ctx context.Context, name string, until time.Time) error {
	return r.again(ctx, func(ctx context.Context) error { return r.locker.Lock(ctx, name, until) })
}

func (r *retryLocker) CheckDelete(ctx context.Context, name string) error {
	return r.again(ctx, func(ctx context.Context) error { return r.locker.CheckDelete(ctx, name) })
}
