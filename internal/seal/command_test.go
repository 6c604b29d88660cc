package seal

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"filippo.io/age"

	"basin/internal/usererr"
)

// reverse is an encryption that is easily seen through.
func reverse(input []byte) ([]byte, error) {
	output := []byte("\xff\n")
	for i := range input {
		output = append(output, input[len(input)-1-i])
	}
	return output, nil
}

// reverseBack is its inverse, with an end of the line, as many programs print one.
func reverseBack(input []byte) ([]byte, error) {
	output, err := reverse(bytes.TrimPrefix(input, []byte("\xff\n")))
	return append(bytes.TrimPrefix(output, []byte("\xff\n")), '\r', '\n'), err
}

func TestWrapByCommand(t *testing.T) {
	private, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := Wrap(private, CommandRecipient(reverse))
	if err != nil {
		t.Fatal(err)
	}
	if whom, err := WrappedFor(wrapped); err != nil || whom != ForCommand {
		t.Errorf("it is seen to be for %q, %v", whom, err)
	}
	if !bytes.HasPrefix(wrapped, []byte("age-encryption.org/v1\n-> basin-command\n")) {
		t.Errorf("it is not as FORMAT.md says: %q", wrapped)
	}
	got, err := Unwrap(wrapped, CommandIdentity(reverseBack))
	if err != nil || !bytes.Equal(got.Public().Bytes(), private.Public().Bytes()) {
		t.Errorf("unwrapped is another: %v", err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(wrapped, Identity{other}); !errors.Is(err, ErrNotForUs) {
		t.Errorf("with another identity: %v", err)
	}
	for at := range wrapped { // whatever is changed is found
		damaged := bytes.Clone(wrapped)
		damaged[at] ^= 1
		if got, err := Unwrap(damaged, CommandIdentity(reverseBack)); err == nil && !bytes.Equal(got.Public().Bytes(), private.Public().Bytes()) {
			t.Errorf("byte %d is damaged, and another key comes out", at)
		} else if err == nil {
			t.Errorf("byte %d is damaged, which is not seen", at)
		}
	}
}

func TestCommandThatFails(t *testing.T) {
	private, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	broken := usererr.Hinted("look there", "it is broken")
	fails := func([]byte) ([]byte, error) { return nil, broken }
	if _, err := Wrap(private, CommandRecipient(fails)); !errors.Is(err, broken) || usererr.Hint(err) != "look there" || strings.Contains(err.Error(), "#0") {
		t.Errorf("wrap: %v", err)
	}
	for reason, wrap := range map[string]command{
		"as it is":  func(secret []byte) ([]byte, error) { return secret, nil },
		"in a text": func(secret []byte) ([]byte, error) { return append([]byte("x"), append(secret, 'y')...), nil },
	} {
		if _, err := Wrap(private, CommandRecipient(wrap)); err == nil || !strings.Contains(err.Error(), "printed the secret as it is") || usererr.Hint(err) == "" {
			t.Errorf("the secret is printed %s: %v", reason, err)
		}
	}

	wrapped, err := Wrap(private, CommandRecipient(reverse))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reason, printed string
		want            string // what the error has
	}{
		{"another secret", "AAAAAAAAAAAAAAAAAAAAAA==", "bad header MAC"},
		{"decoded once too often", "0123456789abcdef", "printed 16 bytes, which are no secret"},
		{"not decoded", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQT09", "printed 32 bytes, which are no secret"},
		{"an error on the standard output", "permission denied", "printed 17 bytes, which are no secret"},
		{"nothing", "", "printed 0 bytes"},
	} {
		_, err := Unwrap(wrapped, CommandIdentity(func([]byte) ([]byte, error) { return []byte(test.printed), nil }))
		if err == nil || !strings.Contains(err.Error(), test.want) || usererr.Hint(err) == "" {
			t.Errorf("%s: %v, hint %q", test.reason, err, usererr.Hint(err))
		}
		if err != nil && test.printed != "" && strings.Contains(err.Error()+usererr.Hint(err), test.printed) {
			t.Errorf("%s: what it printed is told: %v", test.reason, err)
		}
	}
	if _, err := Unwrap(wrapped, CommandIdentity(fails)); !errors.Is(err, broken) || usererr.Hint(err) != "look there" {
		t.Errorf("unwrap: %v", err)
	}
}
