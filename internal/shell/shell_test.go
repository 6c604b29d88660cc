package shell

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestShell asks the shell itself which words are in a line.
func TestShell(t *testing.T) {
	for _, line := range []string{
		"", " a  b\tc ", "a'b c'd", `"a b" 'c "d'`, `a\ b \'c "x\"y\z\\"`, `''`, `a '' b`, `--repository="/srv/my repo's" %p`,
		Quote("it's a \"b\" $HOME `x` \\ \n"), Quote(""), "a" + Quote(" ") + "b",
	} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", `for w in `+line+`; do printf '%s\0' "$w"; done`).Output()
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		var want []string
		if len(out) > 0 {
			want = strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		}
		if got := Split(line); !slices.Equal(got, want) {
			t.Errorf("%q has the words %q, and to the shell %q", line, got, want)
		}
	}
	for word, want := range map[string]string{"/srv/backup": "/srv/backup", "a b": "'a b'", "it's": `'it'"'"'s'`, "100%": "'100%'"} {
		if got := Quote(word); got != want {
			t.Errorf("%q is %s, want %s", word, got, want)
		}
	}
}
