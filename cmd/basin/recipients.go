package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// recipientOptions say whom a private key is wrapped for.
type recipientOptions struct {
	Recipients []seal.Recipient // none is who knows a passphrase
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
	}
}

// wrap wraps a private key for each recipient. A passphrase is in the file that a variable of the environment
// names, or asked for.
func (o recipientOptions) wrap(ctx context.Context, private seal.PrivateKey, variable string) (recipients []seal.Recipient, wrapped [][]byte, err error) {
	recipients = o.Recipients
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

// unwrap returns the private key of a repository, which the identities in files unwrap, or without files a passphrase.
func unwrap(ctx context.Context, r *repo.Repository, identityFiles []string) (private seal.PrivateKey, err error) {
	keys, err := r.Keys(ctx)
	if err != nil {
		return private, err
	}
	identities, err := readIdentities(ctx, identityFiles)
	if err != nil {
		return private, err
	}
	var problems []error
	asked := len(identityFiles) > 0
	for _, k := range keys {
		if len(identityFiles) == 0 {
			switch whom, err := seal.WrappedFor(k.Content); {
			case err != nil:
				problems = append(problems, fmt.Errorf("key %v: %w", k.ID, err))
				continue
			case whom != "passphrase":
				continue
			}
			if !asked {
				if identities, err = passphraseIdentity(ctx); err != nil {
					return private, err
				}
				asked = true
			}
		}
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
	switch {
	case len(problems) > 0:
		return private, errors.Join(problems...)
	case !asked:
		return private, usererr.Hinted("--identity=FILE names the private key of one of them, of age or SSH.",
			"the repository has %d keys, and none is of a passphrase", len(keys))
	case len(identityFiles) == 0:
		return private, errors.New("the passphrase is wrong")
	}
	return private, usererr.Hinted("basin key list shows whom the keys are for.", "none of the repository's %d keys is for these identities", len(keys))
}

// passphraseIdentity returns the identity of who knows the passphrase.
func passphraseIdentity(ctx context.Context) ([]seal.Identity, error) {
	text, err := passphrase(ctx)
	if err != nil {
		return nil, err
	}
	one, err := seal.PassphraseIdentity(text)
	return []seal.Identity{one}, err
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
