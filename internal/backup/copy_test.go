package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"basin/internal/wal"
)

var (
	errSource = errors.New("the server went away")
	errSink   = errors.New("no space")
	errLog    = errors.New("the log is gone")
	begins    = Start{Position: wal.Position{LSN: 0x2000028, Timeline: 1}, ServerVersion: 180006}
	ends      = wal.Position{LSN: 0x2000120, Timeline: 1}
)

// calls records what happened, from any goroutine.
type calls struct {
	mu  sync.Mutex
	all []string
}

func (c *calls) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, fmt.Sprintf(format, args...))
}

func (c *calls) has(call string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.all, call)
}

// copying is a copy of three members with a log, in which each step can be
// replaced. Neither its source nor its sink looks at the context by itself.
type copying struct {
	calls
	steps map[string]func(context.Context) error // by the call that is recorded
	noLog bool
	taken int // members
}

func (c *copying) step(ctx context.Context, call string) error {
	c.add("%s", call)
	if f := c.steps[call]; f != nil {
		return f(ctx)
	}
	return nil
}

func (c *copying) run(ctx context.Context) error {
	o := Options{Log: c.log, Started: c.started, Ended: c.ended}
	if c.noLog {
		o.Log = nil
	}
	return Copy(ctx, copySink{c}, copySource{c}, o)
}

func (c *copying) started(s Start) { c.add("started at %v", s.Position.LSN) }

func (c *copying) ended(end wal.Position) {
	_ = c.step(context.Background(), fmt.Sprintf("ended at %v", end.LSN))
}

// log does what a log has to: it runs until it is told the end, or cancelled.
func (c *copying) log(ctx context.Context, start Start, stop <-chan wal.Position) error {
	if start.Position != begins.Position {
		return fmt.Errorf("the log starts at %v", start.Position)
	}
	if f := c.steps["log"]; f != nil {
		return f(ctx)
	}
	select {
	case end := <-stop:
		return c.step(ctx, fmt.Sprintf("log told %v", end.LSN))
	case <-ctx.Done():
		c.add("log cancelled")
		return ctx.Err()
	}
}

type copySource struct{ c *copying }

func (s copySource) Begin(ctx context.Context) (Start, error) {
	return begins, s.c.step(ctx, "source begins")
}

func (s copySource) Next(ctx context.Context) (Member, io.Reader, error) {
	k := s.c.taken
	s.c.taken++
	if err := s.c.step(ctx, fmt.Sprintf("next %d", k)); err != nil {
		return Member{}, nil, err
	}
	if k == 3 {
		return Member{}, nil, io.EOF
	}
	return Member{Path: fmt.Sprint(k), Kind: File, Size: 1}, strings.NewReader("x"), nil
}

func (s copySource) End(ctx context.Context) (wal.Position, error) {
	return ends, s.c.step(ctx, "source ends")
}

func (s copySource) Close() error { return s.c.step(context.Background(), "source closes") }

type copySink struct{ c *copying }

func (s copySink) Begin(ctx context.Context, start Start) error {
	if start.Position != begins.Position {
		return fmt.Errorf("the sink begins at %v", start.Position)
	}
	return s.c.step(ctx, "sink begins")
}

func (s copySink) Put(ctx context.Context, m Member, r io.Reader) error {
	if content, err := io.ReadAll(r); err != nil || string(content) != "x" {
		return fmt.Errorf("put %s: %q, %w", m.Path, content, err)
	}
	return s.c.step(ctx, "put "+m.Path)
}

func (s copySink) Commit(ctx context.Context, end wal.Position) error {
	return s.c.step(ctx, fmt.Sprintf("commit %v", end.LSN))
}

func (s copySink) Close() error { return s.c.step(context.Background(), "sink closes") }

// whole are the calls of a copy that goes well, of which none is Close: that is
// for who called Copy.
var wholeCopy = []string{
	"source begins", "started at 0/2000028", "sink begins",
	"next 0", "put 0", "next 1", "put 1", "next 2", "put 2", "next 3",
	"source ends", "ended at 0/2000120", "log told 0/2000120", "commit 0/2000120",
}

func TestCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &copying{}
		if err := c.run(t.Context()); err != nil {
			t.Error(err)
		}
		if !slices.Equal(c.all, wholeCopy) {
			t.Errorf("calls:\n%s\nwant:\n%s", strings.Join(c.all, "\n"), strings.Join(wholeCopy, "\n"))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := &copying{noLog: true}
		if err := c.run(t.Context()); err != nil {
			t.Error(err)
		}
		want := slices.DeleteFunc(slices.Clone(wholeCopy), func(s string) bool { return strings.HasPrefix(s, "log") })
		if !slices.Equal(c.all, want) {
			t.Errorf("without a log, calls:\n%s\nwant:\n%s", strings.Join(c.all, "\n"), strings.Join(want, "\n"))
		}
	})
	c := &copying{}
	if err := Copy(t.Context(), copySink{c}, copySource{c}, Options{}); err != nil || !c.has("commit 0/2000120") {
		t.Errorf("without options: %v, calls %q", err, c.all)
	}
}

// TestCopySalvages ends with bad pages: the log goes on to its end, and the sink
// keeps what it has in good order, if it can, without committing it.
func TestCopySalvages(t *testing.T) {
	for _, bad := range []error{ErrPageChecksums, fmt.Errorf("final: %w", ErrPageChecksums)} {
		synctest.Test(t, func(t *testing.T) {
			c := &copying{steps: map[string]func(context.Context) error{"source ends": func(context.Context) error { return bad }}}
			if err := c.run(t.Context()); !errors.Is(err, ErrPageChecksums) {
				t.Errorf("error is %v", err)
			}
			if !c.has("log told 0/2000120") || c.has("commit 0/2000120") {
				t.Errorf("calls %q", c.all)
			}
			salvaged := 0
			c = &copying{steps: c.steps}
			err := Copy(t.Context(), salvager{copySink{c}, &salvaged}, copySource{c}, Options{})
			if !errors.Is(err, ErrPageChecksums) || salvaged != 1 || c.has("commit 0/2000120") {
				t.Errorf("%v, salvaged %d times, calls %q", err, salvaged, c.all)
			}
		})
	}
}

type salvager struct {
	copySink
	times *int
}

func (s salvager) Salvage(context.Context, wal.Position) error {
	*s.times++
	return nil
}

// TestCopyFails lets each step fail. What comes after the step in a copy that
// goes well is not reached, the log has ended, and nothing is committed.
func TestCopyFails(t *testing.T) {
	wrapped := fmt.Errorf("could not read COPY data: %w", io.EOF)
	for _, c := range []struct {
		step string
		err  error
		log  string // what became of it
	}{
		{"source begins", errSource, "never started"},
		{"sink begins", errSink, "never started"},
		{"next 0", errSource, "cancelled"},
		{"next 2", errSource, "cancelled"},
		{"next 1", wrapped, "cancelled"}, // not taken for the backup's end
		{"next 3", io.ErrUnexpectedEOF, "cancelled"},
		{"put 0", errSink, "cancelled"},
		{"put 2", errSink, "cancelled"},
		{"put 1", io.EOF, "cancelled"},
		{"source ends", errSource, "cancelled"},
		{"log told 0/2000120", errLog, "told"},
		{"commit 0/2000120", errSink, "told"},
	} {
		t.Run(fmt.Sprintf("%s: %v", c.step, c.err), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				copying := &copying{steps: map[string]func(context.Context) error{c.step: func(context.Context) error { return c.err }}}
				if err := copying.run(t.Context()); !errors.Is(err, c.err) {
					t.Errorf("error is %v", err)
				}
				log := map[string]bool{"cancelled": copying.has("log cancelled"), "told": copying.has("log told 0/2000120"), "never started": true}
				if !log[c.log] || c.log == "never started" && (log["cancelled"] || log["told"]) {
					t.Errorf("the log is not %s: %q", c.log, copying.all)
				}
				reached := slices.Index(wholeCopy, c.step)
				for i, call := range wholeCopy {
					if got := copying.has(call); got != (i <= reached) {
						t.Errorf("%s: %t", call, got)
					}
				}
				if copying.has("source closes") || copying.has("sink closes") {
					t.Error("the caller closes")
				}
			})
		})
	}
}

// TestCopyWaitsForTheLog holds the log back after it was told the end.
func TestCopyWaitsForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := &copying{steps: map[string]func(context.Context) error{
			"log told 0/2000120": func(context.Context) error { <-release; return nil },
		}}
		done := make(chan error, 1)
		go func() { done <- c.run(t.Context()) }()
		synctest.Wait()
		if !c.has("log told 0/2000120") || c.has("commit 0/2000120") {
			t.Errorf("the log is still at work: %q", c.all)
		}
		close(release)
		if err := <-done; err != nil || !c.has("commit 0/2000120") {
			t.Errorf("%v, calls %q", err, c.all)
		}
	})
}

