package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"basin/internal/getopt"
	"basin/internal/usererr"
)

// report prints diagnostics in the form of PostgreSQL's programs, and keeps a
// status line, if there is one, below them; or it prints each as a line of JSON.
//
// Source: src/common/logging.c, PostgreSQL 18.
type report struct {
	name   string // begins every line
	colors map[string]string
	log    *slog.Logger // prints JSON; nil for text

	mu     sync.Mutex
	out    *os.File
	status string // what stands on the terminal's last line
}

// reported is an error that was printed before the cleaning up it led to, and
// is not to be printed again.
type reported struct {
	error
}

// Unwrap returns the error that was printed.
func (r reported) Unwrap() error { return r.error }

// defaultColors is what PG_COLORS is if it is not set.
const defaultColors = "error=01;31:warning=01;35:note=01;36:locus=01"

// newReport returns a report that writes to out under a program's name.
// lookup is asked for PG_COLOR and PG_COLORS.
func newReport(name string, out *os.File, lookup func(string) (string, bool)) *report {
	r := &report{name: name, out: out}
	wanted, _ := lookup("PG_COLOR")
	if wanted == "always" || wanted == "auto" && r.isTerminal() {
		colors, ok := lookup("PG_COLORS")
		if !ok {
			colors = defaultColors
		}
		r.colors = parseColors(colors)
	}
	return r
}

// parseColors reads PG_COLORS: name=SGR, separated by colons.
//
// Source: pg_logging_init in src/common/logging.c, PostgreSQL 18.
func parseColors(s string) map[string]string {
	colors := make(map[string]string)
	for field := range strings.SplitSeq(s, ":") {
		if name, sgr, ok := strings.Cut(field, "="); ok {
			colors[name] = sgr
		}
	}
	return colors
}

// setFormat reads the value of --log-format, and goes on in that form.
func (r *report) setFormat(value string) error {
	switch value {
	case "text":
		r.log = nil
	case "json":
		r.log = slog.New(slog.NewJSONHandler(r.out, nil)).With("program", r.name)
	default:
		return fmt.Errorf("invalid log format \"%s\", must be \"text\" or \"json\"", value)
	}
	return nil
}

// isTerminal says whether what is reported is read by a person as it comes.
func (r *report) isTerminal() bool { return term.IsTerminal(int(r.out.Fd())) }

// error prints an error with its detail and hint.
func (r *report) error(err error) {
	if r.log != nil {
		r.recordError(slog.LevelError, err)
		return
	}
	var b strings.Builder
	switch text := err.Error(); {
	case errors.As(err, new(*getopt.Error)): // begins as glibc's own complaint does
		b.WriteString(text + "\n")
	case text != "":
		r.line(&b, "error", "error: ", text)
	}
	r.explain(&b, err)
	r.print(b.String())
}

// explain adds the detail and the hint of an error to b.
func (r *report) explain(b *strings.Builder, err error) {
	if detail := usererr.Detail(err); detail != "" {
		r.line(b, "note", "detail: ", detail)
	}
	if hint := usererr.Hint(err); hint != "" {
		r.line(b, "note", "hint: ", hint)
	}
}

// warning prints a warning.
func (r *report) warning(format string, args ...any) { r.warn(fmt.Errorf(format, args...)) }

// warn prints as a warning what ends nothing, with its detail and hint.
func (r *report) warn(err error) {
	if r.log != nil {
		r.recordError(slog.LevelWarn, err)
		return
	}
	var b strings.Builder
	r.line(&b, "warning", "warning: ", err.Error())
	r.explain(&b, err)
	r.print(b.String())
}

// info prints what is going on.
func (r *report) info(format string, args ...any) {
	if r.log != nil {
		r.record(slog.LevelInfo, fmt.Sprintf(format, args...))
		return
	}
	var b strings.Builder
	r.line(&b, "", "", fmt.Sprintf(format, args...))
	r.print(b.String())
}

// notice prints what a server says beside its answers as libpq does: without
// the program's name. text has the form of connect.NoticeText.
func (r *report) notice(text string) {
	if r.log == nil {
		r.print(text + "\n")
		return
	}
	text, detail, hint := cutNotice(text)
	severity, message, _ := strings.Cut(text, ":  ")
	level := slog.LevelWarn // what it is called in other languages is not known
	switch severity {
	case "NOTICE", "INFO", "LOG", "DEBUG":
		level = slog.LevelInfo
	}
	r.record(level, message, "severity", severity, "detail", detail, "hint", hint)
}

// cutNotice returns the parts of what a server said, which has the form of
// connect.NoticeText at its end.
func cutNotice(text string) (message, detail, hint string) {
	message, hint, _ = strings.Cut(text, "\nHINT:  ")
	message, detail, _ = strings.Cut(message, "\nDETAIL:  ")
	return message, strings.TrimSuffix(detail, "\n"), strings.TrimSuffix(hint, "\n")
}

// recordError prints an error, that of a server too, as one line of JSON.
func (r *report) recordError(level slog.Level, err error) {
	message, detail, hint := cutNotice(err.Error())
	r.record(level, message, "detail", cmp.Or(usererr.Detail(err), detail), "hint", cmp.Or(usererr.Hint(err), hint))
}

// record prints one line of JSON. The texts that follow the message are names and
// values in turn; one without a value is left out.
func (r *report) record(level slog.Level, message string, texts ...string) {
	var attributes []slog.Attr
	for i := 0; i < len(texts); i += 2 {
		if texts[i+1] != "" {
			attributes = append(attributes, slog.String(texts[i], texts[i+1]))
		}
	}
	r.log.LogAttrs(context.Background(), level, strings.TrimSuffix(message, "\n"), attributes...)
}

// line adds one line to b. Messages of servers end in a newline of their own.
func (r *report) line(b *strings.Builder, color, label, text string) {
	b.WriteString(r.paint("locus", r.name+": "))
	if label != "" {
		b.WriteString(r.paint(color, label))
	}
	b.WriteString(strings.TrimSuffix(text, "\n"))
	b.WriteByte('\n')
}

func (r *report) paint(color, text string) string {
	if sgr, ok := r.colors[color]; ok {
		return "\x1b[" + sgr + "m" + text + "\x1b[0m"
	}
	return text
}

// print writes whole lines, in JSON as what is going on, above the status line if
// there is one. There is nobody to tell that it could not be written.
func (r *report) print(text string) {
	if r.log != nil {
		r.info("%s", strings.TrimSpace(text))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status != "" {
		text = "\r" + clearLine + text + r.status
	}
	_, _ = r.out.WriteString(text)
}

// clearLine is ECMA-48's EL: it clears from the cursor to the end of the line.
const clearLine = "\x1b[K"

// setStatus shows text on the last line, in place of what was there. The text
// must be narrower than the terminal.
func (r *report) setStatus(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text != r.status {
		// One write, and nothing is cleared before it is written over: no flicker.
		_, _ = r.out.WriteString("\r" + text + clearLine)
		r.status = text
	}
}

// endStatus leaves the status as it is and goes on below it.
func (r *report) endStatus() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status != "" {
		_, _ = r.out.WriteString("\r" + r.status + clearLine + "\n") // without the echo of a ^C
		r.status = ""
	}
}
