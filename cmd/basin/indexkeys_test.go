package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
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
