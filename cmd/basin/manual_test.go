package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/manual"
)

// TestManual sees that each command has a page, and that all options in its help are found in
// it by what makes pages and completions of it.
func TestManual(t *testing.T) {
	t.Parallel()
	pages, err := manualPages()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "man1")
	if err := writeManual(t.Context(), call{argv: []string{"basin", dir}}); err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		page, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(p.Name, " ", "-")+".1"))
		if err != nil {
			t.Error(err)
			continue
		}
		options := manual.Options(p.Help)
		for _, o := range options {
			if o.Text == "" {
				t.Errorf("%s: --%s is not described", p.Name, o.Long)
			}
			if named := strings.ReplaceAll("--"+o.Long, "-", `\-`); !strings.Contains(string(page), named) {
				t.Errorf("%s: the page has no --%s", p.Name, o.Long)
			}
		}
		for text := range strings.Lines(p.Help) {
			text, isOption := strings.CutPrefix(strings.TrimLeft(text, " "), "--")
			name := strings.FieldsFunc(text, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
			if !isOption || len(name) == 0 {
				continue
			}
			found := false
			for _, o := range options {
				found = found || o.Long == name[0]
			}
			if !found {
				t.Errorf("%s: --%s is not found in the help", p.Name, name[0])
			}
		}
	}
	for _, shell := range manual.Shells {
		var script strings.Builder
		err := completion(t.Context(), call{argv: []string{"basin", shell}, stdout: &script})
		if err != nil || !strings.Contains(script.String(), "no-verify-checksums") {
			t.Errorf("%s: %v, %q", shell, err, script.String())
		}
	}
	if err := completion(t.Context(), call{argv: []string{"basin", "csh"}}); err == nil {
		t.Error("there are completions for csh")
	}
}
