//go:build !linux

package ahead

import (
	"syscall"
	"time"
)

// changeTime is not known to this program elsewhere: a time so late that no file is noted.
func changeTime(*syscall.Stat_t) time.Time { return time.Now().Add(time.Hour) }
