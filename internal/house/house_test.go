// Package house knows the rules that the packages of basin keep among
// themselves, and has nothing but the test of them.
package house

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The floors of the house, lowest first. A package imports only from floors
// below its own; a driver may import the package it drives, which is its parent.
var floors = [][]string{
	{ // facts: the standard library alone
		"internal/conninfo",
		"internal/getopt",
		"internal/hba",
		"internal/lookup",
		"internal/manual",
		"internal/pgconf",
		"internal/shell",
		"internal/usererr",
		"internal/wal",
	},
	{ // mechanisms
		"internal/accept",
		"internal/ahead",
		"internal/backup",
		"internal/connect",
		"internal/localfs",
		"internal/manifest",
		"internal/pgdata",
		"internal/object",
		"internal/protocol",
		"internal/seal",
	},
	{ // places a backup can be
		"internal/chain",
		"internal/catalog",
		"internal/client",
		"internal/feed",
		"internal/live",
		"internal/plain",
		"internal/repo",
		"internal/server",
		"internal/tarball",
		"internal/verify",
		"internal/waldir",
	},
	{ // services
		"internal/checkup",
		"internal/cluster",
		"internal/inplace",
		"internal/monitor",
		"internal/spool",
	},
	{ // programs
		"cmd/basin",
	},
}

// support are packages that only tests import, and that may import anything.
var support = []string{
	"internal/backup/sinktest",
	"internal/house",
	"internal/object/objecttest",
	"internal/object/s3/s3test",
	"internal/pgtest",
	"internal/powertest",
	"internal/wal/keepertest",
}

// maxLines is the most lines a file may have. Well before, at 500, it is time to cut it.
const maxLines = 700

// source is one file of the module.
type source struct {
	name  string // relative to the module, slash-separated
	text  []byte
	files *token.FileSet
	tree  *ast.File
}

func (s source) isTest() bool    { return strings.HasSuffix(s.name, "_test.go") }
func (s source) dir() string     { return path.Dir(s.name) }
func (s source) isProgram() bool { return strings.HasPrefix(s.name, "cmd/") }

// at returns where p is, for a message.
func (s source) at(p token.Pos) string {
	return fmt.Sprintf("%s:%d", s.name, s.files.Position(p).Line)
}

func TestHouse(t *testing.T) {
	module, sources, err := readModule("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(sources) == 0 {
		t.Fatal("no source files")
	}
	for _, complaint := range inspect(module, sources) {
		t.Error(complaint)
	}
	for _, dir := range support {
		if !slices.ContainsFunc(sources, func(s source) bool { return s.dir() == dir }) {
			t.Errorf("%s: is listed as test support, but is no package", dir)
		}
	}
}

// inspect returns what is wrong with the module, sorted.
func inspect(module string, sources []source) []string {
	var complaints []string
	documented := make(map[string]bool)
	for _, s := range sources {
		for _, rule := range []func(string, source) []string{
			checkImports, checkEnds, checkInit, checkMarks, checkLength,
		} {
			complaints = append(complaints, rule(module, s)...)
		}
		isOwn := !strings.HasSuffix(s.tree.Name.Name, "_test")
		documented[s.dir()] = documented[s.dir()] || isOwn && s.tree.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			complaints = append(complaints, dir+": no doc comment says what the package knows and does not do")
		}
		if _, ok := floorOf(dir); !ok && !slices.Contains(support, dir) {
			complaints = append(complaints, dir+": has no floor; give it one in internal/house")
		}
	}
	slices.Sort(complaints)
	return slices.Compact(complaints)
}

// floorOf returns the floor of a package, counted from 1. A driver lives on its parent's.
func floorOf(dir string) (int, bool) {
	for i, packages := range floors {
		if slices.Contains(packages, dir) || slices.Contains(packages, path.Dir(dir)) {
			return i + 1, true
		}
	}
	return 0, false
}

