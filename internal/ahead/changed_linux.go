package ahead

import (
	"syscall"
	"time"
)

// changeTime returns when a file, or what is known of it, was changed last.
func changeTime(s *syscall.Stat_t) time.Time { return time.Unix(s.Ctim.Unix()) }
