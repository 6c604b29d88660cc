package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"basin/internal/usererr"
)

func TestKeyCommand(t *testing.T) {
	t.Parallel()
	const secret = "q83vEjRWeJq83vEjRWeJqw=="
	for _, test := range []struct {
		reason, command string
		output          string   // what it returns; empty for an error
		wants           []string // what the error has
	}{
		{"its input comes out", "cat", secret, nil},
		{"any bytes, as they are", `printf ' \000\377\n\n'`, " \x00\xff\n\n", nil},
		{"its standard error is no matter if it succeeds", "echo warning >&2; echo done", "done\n", nil},
		{"more than one command, and a pipe", "cat | tr a-z A-Z && echo .", strings.ToUpper(secret) + ".\n", nil},
		{"it need not read", "echo x", "x\n", nil},
		{"as much as may be", "head -c 32768 /dev/zero | tr '\\0' x", strings.Repeat("x", 32768), nil},
		{"it fails", "echo denied >&2; exit 3", "", []string{"TEST failed, exit status 3: denied"}},
		{"it fails late", "echo x; exit 1", "", []string{"TEST failed, exit status 1"}},
		{"it is killed", "kill -9 $$", "", []string{"TEST failed, signal: killed"}},
		{"there is no such program", "/nowhere/aws kms decrypt", "", []string{"TEST failed, exit status 127: ", "/nowhere/aws"}},
		{"what it complains of is one line", `printf '\n An error\toccurred:\r\n\n* \033[31mdenied\n' >&2; exit 1`, "", []string{": An error occurred: * ?[31mdenied"}},
		{"it complains at length", "seq 2000 >&2; exit 1", "", []string{": … ", " 1999 2000"}},
		{"it prints nothing", "true", "", []string{"TEST printed nothing"}},
		{"it prints an empty line, and why", "echo; echo why >&2", "", []string{"TEST printed nothing: why"}},
		{"it prints too much", "head -c 32769 /dev/zero", "", []string{"TEST printed more than 32768 bytes"}},
		{"it does not end to print", "echo why >&2; yes", "", []string{"TEST printed more than 32768 bytes: why"}},
		{"it tells what it does", "set -x; x=$(cat); echo $x; exit 1", "", []string{"TEST failed, exit status 1: ", "(secret)"}},
		{"there is no terminal to ask at", "read line </dev/tty", "", []string{"TEST failed, ", "/dev/tty"}},
		{"it leaves a process behind", "sleep 20 & echo x", "", []string{"TEST ended, and left a process that holds its output open"}},
	} {
		got, err := keyCommand{Name: "TEST", Text: test.command}.run(t.Context(), []byte(secret))
		if string(got) != test.output || (err == nil) != (test.output != "") {
			t.Errorf("%s: %.100q, %v", test.reason, got, err)
		}
		if err == nil {
			continue
		}
		for _, want := range test.wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not have %q", test.reason, err, want)
			}
		}
		if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 4000 {
			t.Errorf("%s: %v", test.reason, err)
		}
		if usererr.Hint(err) == "" {
			t.Errorf("%s: it is not said what to do", test.reason)
		}
	}
}

// A command that hangs is ended, with all that it has started.
func TestKeyCommandHangs(t *testing.T) {
	t.Parallel()
	interrupted := errors.New("interrupted")
	for _, test := range []struct {
		limit time.Duration
		want  string
	}{
		{5 * time.Second, "TEST had not ended after 5s, and was killed: waiting"},
		{0, "interrupted"}, // once it has begun
	} {
		fifo := filepath.Join(t.TempDir(), "fifo")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		keeper, err := os.OpenFile(fifo, os.O_RDWR, 0) // with which nobody waits for another end, or comes to one
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(fifo)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		gone := make(chan string)
		go func() {
			defer file.Close() // it was only read
			lines := bufio.NewScanner(file)
			all := ""
			for lines.Scan() { // to the end, when nobody has it open any more
				all += lines.Text()
				if test.limit == 0 {
					cancel(interrupted)
				}
			}
			gone <- all
		}()
		hang := `exec 3>"` + fifo + `"; echo waiting >&2; echo begun >&3; (sleep 3600; echo never >&3); echo never >&3`
		_, err = keyCommand{Name: "TEST", Text: hang, Time: test.limit}.run(ctx, nil)
		if closed := keeper.Close(); closed != nil {
			t.Error(closed)
		}
		if err == nil || err.Error() != test.want || (usererr.Hint(err) == "") != (test.limit == 0) {
			t.Errorf("%v, want %s; hint %q", err, test.want, usererr.Hint(err))
		}
		if said := <-gone; said != "begun" {
			t.Errorf("%s: the command said %q", test.want, said)
		}
	}
}
