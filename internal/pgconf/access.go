package pgconf

import (
	"strings"
)

// logicalLine is a line of a file of rules, which may go on over several ones of the file.
type logicalLine struct {
	raw  string // as it is in the file, with its end
	text string
}

// logicalLines cuts a file of rules into lines.
//
// Source: tokenize_auth_file in src/backend/libpq/hba.c, PostgreSQL 18. Before 14 a line did not go on; one that
// ends with a backslash was none that meant anything.
func logicalLines(content string) (lines []logicalLine) {
	var l logicalLine
	for raw := range strings.Lines(content) {
		l.raw += raw
		text := strings.TrimRight(raw, "\r\n")
		if before, goesOn := strings.CutSuffix(text, `\`); goesOn {
			l.text += before
			continue
		}
		l.text += text
		lines, l = append(lines, l), logicalLine{}
	}
	if l.raw != "" {
		lines = append(lines, l)
	}
	return lines
}

// word is one in a line of rules.
type word struct {
	text   string
	quoted bool // from its first byte on: it is no keyword
	comma  bool // follows it
	at     int  // where it begins in the line
	end    int  // where it ends, before a comma
}

// isReference says whether a word stands for those in a file.
//
// Source: next_field_expand in src/backend/libpq/hba.c, PostgreSQL 18.
func (w word) isReference() bool { return !w.quoted && len(w.text) > 1 && w.text[0] == '@' }

// wordsOf cuts a line of rules into words.
//
// Source: next_token in src/backend/libpq/hba.c, PostgreSQL 18.
func wordsOf(line string) (words []word) {
	for i := 0; ; {
		for i < len(line) && strings.IndexByte(" \t\r\n\v\f,", line[i]) >= 0 {
			i++
		}
		if i == len(line) || line[i] == '#' {
			return words
		}
		w := word{at: i, quoted: line[i] == '"'}
		var text strings.Builder
		inside, wasQuote := false, false
		for ; i < len(line); i++ {
			c := line[i]
			if !inside && strings.IndexByte(" \t\r\n\v\f,#", c) >= 0 {
				break
			}
			if c != '"' || wasQuote {
				text.WriteByte(c)
			}
			wasQuote = inside && c == '"' && !wasQuote // the second of two stands for one
			inside = inside != (c == '"')
		}
		w.text, w.end = text.String(), i
		w.comma = i < len(line) && line[i] == ','
		words = append(words, w)
	}
}

// includeOf returns what a line of rules includes.
//
// Source: tokenize_auth_file in src/backend/libpq/hba.c, PostgreSQL 18.
func includeOf(words []word) (how, value string, ok bool) {
	if len(words) == 2 && !words[0].comma && !words[0].quoted && isInclude(words[0].text) {
		return words[0].text, words[1].text, true
	}
	return "", "", false
}

// String returns the word as a line of rules has it.
func (w word) String() string {
	quote := func(text string) string { return `"` + strings.ReplaceAll(text, `"`, `""`) + `"` }
	switch {
	case w.quoted || w.text == "":
		return quote(w.text)
	case strings.ContainsAny(w.text, " \t\r\n\v\f,#\""):
		return w.text[:1] + quote(w.text[1:])
	}
	return w.text
}
