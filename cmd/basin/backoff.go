package main

import (
	"math/rand/v2"
	"time"
)

// backOff tells how long to wait before another attempt: half a second after the
// first failure, then twice as long each time, up to five seconds, which is what
// PostgreSQL's receivers wait always. A random quarter of it keeps many receivers
// from returning to a server in the same moment. The zero value is ready.
type backOff struct {
	failures int // in a row
}

const (
	shortestPause = 500 * time.Millisecond
	longestPause  = 5 * time.Second // RECONNECT_SLEEP_TIME in src/bin/pg_basebackup/pg_receivewal.c, PostgreSQL 18
)

// next returns the next pause.
func (b *backOff) next() time.Duration {
	pause := min(shortestPause<<min(b.failures, 10), longestPause)
	b.failures++
	return pause - rand.N(pause/4)
}

// reset is told of a success.
func (b *backOff) reset() { b.failures = 0 }
