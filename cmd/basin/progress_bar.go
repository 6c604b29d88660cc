package main

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"basin/internal/backup"
)

// progressBar shows progress on the last line of a terminal. It leaves the
// terminal in no state that would have to be undone, however the process ends.
type progressBar struct {
	report *report
	counts *backup.Progress
	form   progressForm

	phase   phase
	since   time.Time // when the phase began
	sampled time.Time // when done was looked at for the speed
	done    int64     // bytes then
	speed   average   // bytes a second
}

func newProgressBar(r *report, counts *backup.Progress, form progressForm) *progressBar {
	return &progressBar{report: r, counts: counts, form: form}
}

func (b *progressBar) enter(to phase) {
	now := time.Now()
	if b.phase == phaseReceive {
		b.report.setStatus("")
		b.report.print(b.summary(now.Sub(b.since)) + "\n")
	}
	b.phase, b.since = to, now
	b.sampled, b.done = now, b.counts.Done.Load()
	b.tick()
}

func (b *progressBar) stop() {
	if b.phase != phaseReceive {
		b.report.setStatus("")
	}
	b.report.endStatus() // how far it came is worth keeping
}

func (b *progressBar) tick() {
	now := time.Now()
	waiting := func(what string) string { return what + "  " + clock(now.Sub(b.since)) }
	line := ""
	switch b.phase {
	case phaseCheckpoint:
		line = waiting("waiting for checkpoint")
	case phaseReceive:
		b.sample(now)
		line = b.receiving(b.form.Width() - spare)
	case phaseLog:
		line = waiting("waiting for write-ahead log")
	case phaseSync:
		line = waiting("syncing data to disk")
	}
	b.report.setStatus(cutRight(line, b.form.Width()-spare))
}

// spare cells at the end of the line keep the terminal from wrapping it, which
// would have the wrong line redrawn, even when it echoes ^C.
const spare = 3

// The speed is looked at when something came, but not more often than a server
// tells its progress, and when nothing came for a while.
const (
	sampleEvery  = time.Second // PROGRESS_REPORT_MILLISECOND_THRESHOLD in basebackup_copy.c
	stalledAfter = 3 * time.Second
)

func (b *progressBar) sample(now time.Time) {
	done, elapsed := b.counts.Done.Load(), now.Sub(b.sampled)
	if elapsed < sampleEvery || done == b.done && elapsed < stalledAfter {
		return
	}
	b.speed.add(float64(done-b.done)/elapsed.Seconds(), elapsed)
	b.sampled, b.done = now, done
}

// average follows a value that jumps: what is older than some seconds hardly counts.
type average struct {
	value, weight float64
}

// smoothing is the time after which a sample counts for 1/e.
const smoothing = 5 * time.Second

// add counts a sample that stands for the time since the one before it.
func (a *average) add(sample float64, elapsed time.Duration) {
	keep := math.Exp(-elapsed.Seconds() / smoothing.Seconds())
	a.value = a.value*keep + sample*(1-keep)
	a.weight = a.weight*keep + 1 - keep
}

// now returns the average, and false if there was no sample.
func (a *average) now() (float64, bool) {
	if a.weight == 0 {
		return 0, false
	}
	return a.value / a.weight, true
}

// The widths of the bar in cells.
const (
	minBar, maxBar = 10, 30
	minPath        = 12
	gap            = "  "
)

// receiving returns the line while members arrive, at most width cells wide. If
// it is too narrow, what is least important is left out.
func (b *progressBar) receiving(width int) string {
	done, total := b.counts.Done.Load(), b.counts.Total.Load()
	if total > 0 {
		total = max(total, done)
	}
	fields, room := b.fields(done, total), width
	for i, field := range fields {
		room -= len(field) // all ASCII
		if i > 0 {
			room -= len(gap)
		}
		if room < 0 && i > 0 {
			fields, room = fields[:i], room+len(field)+len(gap)
			break
		}
	}
	line := strings.Join(fields, gap)
	path := ""
	if b.form.Verbose {
		path = printable(b.counts.Path(), b.form.ASCII)
	}
	if bar := room - len(gap); total > 0 && bar >= minBar {
		bar = min(bar, maxBar)
		if path != "" {
			bar = min(bar, maxBar/2)
		}
		line = b.bar(float64(done)/float64(total), bar) + gap + line
		room -= bar + len(gap)
	}
	if path != "" && room-len(gap) >= minPath {
		line += gap + cutLeft(path, room-len(gap), b.form.ASCII)
	}
	return line
}

