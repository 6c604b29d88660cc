package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"basin/internal/pgtest"
	"basin/internal/wal"
)

// kills is how often each kind of receiver is killed: all of them together, 72 times.
const kills = 9

// TestReceiverKilled kills receivers at any moment of their lives, above all while
// they fetch again what they had of a segment. The machine goes on, so that what
// was shown as written has to be there as well as what was shown as flushed.
func TestReceiverKilled(t *testing.T) { // not beside others: it has a load
	basin := newProgram(t, "pg_receivewal")
	archive := pgtest.TempDir(t)
	s := pgtest.Start(t, archivingConfig(archive))
	pgtest.StartLoad(t.Context(), t, s, 2)
	for _, compression := range compressions {
		for _, mode := range []string{"", "--synchronous"} {
			name := strings.TrimSuffix("killed_"+compression+"_"+strings.TrimPrefix(mode, "--"), "_")
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				args := []string{"-Z", compression, "-s", "1"}
				if mode != "" {
					args = append(args, mode)
				}
				r := newLogReceiver(t, basin, s, newReceivedLog(t, s, archive), name, args...)
				r.startsSlowly(t, s, name)
				watch := pgtest.WatchReceiver(t, s, name)
				slot := "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '" + name + "'"
				made := lsn(t, s, slot) // in the middle of a segment, of which all is kept for it
				for round := range kills {
					if round%3 == 0 { // a record that is longer than a segment
						s.Exec(t, "SELECT pg_logical_emit_message(false, 'long', repeat('a long record ', 90000))")
					}
					before, _ := watch.Acknowledged()
					r.startUntil(t, (onItsWay+moment(round))%moments, func() bool {
						write, _ := watch.Acknowledged()
						return write > before
					}).kill(t)
					watch.Gone(t)
					write, flush := watch.Acknowledged()
					r.log.has(t, "flushed", wal.LSN(flush))
					if moved := lsn(t, s, slot); moved != made { // else the receiver has told of nothing yet
						r.log.has(t, "flushed", moved)
					}
					r.log.has(t, "written", wal.LSN(write))
					if t.Failed() {
						t.Fatalf("it holds %q", entries(t, r.log.path))
					}
				}
				if n := r.finish(t, s); n < kills/2 {
					t.Errorf("only %d segments", n)
				}
			})
		}
	}
}

// slowStart lets a segment's worth of bytes pass in 130 ms, and the rest as it comes.
func slowStart(to io.Writer, from io.Reader) error {
	for range segmentSize >> 14 {
		if _, err := io.CopyN(to, from, 1<<14); err != nil {
			return err
		}
		pause(2 * time.Millisecond)
	}
	return whole(to, from)
}

// startsSlowly puts slowStart between a receiver and its server.
func (r *logReceiver) startsSlowly(t *testing.T, s *pgtest.Server, name string) {
	t.Helper()
	r.args = append(r.args, "-d", proxy(t, s, func(int32) wire { return slowStart })+" application_name="+name)
}

// moment is when a receiver is to be killed.
type moment int

const (
	anyMoment     moment = iota
	fetchingAgain        // a segment of which there is a part already
	onItsWay
	moments // how many there are
)

// startUntil starts a receiver, behind slowStart, and waits for a moment. progressed
// says whether something new has come.
func (r *logReceiver) startUntil(t *testing.T, m moment, progressed func() bool) *process {
	t.Helper()
	was := r.log.look(t)
	p := r.start(t)
	switch m {
	case anyMoment:
		pause(rand.N(400 * time.Millisecond))
	case fetchingAgain:
		r.log.changes(t, was)
		pause(rand.N(130 * time.Millisecond))
	case onItsWay:
		eventually(t, "progress", progressed)
		pause(rand.N(200 * time.Millisecond))
	}
	return p
}

// TestPrimaryKilled kills a server under its receivers, which come back to it by
// themselves.
func TestPrimaryKilled(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_receivewal")
	archive := pgtest.TempDir(t)
	s := pgtest.Start(t, archivingConfig(archive))
	var receivers []*logReceiver
	var processes []*process
	for i, compression := range compressions {
		args := []string{"-Z", compression, "-s", "1"}
		if i%2 == 1 {
			args = append(args, "--synchronous")
		}
		r := newLogReceiver(t, basin, s, newReceivedLog(t, s, archive), "crash_"+compression, args...)
		receivers, processes = append(receivers, r), append(processes, r.start(t))
	}
	for range 4 {
		load := pgtest.StartLoad(t.Context(), t, s, 2)
		eventually(t, "load", func() bool { return load.Committed() > 20 })
		s.WaitFor(t, fmt.Sprintf(`SELECT count(*) FROM pg_stat_replication
			WHERE application_name LIKE 'crash_%%' AND write_lsn > '%v'`, lsn(t, s, "SELECT pg_current_wal_lsn()")), fmt.Sprint(len(receivers)))
		pause(rand.N(300 * time.Millisecond))
		s.Kill(t)
		load.Stop(t)
		s.Start(t)
	}
	s.Exec(t, "CREATE TABLE after_the_last_crash AS SELECT g FROM generate_series(1, 1000) g")
	end := lsn(t, s, "SELECT pg_switch_wal()")
	for i, r := range receivers {
		r.log.arrives(t, processes[i], 1, end)
		processes[i].ends(t, syscall.SIGTERM)
		r.log.checkComplete(t)
		if n := r.log.isWhole(t, r.log.first, end); n < 4 {
			t.Errorf("%v: only %d segments", r.args, n)
		}
	}
}
