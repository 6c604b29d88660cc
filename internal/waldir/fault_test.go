package waldir

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"basin/internal/seal"
	"basin/internal/wal"
)

// faults are the ways a disk can fail at one call.
var faults = []struct {
	name   string
	same   []bool // whether the same Directory goes on
	forbid func(n, at int, what string) error
}{
	{"once", []bool{true, false}, func(n, at int, _ string) error {
		if n == at {
			return syscall.EIO
		}
		return nil
	}},
	{"full from then on", []bool{true}, func(n, at int, what string) error {
		verb, _, _ := strings.Cut(what, " ")
		switch verb {
		case "create", "write", "reserve", "mkdir", "link":
			if n >= at {
				return syscall.ENOSPC
			}
		}
		return nil
	}},
	{"broken from then on", []bool{false}, func(n, at int, _ string) error {
		if n >= at {
			return syscall.EIO
		}
		return nil
	}},
}

// TestDiskFails has each call of the disk fail, in each way, while a receiver goes on
// from what another left. That the disk failed is told; nothing that was acknowledged
// is lost, even if the power fails then; and once the disk is well the rest can be
// received, by the same Directory or by another one.
func TestDiskFails(t *testing.T) {
	l := newLog(1, 5, 3).fill(2*segmentSize-300_000, 60_000)
	mid := l.start + 500_000
	for _, c := range []struct {
		name   string
		first  seal.Algorithm
		then   seal.Algorithm
		sooner func(m *memory) // makes what is there before
	}{
		{"a stream", seal.None, seal.None, nil},
		{"a compressed one", seal.Gzip, seal.LZ4, nil},
		{"a damaged segment", seal.None, seal.None, func(m *memory) {
			m.put(l.nth(0), l.segment(0)[:700_000])
			m.put(l.nth(0)+".gz.partial", packed(t, l.bytes[:600_000], seal.Gzip)[:40_000])
		}},
	} {
		for _, f := range faults {
			for _, same := range f.same {
				t.Run(fmt.Sprintf("%s, %s, same directory %t", c.name, f.name, same), func(t *testing.T) {
					t.Parallel()
					for at := 1; ; at++ {
						s := newSession(t, Options{Compression: seal.Spec{Algorithm: c.then}})
						if c.sooner != nil {
							c.sooner(s.m)
						} else {
							s.open(c.first).receive(l, mid).close()
						}
						if !failAt(t, s, l, same, func(n int, what string) error { return f.forbid(n, at, what) }, c.then) {
							break
						}
					}
				})
			}
		}
	}
}

// failAt receives the rest of a log from a disk that fails, and again from one that
// does not. It returns false if the disk did not fail.
func failAt(t *testing.T, s *session, l *log, same bool, fault func(n int, what string) error, method seal.Algorithm) bool {
	t.Helper()
	failed := ""
	var told []error
	s.m.count = 0
	s.m.fault = func(n int, what string) error {
		err := fault(n, what)
		if err != nil {
			if failed == "" {
				failed = what
			}
			return pathError("call", what, err)
		}
		return nil
	}
	heal := func() {
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		s.m.fault = nil
	}
	o := s.o
	o.Compression.Algorithm = method
	o.Warn = func(err error) { told = append(told, err) }
	acked := l.start
	promised := func(at wal.LSN) { acked = max(acked, at) }
	d, err := openOn(s.m, o)
	if err == nil {
		err = errors.Join(
			receiver{d: d, log: l, piece: 130_000, every: 2, acked: promised}.goOn(l.end()),
			d.History("00000002.history", []byte("1\t0/500000\tx\n")))
		if !same {
			err = errors.Join(err, d.Close())
		}
	}
	heal()
	if failed == "" {
		must(t, err)
		if d != nil {
			must(t, d.Close())
		}
		return false
	}
	// What is removed in vain is removed when the directory is opened again.
	if err == nil && len(told) == 0 && !(strings.HasPrefix(failed, "remove ") && strings.HasSuffix(failed, ".tmp")) {
		if same {
			err = d.Close() // waits for the compression
		}
		if err == nil && len(told) == 0 {
			t.Fatalf("%s fails, and nobody is told", failed)
		}
		d, err = openOn(s.m, o)
		must(t, err)
	}

	checkPower(t, s.m, o, "after "+failed+" failed", promise{log: l, upto: acked})

	if !same || d == nil {
		d, err = openOn(s.m, o)
		must(t, err)
	}
	if err := (receiver{d: d, log: l, piece: 400_000}).goOn(l.end()); err != nil {
		t.Fatalf("going on after %s failed: %v", failed, err)
	}
	must(t, d.History("00000002.history", []byte("1\t0/500000\tx\n")))
	must(t, d.Close())
	if err := holds(d, l, l.end()); err != nil {
		t.Fatalf("after %s failed: %v", failed, err)
	}
	checkPower(t, s.m, o, "after "+failed+" failed, and the rest was received", promise{log: l, upto: l.end()})
	return true
}

// checkPower has the power fail with the worst of luck, and looks whether a promise is
// kept.
func checkPower(t *testing.T, m *memory, o Options, when string, p promise) {
	t.Helper()
	w := newWorld()
	for _, step := range m.steps {
		w.take(step)
	}
	d, err := openOn(w.left(luck{data: "none"}), o)
	must(t, err)
	if err := errors.Join(kept(d, []promise{p}), d.Close()); err != nil {
		t.Fatalf("the power fails %s: %v", when, err)
	}
}
