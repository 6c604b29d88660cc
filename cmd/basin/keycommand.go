package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"basin/internal/seal"
	"basin/internal/usererr"
)

const (
	// keyCommandTime is how long a command may take that wraps or unwraps a key.
	keyCommandTime = time.Minute
	// keyCommandOutput is how many bytes it may print at most, which makes a wrapped key that is not too long.
	keyCommandOutput = 32 << 10
	// keyCommandComplaint is how many bytes of its standard error are told at most, the last ones.
	keyCommandComplaint = 2 << 10
	// keyCommandRest is how long is waited for its output once it has ended.
	keyCommandRest = 2 * time.Second
)

// keyCommand is a command that wraps or unwraps a key, as for a service that keeps keys. What it works on comes on its standard input
// and leaves on its standard output, and is nowhere else.
type keyCommand struct {
	Name string // in messages: the text may have what is not to be told
	Text string
	Time time.Duration // that it may take; zero is keyCommandTime
}

// run runs the command with the shell, as PostgreSQL runs its own. It is in a session of its own, so that all that it has started is killed
// if it is, and has no terminal to wait at for an answer.
func (k keyCommand) run(ctx context.Context, input []byte) ([]byte, error) {
	limit := cmp.Or(k.Time, keyCommandTime)
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	output, complaint := limitedOutput{most: keyCommandOutput}, lastOutput{most: keyCommandComplaint}
	c := exec.CommandContext(limited, "/bin/sh", "-c", k.Text)
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(input), &output, &complaint
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = keyCommandRest
	err := c.Run()
	said := complaint.text()
	if said != "" {
		said = ": " + said
	}
	const see = "It is run as this user, with /bin/sh -c, in this environment and without a terminal: see that it works so."
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case output.isFull:
		return nil, usererr.Hinted("What it prints on its standard output is taken as it is: it has to be the result alone.",
			"%s printed more than %d bytes%s", k.Name, keyCommandOutput, said)
	case err != nil && limited.Err() != nil:
		return nil, usererr.Hinted("Does the service answer from here? The command has no terminal, and must not ask for anything.",
			"%s had not ended after %v, and was killed%s", k.Name, limit, said)
	case errors.Is(err, exec.ErrWaitDelay):
		return nil, usererr.Hinted("What it leaves running is to have another standard output and standard error.",
			"%s ended, and left a process that holds its output open%s", k.Name, said)
	case err != nil:
		return nil, usererr.Hinted(see, "%s failed, %w%s", k.Name, err, said)
	case len(bytes.TrimSpace(output.content)) == 0:
		return nil, usererr.Hinted("Its result has to be on its standard output. "+see, "%s printed nothing%s", k.Name, said)
	}
	return output.content, nil
}

// limitedOutput keeps what is written to it up to a limit, and takes no more.
type limitedOutput struct {
	most    int // bytes
	content []byte
	isFull  bool // more came
}

// Write keeps p.
func (o *limitedOutput) Write(p []byte) (int, error) {
	if len(o.content)+len(p) > o.most {
		o.isFull = true
		return 0, errors.New("it is too much")
	}
	o.content = append(o.content, p...)
	return len(p), nil
}

// lastOutput keeps the end of what is written to it.
type lastOutput struct {
	most    int // bytes
	content []byte
	isCut   bool
}

// Write keeps p, and of what came before as much as there is room for.
func (o *lastOutput) Write(p []byte) (int, error) {
	o.content = append(o.content, p...)
	if cut := len(o.content) - o.most; cut > 0 {
		o.content, o.isCut = append([]byte(nil), o.content[cut:]...), true
	}
	return len(p), nil
}

// keySecret is what a command wraps, as far as one can tell.
var keySecret = regexp.MustCompile(`[A-Za-z0-9+/]{22}==`)

// text returns what was kept as one line, without secrets that a command may have told, as a shell does that traces.
func (o *lastOutput) text() string {
	words := strings.Fields(string(o.content))
	if o.isCut && len(words) > 0 {
		words[0] = "…" // which may be the rest of a secret
	}
	return printable(keySecret.ReplaceAllString(strings.Join(words, " "), "(secret)"), false)
}

// wrapCommand returns the recipient of a command that wraps.
func wrapCommand(ctx context.Context, text string) seal.Recipient {
	k := keyCommand{Name: "the command of --wrap-command", Text: text}
	return seal.CommandRecipient(func(secret []byte) ([]byte, error) { return k.run(ctx, secret) })
}

// unwrapCommand returns the identity of the key command.
func unwrapCommand(ctx context.Context, text string) seal.Identity {
	k := keyCommand{Name: "the key command", Text: text}
	return seal.CommandIdentity(func(wrapped []byte) ([]byte, error) { return k.run(ctx, wrapped) })
}

// proveCommand sees that the key command unwraps what was just wrapped, so that no key is kept that opens nothing.
func proveCommand(ctx context.Context, wrapped []byte, command string) error {
	if _, err := seal.Unwrap(wrapped, unwrapCommand(ctx, command)); err != nil {
		return fmt.Errorf("nothing was kept, as what --wrap-command wrapped is not unwrapped by the key command: %w", err)
	}
	return nil
}
