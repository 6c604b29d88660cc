package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// recipientOptions say whom a private key is wrapped for.
type recipientOptions struct {
	Recipients  []seal.Recipient
	WrapCommand string // wraps the key for whoever can run the key command; if there is none, and no recipient, a passphrase does
}

// options returns the options that write to o.
func (o *recipientOptions) options() []getopt.Option {
	return []getopt.Option{
		{Long: "recipient", Whole: true, Value: func(value string) error {
			r, err := seal.ParseRecipient(value)
			o.Recipients = append(o.Recipients, r)
			return err
		}},
		{Long: "recipients-file", Whole: true, Value: func(value string) error {
			content, err := os.ReadFile(value)
			if err != nil {
				return err
			}
			found, err := seal.ParseRecipients(string(content))
			if err != nil {
				return fmt.Errorf("file \"%s\": %w", value, err)
			}
			o.Recipients = append(o.Recipients, found...)
			return nil
		}},
		{Long: "wrap-command", Whole: true, Value: func(value string) error {
			if o.WrapCommand = strings.TrimSpace(value); o.WrapCommand == "" {
				return errors.New("the command of --wrap-command is empty")
			}
			return nil
		}},
	}
}

// check sees that what a command wraps can be unwrapped by another.
func (o recipientOptions) check(p place) error {
	if o.WrapCommand == "" || strings.TrimSpace(p.KeyCommand) != "" {
		return nil
	}
	return usererr.Hinted("Name it with --key-command, BASIN_KEY_COMMAND or key_command in basin.toml: what is wrapped is unwrapped at once, before it is kept.",
		"there is a command that wraps the key, and none that unwraps it")
}

// wrap wraps a private key for each recipient. A passphrase is in the file that a variable of the environment
// names, or asked for. What a command wraps the key command has to unwrap.
func (o recipientOptions) wrap(ctx context.Context, private seal.PrivateKey, variable, keyCommand string) (recipients []seal.Recipient, wrapped [][]byte, err error) {
	recipients = slices.Clone(o.Recipients)
	if o.WrapCommand != "" {
		recipients = append(recipients, wrapCommand(ctx, o.WrapCommand))
	}
	if len(recipients) == 0 {
		passphrase, err := newPassphrase(ctx, variable)
		if err != nil {
			return nil, nil, err
		}
		one, err := seal.PassphraseRecipient(passphrase)
		if err != nil {
			return nil, nil, err
		}
		recipients = []seal.Recipient{one}
	}
	for _, r := range recipients {
		one, err := seal.Wrap(private, r)
		if err != nil {
			return nil, nil, err
		}
		if r.Name == seal.ForCommand {
			if err := proveCommand(ctx, one, keyCommand); err != nil {
				return nil, nil, err
			}
		}
		wrapped = append(wrapped, one)
	}
	return recipients, wrapped, nil
}

// newPassphrase returns a passphrase from the file that a variable names, or asks for one, twice.
func newPassphrase(ctx context.Context, variable string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		return readPassphraseFile(path)
	}
	first, err := promptSecret(ctx, "New passphrase of the repository: ")
	if err != nil {
		return "", err
	}
	if first == "" {
		return "", usererr.Hinted("Give one on the terminal, or name a file with "+variable+"; --recipient needs none.", "no passphrase was given")
	}
	second, err := promptSecret(ctx, "The same again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the passphrases are not the same")
	}
	return first, nil
}

// passphrase returns the passphrase of the repository.
func passphrase(ctx context.Context) (string, error) {
	if path := os.Getenv("BASIN_PASSPHRASE_FILE"); path != "" {
		return readPassphraseFile(path)
	}
	text, err := promptSecret(ctx, "Passphrase of the repository: ")
	if err == nil && text == "" {
		err = usererr.Hinted("Give it on the terminal, or name a file with BASIN_PASSPHRASE_FILE.", "no passphrase was given")
	}
	return text, err
}

// readPassphraseFile returns the first line of a file that others cannot read.
func readPassphraseFile(path string) (string, error) {
	content, err := readSecretFile(path, maxKeyFile)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("file \"%s\": its first line has no passphrase", path)
	}
	return line, nil
}

