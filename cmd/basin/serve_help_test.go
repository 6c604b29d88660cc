package main

import (
	"strings"
	"testing"
)

func serveHelp(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	if err := helpServe(&b, "basin serve"); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestServeHelpIsNarrow(t *testing.T) {
	for line := range strings.SplitSeq(serveHelp(t), "\n") {
		if len(line) > 95 {
			t.Errorf("%d columns: %s", len(line), line)
		}
		if strings.Contains(line, "%!") {
			t.Errorf("not all was filled in: %s", line)
		}
	}
}

func TestServeHelpHasEveryOption(t *testing.T) {
	help := serveHelp(t)
	letters := map[string]byte{"help": '?', "version": 'V'} // for the first argument alone, and not in the table
	for _, option := range serveTable(&serveOptions{given: make(map[string]bool)}, call{called: "basin serve"}) {
		letter := option.Short
		if l, ok := letters[option.Long]; ok {
			letter = l
		}
		form := "      --" + option.Long
		if letter != 0 {
			form = "  -" + string(rune(letter)) + ", --" + option.Long
		}
		end := " \n"
		if option.Value != nil {
			end = "=["
		}
		_, after, ok := strings.Cut(help, "\n"+form)
		if !ok || !strings.ContainsAny(after[:1], end) {
			t.Errorf("help does not have %q", form)
		}
	}
}