// fields returns what is told in numbers, the most important first, each as wide
// each time as can be, so that the line stands still.
func (b *progressBar) fields(done, total int64) []string {
	speed, known := b.speed.now()
	amount := size(done, done)
	var fields []string
	if total > 0 {
		whole := size(total, total)
		part, _, _ := strings.Cut(size(done, total), " ")
		amount = fmt.Sprintf("%*s/%s", strings.IndexByte(whole, ' '), part, whole)
		fields = append(fields, fmt.Sprintf("%3d%%", percentOf(done, total)))
	}
	fields = append(fields, amount)
	if known {
		fields = append(fields, fmt.Sprintf("%9s", size(int64(speed), int64(speed))+"/s"))
	}
	const longest = 100 * time.Hour // a guess beyond is worth nothing
	if seconds := float64(total-done) / speed; known && total > 0 && seconds < longest.Seconds() {
		fields = append(fields, fmt.Sprintf("%10s", clock(time.Duration(seconds*float64(time.Second)))+" left"))
	}
	if count := b.counts.Count.Load(); count > 1 {
		fields = append(fields, fmt.Sprintf("tablespace %d/%d", min(b.counts.Tablespace.Load()+1, count), count))
	}
	return fields
}

// bar draws a share from 0 to 1 over width cells, to half a cell.
func (b *progressBar) bar(share float64, width int) string {
	if b.form.ASCII {
		full := int(share * float64(width-2))
		return "[" + strings.Repeat("#", full) + strings.Repeat("-", width-2-full) + "]"
	}
	halves := int(share * float64(2*width))
	return strings.Repeat("━", halves/2) + strings.Repeat("╸", halves%2) + strings.Repeat("─", width-halves/2-halves%2)
}

// summary returns what stays to be read when all members came.
func (b *progressBar) summary(elapsed time.Duration) string {
	done, count := b.counts.Done.Load(), b.counts.Count.Load()
	s := size(done, done) + " in " + clock(elapsed)
	if elapsed >= time.Second {
		speed := int64(float64(done) / elapsed.Seconds())
		s += ", " + size(speed, speed) + "/s"
	}
	if count > 1 {
		s += fmt.Sprintf(", %d tablespaces", count)
	}
	return s
}

// size returns n bytes in the unit that suits unit bytes, with three digits in
// all where that is one. The units are PostgreSQL's, of 1024 each.
func size(n, unit int64) string {
	names := [...]string{"kB", "MB", "GB", "TB", "PB"}
	value, of, i := float64(n)/1024, float64(unit)/1024, 0
	for of >= 1000 && i < len(names)-1 {
		value, of, i = value/1024, of/1024, i+1
	}
	digits := 0
	if i > 0 && of < 99.95 {
		digits = 1
		if of < 9.995 {
			digits = 2
		}
	}
	return fmt.Sprintf("%.*f %s", digits, value, names[i])
}

// clock returns d in minutes and seconds, and hours if there are any.
func clock(d time.Duration) string {
	s := int64(d / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// printable returns s, which came from elsewhere, without what a terminal would
// obey or could not show.
func printable(s string, ascii bool) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError || ascii && r > unicode.MaxASCII {
			return '?'
		}
		return r
	}, s)
}

// cells returns how wide a terminal shows r, if in doubt the wider.
func cells(r rune) int {
	const hangul = 0x1100 // the first of the wide ones
	if r < hangul || r >= 0x2000 && r < 0x2e80 {
		return 1
	}
	return 2
}

// cutLeft returns s filled up or cut at its beginning to at most width cells.
func cutLeft(s string, width int, ascii bool) string {
	whole := 0
	for _, r := range s {
		whole += cells(r)
	}
	if whole <= width {
		return s
	}
	mark := "…"
	if ascii {
		mark = "..."
	}
	room, at := width-utf8.RuneCountInString(mark), len(s)
	for at > 0 {
		r, n := utf8.DecodeLastRuneInString(s[:at])
		if room -= cells(r); room < 0 {
			break
		}
		at -= n
	}
	return mark + s[at:]
}

// cutRight returns as much of the beginning of s as fits into width cells.
func cutRight(s string, width int) string {
	for i, r := range s {
		if width -= cells(r); width < 0 {
			return s[:i]
		}
	}
	return s
}
