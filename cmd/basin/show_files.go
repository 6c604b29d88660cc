package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"basin/internal/backup"
	"basin/internal/repo"
)

// fileListing is what show --files --json prints of a member, one a line. Its shape is documented in
// docs/repository.md: fields are added, and none is changed or removed.
type fileListing struct {
	Path     string    `json:"path"`              // below the data directory
	PathHex  string    `json:"pathHex,omitempty"` // its bytes, if it is not UTF-8
	Kind     string    `json:"kind"`              // file, directory or link
	Size     int64     `json:"size"`              // in bytes; zero for what is no file
	Modified time.Time `json:"modified"`
	Mode     string    `json:"mode"`             // permissions, in octal
	Target   string    `json:"target,omitempty"` // of a link
}

// matchPath returns what says whether a path is like a pattern, in which * stands for any bytes, slashes too, and ?
// for one. All are like an empty pattern.
func matchPath(pattern string) func(path string) bool {
	if pattern == "" {
		return func(string) bool { return true }
	}
	quoted := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile(`^(?s:` + quoted + `)$`).MatchString
}

// showFiles lists the members of a backup whose paths are like a pattern, as they come.
func showFiles(ctx context.Context, c call, o listOptions, cluster *repo.Cluster, commit repo.Commit) error {
	files, err := cluster.Files(ctx, commit)
	if err != nil {
		return err
	}
	pattern := ""
	if len(o.Operands) > 1 {
		pattern = o.Operands[1]
	}
	matches := matchPath(pattern)
	w := bufio.NewWriter(c.stdout)
	line := printFile
	if o.JSON {
		line = printFileJSON
	}
	for _, tablespace := range append([]backup.Tablespace{{}}, commit.Tablespaces...) {
		for m, err := range files.Members(ctx, tablespace.OID, "") {
			if err == nil && matches(backup.ManifestPath(m.Tablespace, m.Path)) {
				err = line(w, m)
			}
			if err != nil {
				return err
			}
		}
	}
	return w.Flush()
}

// printFile prints a member for people.
func printFile(w io.Writer, m backup.Member) error {
	path := backup.ManifestPath(m.Tablespace, m.Path)
	if printable(path, false) != path {
		path = strconv.Quote(path)
	}
	var err error
	switch m.Kind {
	case backup.Dir:
		_, err = fmt.Fprintf(w, "%13s  %s/\n", "-", path)
	case backup.Symlink:
		_, err = fmt.Fprintf(w, "%13s  %s -> %s\n", "-", path, printable(m.Target, false))
	default:
		_, err = fmt.Fprintf(w, "%13d  %s\n", m.Size, path)
	}
	return err
}

// printFileJSON prints a member for programs.
func printFileJSON(w io.Writer, m backup.Member) error {
	f := fileListing{
		Path: backup.ManifestPath(m.Tablespace, m.Path), Kind: "file", Size: m.Size, Modified: m.ModTime.UTC(),
		Mode: fmt.Sprintf("%04o", m.Mode.Perm()), Target: m.Target,
	}
	if !utf8.ValidString(f.Path) {
		f.PathHex = hex.EncodeToString([]byte(f.Path))
	}
	switch m.Kind {
	case backup.Dir:
		f.Kind, f.Size = "directory", 0
	case backup.Symlink:
		f.Kind, f.Size = "link", 0
	}
	content, err := json.Marshal(f)
	if err != nil {
		return err
	}
	_, err = w.Write(append(content, '\n'))
	return err
}
