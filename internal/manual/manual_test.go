package manual

import (
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

// help is of a command that has all that help can have.
const help = `tool move moves a thing,
as its name says.

Usage:
  tool move here [OPTION]... THING
  tool move there [OPTION]... THING

Nothing is lost:
  here   to this place
  there  to that place,
         which is far

.dots at the start stay.

Options (of both):
  -n, --dry-run              say what would be done; do nothing
      --to=[HOST:]PLACE      where to, [here] or
                             elsewhere
  -x                         do it
      --storage-class=NAME class of it
  -?, --help                 show this help, then exit

Options of there:
  -n, --dry-run              the same again

Examples:
  tool move here --to='a b' x
                 moves x
`

func TestOptions(t *testing.T) {
	want := []Option{
		{"n", "dry-run", "", "say what would be done; do nothing"},
		{"", "to", "[HOST:]PLACE", "where to, [here] or elsewhere"},
		{"x", "", "", "do it"},
		{"", "storage-class", "NAME", "class of it"},
		{"?", "help", "", "show this help, then exit"},
	}
	if got := Options(help); !reflect.DeepEqual(got, want) {
		t.Errorf("options\n%q, want\n%q", got, want)
	}
}

func TestMan(t *testing.T) {
	got := Page{"tool move", "move a thing", help}.Man("tool 1.0", []Page{{Name: "tool"}, {Name: "tool rest"}})
	want := `.TH "TOOL\-MOVE" 1 "" "tool 1.0" "PostgreSQL backups"
.SH NAME
tool\-move \- move a thing
.SH SYNOPSIS
tool move here [OPTION]... THING
.br
tool move there [OPTION]... THING
.SH DESCRIPTION
.PP
tool move moves a thing,
as its name says.
.SH Nothing is lost
.TP
.B here
to this place
.TP
.B there
to that place,
which is far
.PP
\&.dots at the start stay.
.SH Options (of both)
.TP
.B \-n, \-\-dry\-run
say what would be done; do nothing
.TP
.B \-\-to=[HOST:]PLACE
where to, [here] or
elsewhere
.TP
.B \-x
do it
.TP
.B \-\-storage\-class=NAME
class of it
.TP
.B \-?, \-\-help
show this help, then exit
.SH Options of there
.TP
.B \-n, \-\-dry\-run
the same again
.SH Examples
.PP
.RS 4
.EX
tool move here \-\-to=\(aqa b\(aq x
               moves x
.EE
.RE
.SH SEE ALSO
.BR tool (1),
.BR tool\-rest (1)
`
	if got != want {
		t.Errorf("page\n%s\nwant\n%s", got, want)
	}
}

// TestBash has bash itself complete command lines.
func TestBash(t *testing.T) {
	script := Completion("bash", "tool", []Page{{"tool move", "move a thing", help}, {"tool mend", "mend it", "tool mend mends.\n"}})
	for line, want := range map[string]string{
		"tool m":                 "move mend",
		"tool mo":                "move",
		"tool move ":             "here there",
		"tool move t":            "there",
		"tool move there ":       "",
		"tool move there --d":    "--dry-run",
		"tool move here -n --":   "--dry-run --help --storage-class= --to=",
		"tool mend --":           "",
		"tool mend here --dry-r": "",
	} {
		words := "'" + strings.Join(strings.Split(line, " "), "' '") + "'"
		command := exec.CommandContext(t.Context(), "bash", "-c", script+
			"COMP_WORDS=("+words+"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); compopt() { :; }; _tool; echo \"${COMPREPLY[*]}\"")
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		if got := strings.TrimSpace(string(out)); got != want {
			t.Errorf("%q is completed by %q, want %q", line, got, want)
		}
	}
}

// TestOtherShells looks at what zsh and fish are told.
func TestOtherShells(t *testing.T) {
	pages := []Page{{"tool move", "move a thing: here", help}}
	for shell, wants := range map[string][]string{
		"zsh": {`'move:move a thing\: here'`, `'--to=[where to, \[here\] or elsewhere]:[HOST\:]PLACE:_files'`, `'-n[say what would be done; do nothing]'`, `'1:command:(here there)'`},
		"fish": {"-a move -d 'move a thing: here'", "-s 'n' -l dry-run -d 'say what would be done; do nothing'",
			"-l to -r -d 'where to, [here] or elsewhere'", "-f -a there"},
		"csh": {},
	} {
		script := Completion(shell, "tool", pages)
		for _, want := range wants {
			if !strings.Contains(script, want) {
				t.Errorf("%s: %q is not in\n%s", shell, want, script)
			}
		}
		if len(wants) == 0 && script != "" {
			t.Errorf("%s: got a script", shell)
		}
	}
}
