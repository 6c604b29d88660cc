package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"basin/internal/localfs"
	"basin/internal/manual"
	"basin/internal/usererr"
)

// manualPages returns the help of all commands, and first that of basin itself.
func manualPages() ([]manual.Page, error) {
	var b strings.Builder
	if err := helpBasin(&b, "basin"); err != nil {
		return nil, err
	}
	pages := []manual.Page{{Name: "basin", Summary: "backups and write-ahead log of PostgreSQL", Help: b.String()}}
	for _, c := range commands() {
		b.Reset()
		name := "basin " + c.name
		if err := c.help(&b, name); err != nil {
			return nil, err
		}
		pages = append(pages, manual.Page{Name: name, Summary: c.summary, Help: b.String()})
	}
	return pages, nil
}

// helpMan prints what basin man does.
func helpMan(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s writes the manual pages of basin and its commands, for man(1).

Usage:
  %[1]s DIRECTORY

They are what --help of each command says, as basin.1, basin-backup.1 and so on.

Options:
  -V, --version  output version information, then exit
  -?, --help     show this help, then exit

Example:
  %[1]s /usr/local/share/man/man1
`, called)
	return err
}

// writeManual is basin man.
func writeManual(_ context.Context, c call) error {
	operands, err := c.parse(nil)
	if err != nil {
		return err
	}
	if len(operands) != 1 {
		return c.usage("one directory is to be named")
	}
	pages, err := manualPages()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(operands[0], 0o755); err != nil {
		return localfs.Errorf(err, operands[0], "could not create directory \"%s\"", operands[0])
	}
	for i, p := range pages {
		others := pages[:1]
		if i == 0 {
			others = pages[1:]
		}
		path := filepath.Join(operands[0], strings.ReplaceAll(p.Name, " ", "-")+".1")
		if err := os.WriteFile(path, []byte(p.Man("basin "+version, others)), 0o644); err != nil {
			return localfs.Errorf(err, path, "could not write file \"%s\"", path)
		}
	}
	return nil
}

// helpCompletion prints what basin completion does.
func helpCompletion(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s prints a script by which a shell completes basin's commands and options.

Usage:
  %[1]s bash|fish|zsh

Options:
  -V, --version  output version information, then exit
  -?, --help     show this help, then exit

Examples:
  %[1]s bash >/usr/share/bash-completion/completions/basin
  %[1]s fish >~/.config/fish/completions/basin.fish
  %[1]s zsh >/usr/local/share/zsh/site-functions/_basin
`, called)
	return err
}

// completion is basin completion.
func completion(_ context.Context, c call) error {
	operands, err := c.parse(nil)
	if err != nil {
		return err
	}
	if len(operands) != 1 {
		return c.usage("one shell is to be named: %s", strings.Join(manual.Shells, ", "))
	}
	if !slices.Contains(manual.Shells, operands[0]) {
		return usererr.Hinted("Known are "+strings.Join(manual.Shells, ", ")+".", "unknown shell \"%s\"", operands[0])
	}
	pages, err := manualPages()
	if err != nil {
		return err
	}
	_, err = io.WriteString(c.stdout, manual.Completion(operands[0], "basin", pages[1:]))
	return err
}