// checkImports keeps imports going down.
func checkImports(module string, s source) (complaints []string) {
	floor, ok := floorOf(s.dir())
	if !ok || s.isTest() || slices.Contains(support, s.dir()) {
		return nil
	}
	for _, spec := range s.tree.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			complaints = append(complaints, fmt.Sprintf("%s: imports %s", s.at(spec.Pos()), spec.Path.Value))
			continue
		}
		complain := func(why string) {
			complaints = append(complaints, fmt.Sprintf("%s: imports %s: %s", s.at(spec.Pos()), name, why))
		}
		dir, isOurs := strings.CutPrefix(name, module+"/")
		first, _, _ := strings.Cut(name, "/")
		switch below, listed := floorOf(dir); {
		case name == "testing":
			complain("what only tests use is listed as such in internal/house")
		case !isOurs && floor == 1 && strings.Contains(first, "."):
			complain("the first floor has the standard library alone")
		case !isOurs:
		case slices.Contains(support, dir):
			complain("it is for tests")
		case !listed: // which its own file is blamed for
		case below > floor:
			complain("imports go down")
		case below == floor && dir != path.Dir(s.dir()):
			complain("a floor does not import itself")
		}
	}
	return complaints
}

// checkEnds lets nothing but a program end the process.
func checkEnds(_ string, s source) (complaints []string) {
	if s.isProgram() {
		return nil
	}
	ast.Inspect(s.tree, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		of, ok := selector.X.(*ast.Ident)
		if !ok {
			return true
		}
		call := of.Name + "." + selector.Sel.Name
		isLog := of.Name == "log" && (strings.HasPrefix(selector.Sel.Name, "Fatal") || strings.HasPrefix(selector.Sel.Name, "Panic"))
		isExit := call == "os.Exit" && !s.isTest() // a TestMain may
		if isLog || isExit || call == "syscall.Exit" {
			complaints = append(complaints, fmt.Sprintf("%s: %s: only a program's main package ends the process", s.at(n.Pos()), call))
		}
		return true
	})
	return complaints
}

// checkInit lets nothing happen before main.
func checkInit(_ string, s source) (complaints []string) {
	for _, declaration := range s.tree.Decls {
		if f, ok := declaration.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			complaints = append(complaints, s.at(f.Pos())+": func init: nothing happens before main")
		}
	}
	return complaints
}

// checkMarks lets no work be left behind in comments.
func checkMarks(_ string, s source) (complaints []string) {
	for _, group := range s.tree.Comments {
		for _, comment := range group.List {
			for _, mark := range []string{"TO" + "DO", "FIX" + "ME"} {
				if hasWord(comment.Text, mark) {
					complaints = append(complaints, fmt.Sprintf("%s: %s: do it or leave it", s.at(comment.Pos()), mark))
				}
			}
		}
	}
	return complaints
}

// hasWord says whether text has word with no letter or digit beside it.
func hasWord(text, word string) bool {
	isPart := func(b byte) bool {
		return b >= '0' && b <= '9' || b|0x20 >= 'a' && b|0x20 <= 'z' || b == '_'
	}
	for at := 0; ; {
		i := strings.Index(text[at:], word)
		if i < 0 {
			return false
		}
		start, end := at+i, at+i+len(word)
		if (start == 0 || !isPart(text[start-1])) && (end == len(text) || !isPart(text[end])) {
			return true
		}
		at = end
	}
}

func checkLength(_ string, s source) []string {
	if lines := strings.Count(string(s.text), "\n"); lines > maxLines {
		return []string{fmt.Sprintf("%s: %d lines, more than %d", s.name, lines, maxLines)}
	}
	return nil
}

// readModule returns the module's name and its files. What is not the module's
// own, as testdata and hidden directories, is left out.
func readModule(root string) (module string, sources []source, err error) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "", nil, err
	}
	first, _, _ := strings.Cut(string(mod), "\n")
	module, ok := strings.CutPrefix(first, "module ")
	if !ok {
		return "", nil, errors.New("go.mod does not begin with the module's name")
	}
	err = fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		base := path.Base(name)
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (base == "testdata" || base[0] == '.' || base[0] == '_'):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		s, err := parse(name, string(text))
		sources = append(sources, s)
		return err
	})
	return strings.TrimSpace(module), sources, err
}

func parse(name, text string) (source, error) {
	s := source{name: name, text: []byte(text), files: token.NewFileSet()}
	var err error
	s.tree, err = parser.ParseFile(s.files, name, text, parser.ParseComments|parser.SkipObjectResolution)
	return s, err
}

