package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"basin/internal/repo"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// maxIndexKeys is how many bytes a file of index keys has at most: from half of it on, some 6,000 backups, it is begun anew.
const maxIndexKeys = 1 << 20

// indexKeys are the keys with which a host without the private key reads what its own backups have: a file of this user, with a line for each
// backup. With them nobody reads what is in files, nor backups of others.
type indexKeys struct {
	path   string
	report *report
}

// keepIndex has the repository know what this host's own backups have, if that cannot be read there. What is wrong with
// the file is no error: all is stored then.
func keepIndex(report *report, r *repo.Repository) {
	if r.CanRead() {
		return
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		report.info("what this backup has is not kept for the next one: %v", err)
		return
	}
	k := &indexKeys{filepath.Join(dir, "basin", r.Info().ID.String()+".keys"), report}
	keys, err := k.read()
	if err != nil {
		report.warning("what older backups have is not known: %v", err)
	}
	r.KeepIndex(keys, k.add)
}

// read reads the keys.
func (k *indexKeys) read() (keys []seal.Key, err error) {
	content, err := readSecretFile(k.path, maxIndexKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(content) {
		id, secret, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		key := seal.Key{Encrypts: true}
		raw, err := base64.StdEncoding.DecodeString(secret)
		if err == nil {
			key.ID, err = seal.ParseKeyID(id)
		}
		if err != nil || len(raw) != len(key.Secret) {
			continue // it was being written when the host went down
		}
		key.Secret = seal.Secret(raw)
		keys = append(keys, key)
	}
	return keys, nil
}

// add adds a key, durably. If the file is too large it is begun anew, and so is what it tells of.
func (k *indexKeys) add(key seal.Key) {
	if err := k.write(key); err != nil {
		k.report.warning("what this backup has is not kept for the next one: %v", err)
	}
}

func (k *indexKeys) write(key seal.Key) error {
	dir := filepath.Dir(k.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(k.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0:
		err = usererr.Hinted("Remove it: what it tells of is stored anew once.", "\"%s\" is not a file that its owner alone can read", k.path)
	case info.Size() > maxIndexKeys/2:
		err = file.Truncate(0)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	_, err = fmt.Fprintf(file, "\n%s %s\n", key.ID, base64.StdEncoding.EncodeToString(key.Secret[:])) // behind a line that was not ended
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return syncFolder(dir)
}
