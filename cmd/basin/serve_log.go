package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// reportHandler has what a service logs reported as all else that the program says: text
// has the attributes behind the message, JSON as fields.
type reportHandler struct {
	report  *report
	verbose bool // what is only of interest when something is looked for, too
	with    []slog.Attr
}

func newReportHandler(r *report, verbose bool) slog.Handler {
	return reportHandler{report: r, verbose: verbose}
}

// Enabled says whether something of a level is reported.
func (h reportHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.verbose
}

// Handle reports a record.
func (h reportHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.report.log != nil {
		record := r.Clone()
		record.AddAttrs(h.with...)
		h.report.mu.Lock()
		defer h.report.mu.Unlock()
		return h.report.log.Handler().Handle(ctx, record)
	}
	var b strings.Builder
	b.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		if text := a.Value.String(); text != "" {
			fmt.Fprintf(&b, " %s=%s", a.Key, quoteIfNeeded(text))
		}
		return true
	}
	r.Attrs(add)
	for _, a := range h.with {
		add(a)
	}
	if r.Level >= slog.LevelWarn {
		h.report.warning("%s", b.String())
		return nil
	}
	h.report.info("%s", b.String())
	return nil
}

// quoteIfNeeded puts a text in quotes in which a blank or something that cannot be seen is.
func quoteIfNeeded(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || r == 0x7f }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// WithAttrs returns a handler that adds attributes.
func (h reportHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.with = append(h.with[:len(h.with):len(h.with)], attrs...)
	return h
}

// WithGroup returns the handler: what is logged here has no groups.
func (h reportHandler) WithGroup(string) slog.Handler { return h }
