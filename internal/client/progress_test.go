package client

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/wal"
)

func TestProgressTellsHowFarBehindAndSinceWhen(t *testing.T) {
	o := from()
	o.SystemID = "7"
	o.Progress = new(ReceiveProgress)
	o.Progress.serverEnd.Store(9 * mib) // of another server
	var started []wal.Position
	o.Started = func(p wal.Position) { started = append(started, p) }
	keeper := &shelf{slow: 10 * time.Minute}
	err := receiving(t, o, keeper, func(s *server) {
		now := func() ReceiveStatus {
			synctest.Wait()
			return o.Progress.Status()
		}
		s.expectQuery("IDENTIFY_SYSTEM")
		s.say(answer([]any{"7", "1", "0/2000C8", nil}), ready)
		s.heard()
		s.say(copyBoth)
		if _, _, reply := s.status(); !reply {
			t.Error("the server is not asked whether it is there")
		}
		if got := now(); got.ServerEnd != 2*mib+200 || len(started) != 0 || !got.BusySince.IsZero() {
			t.Errorf("before the first message: %+v, started at %v", got, started)
		}
		s.say(keepaliveAt(2*mib, 0)) // so much it has sent
		if got := now(); got.ServerEnd != 2*mib+200 || !got.CaughtUp.IsZero() || got.LastHeard.IsZero() || len(started) != 1 || started[0].LSN != 2*mib {
			t.Errorf("after a keepalive: %+v, started at %v", got, started)
		}
		begun := time.Now()
		s.say(walData(2*mib, logOf(1, 2*mib, 100)))
		time.Sleep(time.Minute)
		if got := now(); !got.BusySince.Equal(begun) {
			t.Errorf("while the disk is slow: %+v, want busy since %v", got, begun)
		}
		for range 2 { // when the disk was done, and soon after
			s.status()
		}
		if got := now(); !got.BusySince.IsZero() || got.Received != 2*mib+100 || !got.CaughtUp.IsZero() {
			t.Errorf("half way: %+v", got)
		}
		s.say(walData(2*mib+100, logOf(1, 2*mib+100, 100)))
		if got := now(); got.CaughtUp.IsZero() || got.Received != got.ServerEnd {
			t.Errorf("at the end: %+v", got)
		}
		s.say(errorSaid("57P01", "enough"))
	})
	if err == nil {
		t.Error("no error")
	}
	if got := o.Progress.Status(); !got.BusySince.IsZero() || len(started) != 1 {
		t.Errorf("after the end: %+v, started at %v", got, started)
	}
}

func TestStreamThatLacksTheLogHasNotStarted(t *testing.T) {
	o := from()
	o.Started = func(p wal.Position) { t.Errorf("started at %v", p) }
	err := receiving(t, o, new(shelf), func(s *server) {
		s.started()
		s.say(errorSaid("58P01", "requested WAL segment has already been removed"))
	})
	if !errors.Is(err, ErrGap) {
		t.Errorf("got %v", err)
	}
}
