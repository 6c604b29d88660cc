package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestIsOwn has root not read for the server's user what its configuration leads to.
func TestIsOwn(t *testing.T) {
	dir := t.TempDir()
	if !isOwn(dir) || isOwn(filepath.Join(dir, "none")) {
		t.Error("whose directory it is is not known")
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if isOwn(dir) {
		t.Error("root reads for another user")
	}
}

// TestDamagedDropped reads a note of log that was given up which is damaged in its middle: nothing of it is told any further.
func TestDamagedDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "note")
	if err := os.WriteFile(path, []byte(`{"cluster":"main","repositories":{"/a":{"first":"1"},"/b":7}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := readDropped(path)
	if err == nil || d.Cluster != "" || len(d.Repositories) != 0 {
		t.Errorf("%+v, %v", d, err)
	}
}
