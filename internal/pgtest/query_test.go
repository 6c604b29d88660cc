package pgtest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestIsConflict(t *testing.T) {
	conflict := &pgconn.PgError{Code: "40001", Message: "canceling statement due to conflict with recovery"}
	for _, test := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("connect: %w", conflict), true},
		{&pgconn.PgError{Code: "40001", Message: "could not serialize access due to concurrent update"}, false},
		{errors.New("canceling statement due to conflict with recovery"), false},
	} {
		if got := isConflict(test.err); got != test.want {
			t.Errorf("%v: %t", test.err, got)
		}
	}
}
