package manual

import (
	"fmt"
	"strings"
)

// Man returns the manual page of a command, in the form of man(7). source is the program and its
// version. others are pages to see also.
func (p Page) Man(source string, others []Page) string {
	var b strings.Builder
	title := strings.ReplaceAll(p.Name, " ", "-")
	fmt.Fprintf(&b, ".TH %s 1 \"\" %s \"PostgreSQL backups\"\n", quoted(strings.ToUpper(title)), quoted(source))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", escaped(title), escaped(p.Summary))
	lines := parse(p.Help)
	synopsis, rest := usage(lines)
	b.WriteString(".SH SYNOPSIS\n")
	for i, l := range synopsis {
		if i > 0 {
			b.WriteString(".br\n")
		}
		b.WriteString(protected(l.text))
	}
	b.WriteString(".SH DESCRIPTION\n")
	section(&b, rest)
	if len(others) > 0 {
		b.WriteString(".SH SEE ALSO\n")
		for i, o := range others {
			comma := ","
			if i == len(others)-1 {
				comma = ""
			}
			fmt.Fprintf(&b, ".BR %s (1)%s\n", escaped(strings.ReplaceAll(o.Name, " ", "-")), comma)
		}
	}
	return b.String()
}

// usage splits lines into those of the usage and all others.
func usage(lines []line) (shown, rest []line) {
	inUsage := false
	for _, l := range lines {
		if l.kind == isHead {
			inUsage = l.text == "Usage"
		} else if inUsage && l.kind == isText {
			inUsage = false
		}
		switch {
		case !inUsage:
			rest = append(rest, l)
		case l.kind == isShown:
			shown = append(shown, l)
		}
	}
	return shown, rest
}

// section writes lines as they are in a page.
func section(b *strings.Builder, lines []line) {
	open, fresh := false, true // as it is; at the start of a paragraph
	for _, l := range lines {
		if open && l.kind != isShown && l.kind != isBlank {
			b.WriteString(".EE\n.RE\n")
			open = false
		}
		switch l.kind {
		case isBlank:
			fresh = true
			if open {
				b.WriteByte('\n')
			}
			continue
		case isHead:
			fmt.Fprintf(b, ".SH %s\n", escaped(strings.ToUpper(l.text[:1])+l.text[1:]))
		case isText:
			if fresh {
				b.WriteString(".PP\n")
			}
			b.WriteString(protected(l.text))
		case isEntry:
			fmt.Fprintf(b, ".TP\n.B %s\n", escaped(l.term))
			if l.text != "" {
				b.WriteString(protected(l.text))
			}
		case isMore:
			b.WriteString(protected(l.text))
		case isShown:
			if !open {
				b.WriteString(".PP\n.RS 4\n.EX\n")
				open = true
			}
			b.WriteString(protected(l.text))
		}
		fresh = false
	}
	if open {
		b.WriteString(".EE\n.RE\n")
	}
}

// escaped returns text that roff prints as it is.
func escaped(s string) string {
	return strings.NewReplacer(`\`, `\e`, `-`, `\-`, "'", `\(aq`, `"`, `\(dq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
}

// protected returns a line that roff prints as it is, whatever it begins with.
func protected(s string) string {
	if strings.HasPrefix(s, ".") {
		return `\&` + escaped(s) + "\n"
	}
	return escaped(s) + "\n"
}

// quoted returns an argument of a request.
func quoted(s string) string { return `"` + escaped(s) + `"` }
