package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"basin/internal/usererr"
)

// Recipient is whom a private key is wrapped for.
type Recipient struct {
	Name string // as the user wrote it; ForPassphrase or ForCommand for one
	age  age.Recipient
}

// Identity is what unwraps a private key.
type Identity struct{ age age.Identity }

// IsPassphrase says whether the recipient is who knows a passphrase.
func (r Recipient) IsPassphrase() bool { _, ok := r.age.(*age.ScryptRecipient); return ok }

// ParseRecipient reads a recipient: age1…, of X25519 or, as age1pq1…, of ML-KEM-768 with X25519, or
// a public key of SSH, ssh-ed25519 or ssh-rsa.
func ParseRecipient(s string) (Recipient, error) {
	s = strings.TrimSpace(s)
	var r age.Recipient
	var err error
	switch {
	case strings.HasPrefix(s, "AGE-SECRET-KEY-"):
		return Recipient{}, usererr.Hinted("age-keygen -y prints the public half, which begins with age1.",
			"a recipient is a public key, and this is a private one")
	case strings.HasPrefix(s, "age1pq1"):
		r, err = age.ParseHybridRecipient(s)
	case strings.HasPrefix(s, "age1"):
		r, err = age.ParseX25519Recipient(s)
	case strings.HasPrefix(s, "ssh-"):
		r, err = agessh.ParseRecipient(s)
	default:
		err = errors.New("it begins with none of age1, ssh-ed25519, ssh-rsa")
	}
	if err != nil {
		return Recipient{}, fmt.Errorf("%q is no recipient: %w", s, err)
	}
	return Recipient{Name: s, age: r}, nil
}

// ParseRecipients reads recipients, one a line. Empty lines and those that begin with # are left out.
func ParseRecipients(text string) ([]Recipient, error) {
	var all []Recipient
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		r, err := ParseRecipient(line)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, errors.New("no recipient is there")
	}
	return all, nil
}

// ForPassphrase is what WrappedFor says of a key with a passphrase.
const ForPassphrase = "passphrase"

// PassphraseRecipient returns the recipient that knows a passphrase, which is derived with scrypt: that
// takes a second and 256 MiB, here and when it is unwrapped.
func PassphraseRecipient(passphrase string) (Recipient, error) {
	r, err := age.NewScryptRecipient(passphrase)
	return Recipient{Name: ForPassphrase, age: r}, err
}

// ParseIdentities reads a file of age's identities, or a private key of SSH. passphrase is asked for that
// of the latter, if it has one.
func ParseIdentities(content []byte, passphrase func() (string, error)) ([]Identity, error) {
	if bytes.HasPrefix(content, []byte("-----BEGIN")) {
		one, err := parseSSHIdentity(content, passphrase)
		if err != nil {
			return nil, err
		}
		return []Identity{{one}}, nil
	}
	parsed, err := age.ParseIdentities(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	all := make([]Identity, len(parsed))
	for i, one := range parsed {
		all[i] = Identity{one}
	}
	return all, nil
}

// parseSSHIdentity reads a private key of SSH.
func parseSSHIdentity(content []byte, passphrase func() (string, error)) (age.Identity, error) {
	one, err := agessh.ParseIdentity(content)
	missing := (*ssh.PassphraseMissingError)(nil)
	if !errors.As(err, &missing) {
		return one, err
	}
	if missing.PublicKey == nil {
		return nil, usererr.Hinted("ssh-keygen -p -f FILE writes it in OpenSSH's format.",
			"the private key is encrypted in an old format")
	}
	return agessh.NewEncryptedSSHIdentity(missing.PublicKey, content, func() ([]byte, error) {
		text, err := passphrase()
		return []byte(text), err
	})
}

// PassphraseIdentity returns the identity of who knows a passphrase.
func PassphraseIdentity(passphrase string) (Identity, error) {
	one, err := age.NewScryptIdentity(passphrase)
	return Identity{one}, err
}

// Wrap returns an age file that holds a private key for a recipient.
func Wrap(private PrivateKey, r Recipient) ([]byte, error) {
	content, err := private.Bytes()
	if err != nil {
		return nil, err
	}
	var wrapped bytes.Buffer
	w, err := age.Encrypt(&wrapped, r.age)
	if cause := errors.Unwrap(err); cause != nil { // it says which of the recipients, and there is one
		err = cause
	}
	if err != nil {
		return nil, fmt.Errorf("wrap the private key for %s: %w", r.Name, err)
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return wrapped.Bytes(), nil
}

// ErrNotForUs is a wrapped key that is for none of the identities, or was wrapped with another passphrase.
var ErrNotForUs = errors.New("the key is wrapped for another")

// Unwrap is the inverse of Wrap. A key that none of the identities unwraps is ErrNotForUs.
func Unwrap(wrapped []byte, identities ...Identity) (PrivateKey, error) {
	ages := make([]age.Identity, len(identities))
	for i, one := range identities {
		ages[i] = one.age
	}
	r, err := age.Decrypt(bytes.NewReader(wrapped), ages...)
	if errors.As(err, new(*age.NoIdentityMatchError)) {
		return PrivateKey{}, ErrNotForUs
	}
	if err != nil && usererr.Hint(err) == "" && slices.ContainsFunc(identities, Identity.isCommand) {
		err = usererr.Hinted("What the command printed is not the secret of this key; or the key in the repository is damaged.", "%w", err)
	}
	if err != nil {
		return PrivateKey{}, fmt.Errorf("unwrap the private key: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(r, secretSize+1)) // one more: the end is authenticated too
	if err != nil {
		return PrivateKey{}, fmt.Errorf("unwrap the private key: %w", err)
	}
	return ParsePrivateKey(content)
}

// WrappedFor says whom a wrapped key is for, as far as that can be seen: "passphrase", "command", "age",
// "age (post-quantum)", "ssh-ed25519 TAG" or "ssh-rsa TAG". TAG is the first four bytes of the
// public key's SHA-256, in base64.
func WrappedFor(wrapped []byte) (string, error) {
	header, err := age.ExtractHeader(bytes.NewReader(wrapped))
	if err != nil {
		return "", fmt.Errorf("the key is no age file: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(header)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "->" {
			continue
		}
		switch kind := words[1]; {
		case kind == "scrypt":
			found = append(found, ForPassphrase)
		case kind == commandStanza:
			found = append(found, ForCommand)
		case kind == "X25519":
			found = append(found, "age")
		case kind == "mlkem768x25519":
			found = append(found, "age (post-quantum)")
		case strings.HasPrefix(kind, "ssh-") && len(words) > 2:
			found = append(found, kind+" "+words[2])
		case !strings.HasSuffix(kind, "-grease"): // which age adds for nobody
			found = append(found, kind)
		}
	}
	return strings.Join(found, ", "), nil
}
