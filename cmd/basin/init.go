package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"basin/internal/object"
	"basin/internal/repo"
	"basin/internal/seal"
	"basin/internal/shell"
	"basin/internal/usererr"
)

// initOptions is what the command line of init asks for.
type initOptions struct {
	repositoryOptions
	recipientOptions
	Encrypt bool
	JSON    bool
}

// initResult is what init --json prints. Its shape is documented in docs/repository.md: fields are added, and none is
// changed or removed.
type initResult struct {
	Repository  repo.ID      `json:"repository"`
	Location    string       `json:"location"`
	Encrypted   bool         `json:"encrypted"`
	Fingerprint string       `json:"fingerprint,omitempty"` // of the public key
	Keys        []keyListing `json:"keys"`
}

// parseInit reads the command line of init.
func parseInit(c call) (initOptions, error) {
	var o initOptions
	o.Say = c.report.info
	encrypt, json := flagOption("encrypt", 0, &o.Encrypt), flagOption("json", 0, &o.JSON)
	encrypt.Whole, json.Whole = true, true
	table := append(o.repositoryOptions.options(), encrypt, json, c.logFormat())
	operands, err := c.parse(append(table, o.recipientOptions.options()...))
	switch {
	case err != nil:
		return o, err
	case len(operands) > 1:
		return o, c.usage("too many command-line arguments (first is \"%s\")", operands[1])
	case len(operands) == 1 && o.Location != "":
		return o, c.usage("the repository is named twice: \"%s\" and --repository", operands[0])
	case len(operands) == 1:
		o.Location = operands[0]
	}
	o.Encrypt = o.Encrypt || len(o.Recipients) > 0 || o.WrapCommand != ""
	return o, nil
}

// initRepository makes a repository.
func initRepository(ctx context.Context, c call) error {
	o, err := parseInit(c)
	if err != nil {
		return err
	}
	p, err := o.place()
	if err != nil {
		return err
	}
	if err := o.check(p); err != nil {
		return err
	}
	var init repo.InitOptions
	var recipients []seal.Recipient
	if o.Encrypt {
		private, err := seal.NewPrivateKey()
		if err != nil {
			return err
		}
		public := private.Public()
		init.PublicKey = &public
		if recipients, init.Keys, err = o.wrap(ctx, private, "BASIN_PASSPHRASE_FILE", p.KeyCommand); err != nil {
			return err
		}
	}
	if err := p.checkNewLock(ctx, c); err != nil {
		return err
	}
	store, err := p.newStore(ctx)
	if err != nil {
		return err
	}
	info, err := repo.Init(ctx, store, init)
	if errors.Is(err, fs.ErrExist) {
		return usererr.Hinted("basin list shows what is in it.", "%s: %w", p.Location, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.Location, err)
	}
	if o.JSON {
		result, err := listMade(ctx, p.Location, info, store)
		return errors.Join(err, printJSON(c, result))
	}
	_, err = c.stdout.Write([]byte(initReport(p.Location, info, recipients)))
	return err
}

// listMade returns what is told of a repository that was just made. The error is that its keys could not be listed.
func listMade(ctx context.Context, location string, info repo.Info, store object.Store) (initResult, error) {
	result := initResult{info.ID, location, info.Encrypted, info.Fingerprint(), []keyListing{}}
	if !info.Encrypted {
		return result, nil
	}
	r, err := repo.Open(ctx, store, repo.Options{})
	if err != nil {
		return result, err
	}
	keys, err := r.Keys(ctx)
	result.Keys = listingOfKeys(info, keys).Keys
	return result, err
}

// initReport says what was made, and what to do next.
func initReport(location string, info repo.Info, recipients []seal.Recipient) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Made the repository %v at %s.\n\n", info.ID, location)
	if !info.Encrypted {
		fmt.Fprintf(&b, `It is NOT ENCRYPTED: who can read its files can read the data of all clusters in it. That is
decided for good; to have it otherwise, make another with basin init --encrypt.

Next: basin list --repository=%s
`, shell.Quote(location))
		return b.String()
	}
	b.WriteString("It is encrypted. Its private key can be unlocked with any of these, and by nobody else:\n")
	for _, r := range recipients {
		fmt.Fprintf(&b, "  %s\n", r.Name)
	}
	fmt.Fprintf(&b, `If all of them are lost, NO BACKUP CAN EVER BE READ AGAIN. Keep one away from this host;
basin key add makes another.

Writing needs no key. Hosts that only write should be told the fingerprint of the public key, with
--fingerprint or in their configuration, lest somebody puts another key in its place:
  %s

Next, where backups are read:
  basin key unlock --repository=%s --key-file=FILE
`, info.Fingerprint(), shell.Quote(location))
	return b.String()
}