// unwrap returns the private key of a repository, which the identities in files unwrap; without files the key command, if there is one, and a
// key for it; and without that a passphrase.
func unwrap(ctx context.Context, r *repo.Repository, identityFiles []string, keyCommand string) (private seal.PrivateKey, err error) {
	keys, err := r.Keys(ctx)
	if err != nil {
		return private, err
	}
	if len(identityFiles) > 0 {
		identities, err := readIdentities(ctx, identityFiles)
		if err != nil {
			return private, err
		}
		if private, err = unwrapAny(r, keys, identities...); errors.Is(err, seal.ErrNotForUs) {
			err = usererr.Hinted("basin key list shows whom the keys are for.", "none of the repository's %d keys is for these identities", len(keys))
		}
		return private, err
	}
	if ours, _ := keysFor(seal.ForCommand, keys); keyCommand != "" && len(ours) > 0 {
		return unwrapByCommand(ctx, r, keyCommand)
	}
	ours, damaged := keysFor(seal.ForPassphrase, keys)
	if len(ours) == 0 {
		return private, cmp.Or(damaged, usererr.Hinted("--identity=FILE names the private key of one of them, of age or SSH; --key-command=COMMAND unwraps one that a command wrapped.",
			"the repository has %d keys, and none is of a passphrase", len(keys)))
	}
	identity, err := passphraseIdentity(ctx)
	if err != nil {
		return private, err
	}
	if private, err = unwrapAny(r, ours, identity); errors.Is(err, seal.ErrNotForUs) {
		err = cmp.Or(damaged, errors.New("the passphrase is wrong"))
	}
	return private, err
}

// unwrapByCommand returns the private key of a repository, which the key command unwraps.
func unwrapByCommand(ctx context.Context, r *repo.Repository, keyCommand string) (private seal.PrivateKey, err error) {
	keys, err := r.Keys(ctx)
	if err != nil {
		return private, err
	}
	ours, damaged := keysFor(seal.ForCommand, keys)
	if len(ours) == 0 {
		return private, cmp.Or(damaged, usererr.Hinted("basin key add --wrap-command=COMMAND makes one.",
			"there is a key command, and none of the repository's %d keys was wrapped by a command", len(keys)))
	}
	return unwrapAny(r, ours, unwrapCommand(ctx, keyCommand))
}

// keysFor returns the keys that are for one kind of reader, and which of the others are damaged.
func keysFor(whom string, keys []repo.WrappedKey) (ours []repo.WrappedKey, damaged error) {
	for _, k := range keys {
		switch found, err := seal.WrappedFor(k.Content); {
		case err != nil:
			damaged = errors.Join(damaged, fmt.Errorf("key %v: %w", k.ID, err))
		case found == whom:
			ours = append(ours, k)
		}
	}
	return ours, damaged
}

// unwrapAny returns the private key of a repository, which identities unwrap from one of the keys. If all are for others
// that is seal.ErrNotForUs.
func unwrapAny(r *repo.Repository, keys []repo.WrappedKey, identities ...seal.Identity) (seal.PrivateKey, error) {
	var problems []error
	for _, k := range keys {
		private, err := seal.Unwrap(k.Content, identities...)
		switch {
		case errors.Is(err, seal.ErrNotForUs):
		case err != nil:
			problems = append(problems, fmt.Errorf("key %v: %w", k.ID, err))
		case !bytes.Equal(private.Public().Bytes(), r.Info().PublicKey):
			problems = append(problems, fmt.Errorf("key %v is that of another repository", k.ID))
		default:
			return private, nil
		}
	}
	return seal.PrivateKey{}, cmp.Or(errors.Join(problems...), seal.ErrNotForUs)
}

// passphraseIdentity returns the identity of who knows the passphrase.
func passphraseIdentity(ctx context.Context) (seal.Identity, error) {
	text, err := passphrase(ctx)
	if err != nil {
		return seal.Identity{}, err
	}
	return seal.PassphraseIdentity(text)
}

// readIdentities reads private keys of age and SSH from files.
func readIdentities(ctx context.Context, files []string) (all []seal.Identity, err error) {
	for _, path := range files {
		content, err := readSecretFile(path, maxKeyFile)
		if err != nil {
			return nil, err
		}
		found, err := seal.ParseIdentities(content, func() (string, error) {
			return promptSecret(ctx, fmt.Sprintf("Passphrase of %s: ", path))
		})
		if err != nil {
			return nil, fmt.Errorf("file \"%s\": %w", path, err)
		}
		all = append(all, found...)
	}
	return all, nil
}
