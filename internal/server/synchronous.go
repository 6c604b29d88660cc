package server

import (
	"context"
	"regexp"
	"strings"
	"sync"
	"time"
)

// standbys is what the cluster's synchronous_standby_names are, as they were heard of last.
// The zero value has none.
type standbys struct {
	mu      sync.Mutex
	names   string
	changed chan struct{} // closed once they are others; nil while nobody waits for that
}

// set notes the names.
func (s *standbys) set(names string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if names == s.names {
		return
	}
	s.names = names
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// has says whether commits may wait for a standby of a name, and returns a channel that is
// closed when that may have changed.
func (s *standbys) has(application string) (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return synchronous(s.names, application), s.changed
}

// A name in synchronous_standby_names, as it stands or in quotes.
//
// Source: src/backend/replication/syncrep_scanner.l, PostgreSQL 18.
var standbyName = regexp.MustCompile(`"(?:[^"]|"")*"|[^ \t\n\r\f\v,()"]+`)

// synchronous says whether commits may wait for a standby of a name. It takes the words
// FIRST and ANY for names too.
//
// Source: SyncRepGetStandbyPriority in src/backend/replication/syncrep.c, PostgreSQL 18.
func synchronous(names, application string) bool {
	for _, name := range standbyName.FindAllString(names, -1) {
		if quoted, ok := strings.CutPrefix(name, `"`); ok {
			name = strings.ReplaceAll(strings.TrimSuffix(quoted, `"`), `""`, `"`)
		}
		if name == "*" || strings.EqualFold(name, application) {
			return true
		}
	}
	return false
}

// standbysInterval is how long a stream may go on that does not count for the cluster, after
// commits have begun to wait for it.
const standbysInterval = 5 * time.Second

// watchStandbys hears of other synchronous_standby_names while there are streams, until ctx
// ends.
func (s *Server) watchStandbys(ctx context.Context) {
	for pause(ctx, standbysInterval) {
		if s.counts.streams.Load() == 0 {
			continue
		}
		if d, err := s.o.Cluster.Describe(ctx); err == nil { // else it has no commits that could wait
			s.standbys.set(d.Synchronous)
		}
	}
}