// TestCopyTellsTheLogWithoutWaiting has a log that does not listen.
func TestCopyTellsTheLogWithoutWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &copying{steps: map[string]func(context.Context) error{"log": func(context.Context) error { return errLog }}}
		c.steps["next 0"] = func(ctx context.Context) error { <-ctx.Done(); return nil }
		if err := c.run(t.Context()); err != errLog {
			t.Errorf("error is %v", err)
		}
		if c.has("next 1") || c.has("commit 0/2000120") {
			t.Errorf("went on: %q", c.all)
		}
	})
}

// TestCopyStopsWithTheLog lets the log fail while a step is in hand that waits
// for nothing but the context.
func TestCopyStopsWithTheLog(t *testing.T) {
	for _, step := range []string{"next 0", "put 0", "next 3", "source ends"} {
		for _, gives := range []string{"gives up", "goes on"} {
			t.Run(step+" "+gives, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					waiting := make(chan struct{})
					c := &copying{steps: map[string]func(context.Context) error{
						"log": func(context.Context) error { <-waiting; return errLog },
						step: func(ctx context.Context) error {
							close(waiting)
							<-ctx.Done()
							if gives == "goes on" {
								return nil
							}
							return ctx.Err()
						},
					}}
					if err := c.run(t.Context()); err != errLog {
						t.Errorf("error is %v, not the first that went wrong", err)
					}
					if c.has("commit 0/2000120") {
						t.Error("commits without its log")
					}
				})
			})
		}
	}
}

// TestCopyCancelled cancels the context in each step, which then goes well as if
// it did not care.
func TestCopyCancelled(t *testing.T) {
	for _, noLog := range []bool{false, true} {
		for _, step := range []string{"next 0", "put 0", "next 1", "put 2", "next 3", "source ends", "ended at 0/2000120", "log told 0/2000120"} {
			if noLog && strings.HasPrefix(step, "log") {
				continue
			}
			t.Run(fmt.Sprintf("%s, no log %t", step, noLog), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					c := &copying{noLog: noLog, steps: map[string]func(context.Context) error{step: func(context.Context) error { cancel(); return nil }}}
					if err := c.run(ctx); !errors.Is(err, context.Canceled) {
						t.Errorf("error is %v", err)
					}
					if c.has("commit 0/2000120") {
						t.Error("commits")
					}
					if k := slices.Index(c.all, step); k >= 0 && strings.HasPrefix(step, "put") && slices.Contains(c.all[k:], "next 3") {
						t.Errorf("goes on to the end: %q", c.all)
					}
				})
			})
		}
	}
}

// TestCopyCancelledWhileWaiting cancels a copy of which each part waits for ever.
func TestCopyCancelledWhileWaiting(t *testing.T) {
	for _, step := range []string{"source begins", "sink begins", "next 1", "put 1", "source ends", "log told 0/2000120", "commit 0/2000120"} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				c := &copying{steps: map[string]func(context.Context) error{step: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}}
				done := make(chan error, 1)
				go func() { done <- c.run(ctx) }()
				synctest.Wait()
				if !c.has(step) {
					t.Errorf("does not come so far: %q", c.all)
				}
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Errorf("error is %v", err)
				}
			})
		})
	}
}

func TestNowhere(t *testing.T) {
	c := &copying{}
	var sink Nowhere
	if err := Copy(t.Context(), sink, copySource{c}, Options{}); err != nil {
		t.Error(err)
	}
	r := strings.NewReader("read to its end")
	if err := sink.Put(t.Context(), Member{Path: "a", Kind: File}, r); err != nil || r.Len() != 0 {
		t.Errorf("%v, %d bytes left", err, r.Len())
	}
	if err := sink.Put(t.Context(), Member{Path: "d", Kind: Dir}, nil); err != nil {
		t.Error(err)
	}
	if err := sink.Put(t.Context(), Member{Path: "a", Kind: File}, io.MultiReader(r, failing{})); err != errSource {
		t.Errorf("error is %v", err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errSource }

func TestProgressPath(t *testing.T) {
	var p Progress
	if got := p.Path(); got != "" {
		t.Errorf("at first %q", got)
	}
	for _, want := range []string{"base/1/1259", ""} {
		p.SetPath(want)
		if got := p.Path(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
