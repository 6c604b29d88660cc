package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

// pair is a recipient, and the text of the identity that is its other half.
type pair struct {
	recipient, identity string
	seen                string // how what WrappedFor says begins
}

// newSSHPair makes a key pair of SSH, of which the private half may have a passphrase.
func newSSHPair(t *testing.T, passphrase string) pair {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pair{string(ssh.MarshalAuthorizedKey(key)), string(pem.EncodeToMemory(block)), "ssh-ed25519 "}
}

// A key is unwrapped by whom it was wrapped for and by nobody else.
func TestWrap(t *testing.T) {
	classic, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	pairs := []pair{
		{classic.Recipient().String(), "# a comment\n" + classic.String() + "\n", "age"},
		{hybrid.Recipient().String(), hybrid.String(), "age (post-quantum)"},
		newSSHPair(t, ""),
		newSSHPair(t, "secret"),
	}
	private, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	want, err := private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	ask := func() (string, error) { return "secret", nil }
	for i, p := range pairs {
		all, err := ParseRecipients("# for\n\n" + p.recipient)
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := Wrap(private, all[0])
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(wrapped, want) {
			t.Errorf("%d: the key is there as it is", i)
		}
		if seen, err := WrappedFor(wrapped); err != nil || !strings.HasPrefix(seen, p.seen) {
			t.Errorf("%d: it is seen to be for %q, %v", i, seen, err)
		}
		for k, other := range pairs {
			identities, err := ParseIdentities([]byte(other.identity), ask)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Unwrap(wrapped, identities...)
			if k != i {
				if !errors.Is(err, ErrNotForUs) {
					t.Errorf("%d: with identity %d: %v", i, k, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%d: %v", i, err)
				continue
			}
			if have, err := got.Bytes(); err != nil || !bytes.Equal(have, want) {
				t.Errorf("%d: another key, %v", i, err)
			}
			for _, damaged := range [][]byte{nil, wrapped[:len(wrapped)-1], append(wrapped[:len(wrapped)-1:len(wrapped)-1], wrapped[len(wrapped)-1]^1)} {
				if _, err := Unwrap(damaged, identities...); err == nil {
					t.Errorf("%d: damage is not found", i)
				}
			}
		}
	}
}

func TestWrapWithPassphrase(t *testing.T) {
	private, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	r, err := PassphraseRecipient("right")
	if err != nil || !r.IsPassphrase() {
		t.Fatal(err)
	}
	r.age.(*age.ScryptRecipient).SetWorkFactor(10) // the work is not what is tested
	wrapped, err := Wrap(private, r)
	if err != nil {
		t.Fatal(err)
	}
	if seen, err := WrappedFor(wrapped); err != nil || seen != "passphrase" {
		t.Errorf("it is seen to be for %q, %v", seen, err)
	}
	for _, test := range []struct {
		passphrase string
		want       error
	}{{"right", nil}, {"wrong", ErrNotForUs}} {
		one, err := PassphraseIdentity(test.passphrase)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Unwrap(wrapped, one); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.passphrase, err)
		}
	}
}

func TestParseRecipientRefuses(t *testing.T) {
	for reason, text := range map[string]string{
		"nothing":              "",
		"a comment alone":      "# none\n",
		"a private key":        "AGE-SECRET-KEY-1QQQ",
		"a damaged one":        "age1qqqqq",
		"another kind of SSH":  "ecdsa-sha2-nistp256 AAAA",
		"options of SSH first": `command="x" ssh-ed25519 AAAA`,
	} {
		if all, err := ParseRecipients(text); err == nil {
			t.Errorf("%s: got %v", reason, all)
		}
	}
}