// A test of rules that finds nothing may be blind: here each rule is broken once.
func TestInspect(t *testing.T) {
	const doc = "// Package p knows nothing.\n"
	for _, test := range []struct {
		reason string
		files  map[string]string
		want   string // all complaints, one a line
	}{
		{"in order", map[string]string{
			"internal/wal/a.go":       doc + "package wal\nimport \"fmt\"\n",
			"internal/backup/a.go":    doc + "package backup\nimport (\"m/internal/wal\"; \"golang.org/x/sync/errgroup\")\n",
			"internal/object/s3/a.go": doc + "package s3\nimport \"m/internal/object\"\n",
			"internal/object/a.go":    doc + "package object\n",
			"internal/plain/a.go":     doc + "package plain\nimport \"m/internal/backup\"\n",
			"internal/plain/a_test.go": "package plain_test\nimport (\"m/internal/client\"; \"m/internal/backup/sinktest\"; \"os\")\n" +
				"func TestMain() { os.Exit(0) }\n",
			"internal/backup/sinktest/a.go": doc + "package sinktest\nimport (\"m/internal/plain\"; \"testing\")\n",
			"cmd/basin/a.go":                doc + "package main\nimport (\"os\"; \"m/internal/plain\")\nfunc main() { os.Exit(0) }\n",
		}, ""},
		{"first floor with a library", map[string]string{
			"internal/wal/a.go": doc + "package wal\nimport \"github.com/x/y\"\n",
		}, "internal/wal/a.go:3: imports github.com/x/y: the first floor has the standard library alone"},
		{"upstairs", map[string]string{
			"internal/wal/a.go": doc + "package wal\nimport \"m/internal/backup\"\n",
		}, "internal/wal/a.go:3: imports m/internal/backup: imports go down"},
		{"sideways", map[string]string{
			"internal/plain/a.go": doc + "package plain\nimport \"m/internal/client\"\n",
		}, "internal/plain/a.go:3: imports m/internal/client: a floor does not import itself"},
		{"driver imports another's driver", map[string]string{
			"internal/object/s3/a.go": doc + "package s3\nimport \"m/internal/object/local\"\n",
		}, "internal/object/s3/a.go:3: imports m/internal/object/local: a floor does not import itself"},
		{"test support outside tests", map[string]string{
			"cmd/basin/a.go": doc + "package main\nimport \"m/internal/pgtest\"\n",
		}, "cmd/basin/a.go:3: imports m/internal/pgtest: it is for tests"},
		{"test support that is not listed as such", map[string]string{
			"internal/wal/waltest/a.go": doc + "package waltest\nimport \"testing\"\n",
		}, "internal/wal/waltest/a.go:3: imports testing: what only tests use is listed as such in internal/house"},
		{"unlisted", map[string]string{
			"internal/util/a.go": doc + "package util\n",
		}, "internal/util: has no floor; give it one in internal/house"},
		{"undocumented", map[string]string{
			"internal/wal/a.go":      "package wal\n",
			"internal/wal/a_test.go": doc + "package wal_test\n",
		}, "internal/wal: no doc comment says what the package knows and does not do"},
		{"ends the process", map[string]string{
			"internal/wal/a.go": doc + "package wal\nfunc f() {\n\tos.Exit(1)\n\tlog.Fatalf(\"\")\n\tlog.Print()\n}\n",
		}, "internal/wal/a.go:4: os.Exit: only a program's main package ends the process\n" +
			"internal/wal/a.go:5: log.Fatalf: only a program's main package ends the process"},
		{"before main", map[string]string{
			"internal/wal/a.go": doc + "package wal\nfunc init() {}\nfunc (x T) init() {}\n",
		}, "internal/wal/a.go:3: func init: nothing happens before main"},
		{"left behind", map[string]string{
			"internal/wal/a.go": doc + "package wal\n// FIX" + "ME: later\nconst MASTODON = \"TO" + "DO\" // MASTODON\n",
		}, "internal/wal/a.go:3: FIX" + "ME: do it or leave it"},
		{"long", map[string]string{
			"internal/wal/a.go": doc + "package wal" + strings.Repeat("\n", 701),
		}, "internal/wal/a.go: 702 lines, more than 700"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			var sources []source
			for _, name := range slices.Sorted(maps.Keys(test.files)) {
				s, err := parse(name, test.files[name])
				if err != nil {
					t.Fatal(err)
				}
				sources = append(sources, s)
			}
			if got := strings.Join(inspect("m", sources), "\n"); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}
