package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// keyOptions is what the command line of key asks for.
type keyOptions struct {
	repositoryOptions
	recipientOptions
	Identities []string // files
	JSON       bool
	Operands   []string
}

// key does what its first argument says with the keys of a repository.
func key(ctx context.Context, c call) error {
	actions := map[string]func(context.Context, call, keyOptions) error{
		"add": addKey, "list": listKeys, "remove": removeKey, "unlock": unlockKey,
	}
	names := []string{"add", "list", "remove", "unlock"}
	if len(c.argv) < 2 {
		return c.usage("what is to be done with the keys: %s?", strings.Join(names, ", "))
	}
	name := c.argv[1]
	do, ok := actions[name]
	if !ok {
		hint := c.usageHint()
		if nearest := nearestName(name, names); nearest != "" {
			hint = fmt.Sprintf("Did you mean \"%s %s\"?", c.called, nearest)
		}
		return usererr.Hinted(hint, "the first argument must be one of %s, not \"%s\"", strings.Join(names, ", "), name)
	}
	if len(c.argv) > 2 && (c.argv[2] == "--help" || c.argv[2] == "-?") {
		return helpKey(c.stdout, c.called)
	}
	c.argv = append([]string{c.argv[0]}, c.argv[2:]...)
	o, err := parseKey(c, name)
	if err != nil {
		return err
	}
	return do(ctx, c, o)
}

// parseKey reads the command line of what is done with keys.
func parseKey(c call, name string) (o keyOptions, err error) {
	o.Say = c.report.info
	json := flagOption("json", 0, &o.JSON)
	json.Whole = true
	table := append(o.repositoryOptions.options(), json, c.logFormat())
	if name == "add" {
		table = append(table, o.recipientOptions.options()...)
	}
	if name == "add" || name == "unlock" {
		table = append(table, getopt.Option{Long: "identity", Whole: true, Value: func(value string) error {
			o.Identities = append(o.Identities, value)
			return nil
		}})
	}
	if o.Operands, err = c.parse(table); err != nil {
		return o, err
	}
	most := 0
	if name == "remove" {
		most = 1
	}
	switch {
	case len(o.Operands) > most:
		return o, c.usage("too many command-line arguments (first is \"%s\")", o.Operands[most])
	case len(o.Operands) < most:
		return o, c.usage("no key is named")
	}
	return o, nil
}

// openLocked opens the repository without its private key, and returns also where it is, with the file that has or will have it.
func (o keyOptions) openLocked(ctx context.Context) (*repo.Repository, place, error) {
	p, err := o.place()
	if err == nil {
		err = o.check(p)
	}
	if err != nil {
		return nil, p, err
	}
	locked := p
	locked.KeyFile, locked.KeyCommand = "", ""
	r, err := locked.open(ctx)
	return r, p, err
}

// addKey wraps the private key for others.
func addKey(ctx context.Context, c call, o keyOptions) error {
	r, p, err := o.openLocked(ctx)
	if err != nil {
		return err
	}
	var private seal.PrivateKey
	if p.KeyFile != "" && len(o.Identities) == 0 {
		if _, err := openRepository(ctx, o.repositoryOptions); err != nil { // which sees that it is the right one
			return err
		}
		private, err = readKeyFile(p.KeyFile)
	} else {
		private, err = unwrap(ctx, r, o.Identities, p.KeyCommand)
	}
	if err != nil {
		return err
	}
	recipients, wrapped, err := o.wrap(ctx, private, "BASIN_NEW_PASSPHRASE_FILE", p.KeyCommand)
	if err != nil {
		return err
	}
	var added []repo.WrappedKey
	for i, one := range wrapped {
		var id repo.ID
		if id, err = r.AddKey(ctx, one); err != nil {
			break
		}
		added = append(added, repo.WrappedKey{ID: id, Created: time.Now(), Content: one})
		if o.JSON {
			continue
		}
		if _, err := fmt.Fprintf(c.stdout, "Added key %v for %s.\n", id, recipients[i].Name); err != nil {
			return err
		}
	}
	if o.JSON {
		l := listingOfKeys(r.Info(), added)
		l.Problems = append(l.Problems, problemTexts(err)...)
		return errors.Join(err, printJSON(c, l))
	}
	return err
}

// listKeys lists whom the private key is wrapped for.
func listKeys(ctx context.Context, c call, o keyOptions) error {
	r, _, err := o.openLocked(ctx)
	if err != nil {
		return err
	}
	keys, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	l := listingOfKeys(r.Info(), keys)
	if o.JSON {
		err = printJSON(c, l)
	} else {
		err = l.table(c.stdout)
	}
	var problems []error
	for _, text := range l.Problems {
		problems = append(problems, errors.New(text))
	}
	return errors.Join(append(problems, err)...)
}

// removeKey removes a wrapped key, which is named by what is enough of its beginning.
func removeKey(ctx context.Context, c call, o keyOptions) error {
	r, _, err := o.openLocked(ctx)
	if err != nil {
		return err
	}
	keys, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	var matching []repo.ID
	name := o.Operands[0]
	for _, k := range keys {
		if name != "" && strings.HasPrefix(k.ID.String(), name) {
			matching = append(matching, k.ID)
		}
	}
	if len(matching) != 1 {
		return usererr.Hinted("basin key list shows them.", "%d keys begin with \"%s\"", len(matching), name)
	}
	if err := r.RemoveKey(ctx, matching[0]); err != nil {
		return err
	}
	if o.JSON {
		return printJSON(c, removedKey{r.Info().ID, matching[0]})
	}
	_, err = fmt.Fprintf(c.stdout, "Removed key %v. Who has unlocked the private key with it, or has a copy of the\n"+
		"repository with it, can read all the same, also what is yet to come.\n", matching[0])
	return err
}

// unlockKey writes the private key into a file.
func unlockKey(ctx context.Context, c call, o keyOptions) error {
	r, p, err := o.openLocked(ctx)
	if err != nil {
		return err
	}
	if p.KeyFile == "" {
		return c.usage("where is the private key to go? Name a file with --key-file")
	}
	if _, err := os.Lstat(p.KeyFile); err == nil { // before a passphrase is asked for
		return usererr.Hinted("If it is the key, nothing is to be done. Else name another file.", "file \"%s\" is there already", p.KeyFile)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	private, err := unwrap(ctx, r, o.Identities, p.KeyCommand)
	if err != nil {
		return err
	}
	if err := writeKeyFile(p.KeyFile, r.Info().ID, private); err != nil {
		return err
	}
	if o.JSON {
		return printJSON(c, unlockedKey{r.Info().ID, r.Info().Fingerprint(), absolute(p.KeyFile)})
	}
	_, err = fmt.Fprintf(c.stdout, "Wrote the private key to %s, which only its owner can read.\n"+
		"--key-file, BASIN_KEY_FILE or key_file in basin.toml names it to other commands.\n", p.KeyFile)
	return err
}
