package seal

import (
	"bytes"
	"encoding/base64"
	"fmt"

	"filippo.io/age"

	"basin/internal/usererr"
)

const (
	// commandStanza is what age calls the stanza that holds what a command made of the secret.
	commandStanza = "basin-command"
	// fileKeySize is how many bytes the secret of an age file has.
	//
	// Source: fileKeySize in filippo.io/age/age.go.
	fileKeySize = 16
)

// ForCommand is what WrappedFor says of a key that a command wrapped.
const ForCommand = "command"

// A command gets its input, and returns what it printed. The secret of an age file is a line of base64 to it, without an
// end, so that nothing on its way takes it for anything but text.
type command func(input []byte) (output []byte, err error)

// CommandRecipient returns the recipient that is whoever can run a command with which is unwrapped what run wraps: run gets a secret,
// which is text, and returns its wrapped form, which may be any bytes.
func CommandRecipient(run func(secret []byte) (wrapped []byte, err error)) Recipient {
	return Recipient{Name: ForCommand, age: command(run)}
}

// CommandIdentity is the other half of CommandRecipient: run gets the wrapped form as it was returned there, and returns the secret, with
// or without an end of the line.
func CommandIdentity(run func(wrapped []byte) (secret []byte, err error)) Identity {
	return Identity{command(run)}
}

// isCommand says whether it is a command that unwraps.
func (i Identity) isCommand() bool { _, ok := i.age.(command); return ok }

// Wrap has the secret of an age file wrapped.
func (c command) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	secret := base64.StdEncoding.EncodeToString(fileKey)
	wrapped, err := c([]byte(secret))
	if err != nil {
		return nil, err
	}
	if bytes.Contains(wrapped, []byte(secret)) || bytes.Contains(wrapped, fileKey) {
		return nil, usererr.Hinted("It has to encrypt what is on its standard input, and to print the result.",
			"the command printed the secret as it is")
	}
	return []*age.Stanza{{Type: commandStanza, Body: wrapped}}, nil
}

// Unwrap has the secret of an age file unwrapped. Whether it is that one age sees.
func (c command) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, s := range stanzas {
		if s.Type != commandStanza {
			continue
		}
		printed, err := c(s.Body)
		if err != nil {
			return nil, err
		}
		fileKey, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(printed)))
		if err != nil || len(fileKey) != fileKeySize { // what it is is not to be told
			return nil, usererr.Hinted(fmt.Sprintf("It has to print what the command got that wrapped it: %d characters of base64. Is something decoded once too often, or not at all?",
				base64.StdEncoding.EncodedLen(fileKeySize)), "the command printed %d bytes, which are no secret that was wrapped", len(printed))
		}
		return fileKey, nil
	}
	return nil, age.ErrIncorrectIdentity
}
