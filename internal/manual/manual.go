// Package manual knows how the help of basin's commands reads, and makes manual pages and
// the completions of shells of it, so that an option is described in one place.
//
// It knows no command and no option, and reads and writes no file.
package manual

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Page is a command and its help.
type Page struct {
	Name    string // what is typed, such as "basin backup"
	Summary string // one line, without a full stop
	Help    string
}

// Option is an option as help describes it.
type Option struct {
	Short    string // a letter; empty if there is none
	Long     string // without the dashes
	Argument string // what it takes, as help names it; empty if it takes nothing
	Text     string // what it does, in one line
}

// lineKind is what a line of help is.
type lineKind uint8

const (
	isBlank lineKind = iota
	isText           // of a paragraph
	isHead           // of a section
	isEntry          // of a list, an option or a word with what it is
	isMore           // of an entry that began before
	isShown          // as it is
)

// line is a line of help.
type line struct {
	kind lineKind
	term string // of an entry
	text string
}

// patterns are what lines of help look like.
type patterns struct {
	optionEntry *regexp.Regexp
	optionLong  *regexp.Regexp // an option that leaves a single blank
	wordEntry   *regexp.Regexp
	optionTerm  *regexp.Regexp
}

// compiled returns the patterns, which the start of most commands need not wait for.
var compiled = sync.OnceValue(func() *patterns {
	return &patterns{
		optionEntry: regexp.MustCompile(`^ {2,6}(-\S.*?)(?:  +(\S.*))?$`),
		optionLong:  regexp.MustCompile(`^ {2,6}((?:-., )?--[^ ]+) (\S.*)$`),
		wordEntry:   regexp.MustCompile(`^  ([a-z][a-z-]*)  +(\S.*)$`),
		optionTerm:  regexp.MustCompile(`^(?:-([^-])(?:, )?)?(?:--([a-z0-9-]+)(?:=(\S+))?)?`),
	}
})

// parse reads help, line by line.
func parse(help string) (lines []line) {
	shown, inList := false, false
	patterns := compiled()
	for text := range strings.Lines(help) {
		text = strings.TrimRight(text, "\n ")
		l := line{kind: isShown, text: strings.TrimSpace(text)}
		indent := len(text) - len(strings.TrimLeft(text, " "))
		switch {
		case text == "":
			l.kind, inList = isBlank, false
		case indent == 0 && strings.HasSuffix(text, ":") && text[0] >= 'A' && text[0] <= 'Z' && afterBlank(lines):
			l.kind, l.text = isHead, strings.TrimSuffix(text, ":")
			shown = strings.HasPrefix(text, "Usage") || strings.HasPrefix(text, "Example")
		case indent == 0:
			l.kind, shown = isText, false
		case shown:
			l.text = strings.TrimPrefix(text, "  ")
		case patterns.optionEntry.MatchString(text):
			m := patterns.optionEntry.FindStringSubmatch(text)
			if one := patterns.optionLong.FindStringSubmatch(text); m[2] == "" && one != nil {
				m = one
			}
			l = line{isEntry, m[1], m[2]}
			inList = true
		case patterns.wordEntry.MatchString(text):
			m := patterns.wordEntry.FindStringSubmatch(text)
			l = line{isEntry, m[1], m[2]}
			inList = true
		case inList:
			l.kind = isMore
		}
		lines = append(lines, l)
	}
	return lines
}

// afterBlank says whether what comes next begins a paragraph.
func afterBlank(lines []line) bool { return len(lines) == 0 || lines[len(lines)-1].kind == isBlank }

// Options returns the options that help describes, each once, in order.
func Options(help string) (options []Option) {
	var last *Option
	patterns := compiled()
	for _, l := range parse(help) {
		switch {
		case l.kind == isEntry && strings.HasPrefix(l.term, "-"):
			m := patterns.optionTerm.FindStringSubmatch(l.term)
			o := Option{Short: m[1], Long: m[2], Argument: m[3], Text: l.text}
			if last = nil; !slices.ContainsFunc(options, func(other Option) bool { return other.Long == o.Long && other.Short == o.Short }) {
				options = append(options, o)
				last = &options[len(options)-1]
			}
		case l.kind == isMore && last != nil:
			last.Text = strings.TrimSpace(last.Text + " " + l.text)
		default:
			last = nil
		}
	}
	return options
}

// words returns the words that can follow the name of a command before options, such as push and
// get, as the lines of its usage have them.
func (p Page) words() (words []string) {
	name := p.Name[strings.LastIndexByte(p.Name, ' ')+1:]
	inUsage := false
	for _, l := range parse(p.Help) {
		if l.kind == isHead {
			inUsage = l.text == "Usage"
		}
		if !inUsage || l.kind != isShown {
			continue
		}
		typed := strings.Fields(l.text)
		if i := slices.Index(typed, name); i >= 0 && i+1 < len(typed) && isWord(typed[i+1]) && !slices.Contains(words, typed[i+1]) {
			words = append(words, typed[i+1])
		}
	}
	return words
}

// isWord says whether something is typed as it is.
func isWord(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz-") == "" && s[0] != '-'
}
