package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"basin/internal/backup"
)

// phase is what a backup is doing.
type phase uint8

const (
	phaseCheckpoint phase = iota + 1 // waiting for the server's checkpoint
	phaseReceive                     // members arrive
	phaseLog                         // waiting for the rest of the log
	phaseSync                        // making it durable
	phaseDone
)

// progress shows how far a backup is, on the standard error: in pg_basebackup's
// own lines where nobody watches, as one line that is redrawn on a terminal.
//
// All methods may be called on nil, which shows nothing, and after stop.
type progress struct {
	mu      sync.Mutex
	view    progressView
	stopped bool

	quit, done chan struct{}
}

// progressView is one way to show progress. Its methods are not called at once.
type progressView interface {
	enter(phase)
	tick()
	stop() // in whatever phase it is
}

// progressForm says how progress is shown. The zero value is line by line.
type progressForm struct {
	Redraw  bool       // one line of a terminal, drawn again and again
	Verbose bool       // name what is in hand
	ASCII   bool       // no character beyond ASCII when redrawing
	Width   func() int // cells in a line of the terminal; not nil when redrawing
	Return  bool       // lines that are not the last end in a carriage return, not a newline
}

// progressFormFor finds out how to show progress where r prints. It is
// pg_basebackup's form unless that is a terminal which can clear a line, and r
// prints text.
func progressFormFor(r *report, verbose bool, getenv func(string) string) progressForm {
	form := progressForm{Verbose: verbose}
	if r.log != nil || !r.isTerminal() {
		return form
	}
	if name := getenv("TERM"); name == "" || name == "dumb" {
		form.Return = true
		return form
	}
	form.Redraw = true
	form.ASCII = !drawsNarrow(getenv)
	form.Width = func() int { // asked each time, as the terminal may have changed its size
		if width, _, err := term.GetSize(int(r.out.Fd())); err == nil && width > 0 {
			return width
		}
		return 80
	}
	return form
}

// drawsNarrow says whether the locale's characters are UTF-8 and those for
// drawing one cell wide, which they are not everywhere in East Asia.
func drawsNarrow(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		locale := strings.ToLower(getenv(name))
		if locale == "" {
			continue
		}
		for _, wide := range []string{"ja", "ko", "zh"} {
			if strings.HasPrefix(locale, wide) {
				return false
			}
		}
		return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
	}
	return false
}

// startProgress begins to show counts, in phaseCheckpoint, until stop.
func startProgress(r *report, counts *backup.Progress, form progressForm) *progress {
	p := &progress{quit: make(chan struct{}), done: make(chan struct{})}
	every := time.Second
	if form.Redraw {
		p.view = newProgressBar(r, counts, form)
		every = time.Second / 4
	} else {
		p.view = &progressLines{report: r, counts: counts, form: form}
	}
	p.view.enter(phaseCheckpoint)
	go p.poll(every)
	return p
}

func (p *progress) poll(every time.Duration) {
	defer close(p.done)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-p.quit:
			return
		case <-ticker.C:
			p.with(progressView.tick)
		}
	}
}

// with calls f unless the showing was stopped.
func (p *progress) with(f func(progressView)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		f(p.view)
	}
}

// enter says that the backup came to its next phase. What that shows is printed
// when enter returns.
func (p *progress) enter(to phase) {
	if p != nil {
		p.with(func(v progressView) { v.enter(to) })
	}
}

// stop ends the showing. Before phaseDone it is that of a failure.
func (p *progress) stop() {
	if p == nil {
		return
	}
	p.with(func(v progressView) {
		v.stop()
		p.stopped = true
		close(p.quit)
	})
	<-p.done
}

// progressLines shows progress in pg_basebackup's lines.
//
// Source: progress_report in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
type progressLines struct {
	report  *report
	counts  *backup.Progress
	form    progressForm
	phase   phase
	total   int64  // kB; grows when the estimate was too small
	printed string // the line last printed
}

func (l *progressLines) enter(to phase) {
	from := l.phase
	l.phase = to
	switch {
	case to == phaseCheckpoint && !l.form.Verbose:
		l.report.print("waiting for checkpoint" + l.end())
	case from == phaseReceive:
		l.report.print(l.line(true) + "\n")
	}
}

func (l *progressLines) tick() {
	if l.phase != phaseReceive {
		return
	}
	if line := l.line(false); line != l.printed {
		l.report.print(line + l.end())
		l.printed = line
	}
}

func (l *progressLines) stop() {}

func (l *progressLines) end() string {
	if l.form.Return {
		return "\r"
	}
	return "\n"
}

// pathWidth is the room for a path in bytes.
const pathWidth = 35 // VERBOSE_FILENAME_LENGTH

// line returns the line for the counts of this moment.
func (l *progressLines) line(finished bool) string {
	done, count := l.counts.Done.Load()/1024, l.counts.Count.Load()
	l.total = max(l.total, l.counts.Total.Load()/1024)
	percent := percentOf(done, l.total)
	l.total = max(l.total, done)
	tablespace := l.counts.Tablespace.Load()
	if finished {
		tablespace = count
		if l.form.Verbose {
			percent = 100
		}
	}
	noun := "tablespaces"
	if count == 1 {
		noun = "tablespace"
	}
	total := fmt.Sprint(l.total)
	line := fmt.Sprintf("%*d/%s kB (%d%%), %d/%d %s", len(total), done, total, percent, tablespace, count, noun)
	path := l.counts.Path()
	if l.form.Return {
		path = printable(path, false)
	}
	switch {
	case !l.form.Verbose:
	case finished: // blanks over the last path
		line += strings.Repeat(" ", 1+pathWidth+len("(...)"))
	case len(path) > pathWidth:
		line += " (..." + path[len(path)-pathWidth+len("..."):] + ")"
	default:
		line += fmt.Sprintf(" (%s%s)", path, strings.Repeat(" ", pathWidth-len(path)))
	}
	return line
}

// percentOf returns how much of total is done, from 0 to 100.
func percentOf(done, total int64) int {
	if total <= 0 {
		return 0
	}
	return int(min(float64(done)/float64(total), 1) * 100)
}
