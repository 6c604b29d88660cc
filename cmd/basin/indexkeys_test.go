package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"basin/internal/seal"
)

// TestIndexKeys writes index keys and reads them: behind a line that was cut off, from nothing, and where too much is there.
func TestIndexKeys(t *testing.T) {
	k := &indexKeys{path: filepath.Join(t.TempDir(), "basin", "a.keys")}
	var want []seal.Key
	for i := range 3 {
		keys, err := k.read()
		if err != nil || !slices.Equal(keys, want) {
			t.Fatalf("read are %v, want %v: %v", keys, want, err)
		}
		key := seal.Key{ID: seal.KeyID{byte(i)}, Secret: seal.NewSecret(), Encrypts: true}
		if err := k.write(key); err != nil {
			t.Fatal(err)
		}
		want = append(want, key)
		content, err := os.ReadFile(k.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(k.path, append(content, content[:30+i]...), 0o600); err != nil { // the host went down in the next one
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(k.path, bytes.Repeat([]byte("\n"), maxIndexKeys), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.write(want[0]); err != nil {
		t.Fatal(err)
	}
	if keys, err := k.read(); err != nil || !slices.Equal(keys, want[:1]) {
		t.Errorf("begun anew there are %v, %v", keys, err)
	}
	k.path = filepath.Join(k.path, "no directory")
	if err := k.write(want[0]); err == nil {
		t.Error("written below a file")
	}
}

// TestIndexKeysOfOthers has the file be one that others can read, a link, or a pipe: nothing is added to it.
func TestIndexKeysOfOthers(t *testing.T) {
	key := seal.Key{ID: seal.KeyID{1}, Secret: seal.NewSecret(), Encrypts: true}
	for reason, prepare := range map[string]func(path string) error{
		"others read it": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o640)) },
		"a link": func(path string) error {
			return errors.Join(os.WriteFile(path+".other", nil, 0o600), os.Symlink(path+".other", path))
		},
		"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		dir := t.TempDir()
		k := &indexKeys{path: filepath.Join(dir, "a.keys")}
		if err := prepare(k.path); err != nil {
			t.Fatal(err)
		}
		if err := k.write(key); err == nil {
			t.Errorf("%s: it was written to", reason)
		}
		for _, name := range []string{k.path, k.path + ".other"} {
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
				t.Errorf("%s: %d bytes were added", reason, info.Size())
			}
		}
	}
}
