package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"basin/internal/localfs"
	"basin/internal/repo"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// maxKeyFile is how many bytes a file with a key has at most.
const maxKeyFile = 64 << 10

// readSecretFile reads a file that nobody but its owner may read, of so many bytes at most.
func readSecretFile(path string, most int64) ([]byte, error) {
	file, info, err := localfs.OpenRegular(path)
	if err != nil {
		return nil, localfs.Errorf(err, path, "could not open file \"%s\"", path)
	}
	defer file.Close() // it was only read
	if info.Mode().Perm()&0o077 != 0 {
		return nil, usererr.Hinted(fmt.Sprintf("chmod 600 %s; whoever read it before has it still.", path),
			"file \"%s\" can be read by others: its mode is %04o", path, info.Mode().Perm())
	}
	content, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(content)) > most {
		err = errors.New("it is too long")
	}
	if err != nil {
		return nil, fmt.Errorf("file \"%s\": %w", path, err)
	}
	return content, nil
}

// readKeyFile reads a private key as writeKeyFile wrote it.
func readKeyFile(path string) (seal.PrivateKey, error) {
	content, err := readSecretFile(path, maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = usererr.Hinted("basin key unlock writes it.", "%w", err)
	}
	if err != nil {
		return seal.PrivateKey{}, err
	}
	private, err := parseKeyFile(string(content))
	if err != nil {
		return private, usererr.Hinted("basin key unlock writes such a file.", "file \"%s\": %w", path, err)
	}
	return private, nil
}

// parseKeyFile reads a private key: a line of base64, and lines that begin with #.
func parseKeyFile(text string) (private seal.PrivateKey, err error) {
	var found []byte
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if found != nil {
			return private, errors.New("it has more than one key")
		}
		if found, err = base64.StdEncoding.DecodeString(line); err != nil {
			return private, errors.New("it is no private key of a repository") // what is in it is not to be told
		}
	}
	if len(found) == 0 {
		return private, errors.New("it has no key")
	}
	return seal.ParsePrivateKey(found)
}

// writeKeyFile makes a file, which must not be there, with the private key of a repository. When it returns nil
// the file is durable.
func writeKeyFile(path string, id repo.ID, private seal.PrivateKey) (err error) {
	content, err := private.Bytes()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, ".basin-key-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = fmt.Fprintf(file, "# private key of the basin repository %v: who has it can read all backups\n%s\n",
		id, base64.StdEncoding.EncodeToString(content))
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); errors.Is(err, fs.ErrExist) {
		return usererr.Hinted("Name another, or remove it if it is not needed.", "file \"%s\" is there already", path)
	} else if err != nil {
		return err
	}
	return syncFolder(dir)
}
