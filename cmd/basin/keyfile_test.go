package main

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/repo"
	"basin/internal/seal"
)

// newKey makes a private key, and returns also how it is kept.
func newKey(t *testing.T) (private seal.PrivateKey, content []byte) {
	t.Helper()
	private, err := seal.NewPrivateKey()
	if err == nil {
		content, err = private.Bytes()
	}
	if err != nil {
		t.Fatal(err)
	}
	return private, content
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	private, content := newKey(t)
	id := repo.NewID()
	if err := writeKeyFile(path, id, private); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	got, err := readKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := got.Bytes(); err != nil || !bytes.Equal(again, content) {
		t.Errorf("another key was read, %v", err)
	}
	before, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(before), id.String()) {
		t.Errorf("it does not name the repository: %v", err)
	}
	other, _ := newKey(t)
	if err := writeKeyFile(path, id, other); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("over what is there: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if err := writeKeyFile(link, id, other); err == nil {
		t.Error("a link was followed")
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("there are %v, %v", entries, err)
	}
	if err := writeKeyFile(filepath.Join(dir, "absent", "key"), id, private); err == nil {
		t.Error("a key was written to nowhere")
	}
}

func TestParseKeyFile(t *testing.T) {
	_, content := newKey(t)
	line := base64.StdEncoding.EncodeToString(content)
	for _, test := range []struct {
		reason, text, want string // what the error has; empty for none
	}{
		{"as it is written", "# comment\n" + line + "\n", ""},
		{"without a comment", line, ""},
		{"as Windows ends lines", "# comment\r\n" + line + "\r\n", ""},
		{"nothing", "", "it has no key"},
		{"a comment alone", "# comment\n", "it has no key"},
		{"two", line + "\n" + line + "\n", "more than one"},
		{"no base64", "secret!\n", "it is no private key"},
		{"too short", line[:20], "private key"},
		{"too long", base64.StdEncoding.EncodeToString(append(content, 0)), "private key"},
	} {
		_, err := parseKeyFile(test.text)
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.reason, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret!") {
			t.Errorf("%s: what is in it is told: %v", test.reason, err)
		}
	}
}

func TestReadSecretFile(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		mode  os.FileMode
		size  int
		fails bool
	}{
		{0o600, 10, false}, {0o400, 10, false}, {0o600, maxKeyFile, false},
		{0o640, 10, true}, {0o604, 10, true}, {0o620, 10, true}, {0o600, maxKeyFile + 1, true},
	} {
		path := filepath.Join(dir, "secret")
		if err := os.WriteFile(path, make([]byte, test.size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		content, err := readSecretFile(path, maxKeyFile)
		if (err != nil) != test.fails || err == nil && len(content) != test.size {
			t.Errorf("%04o, %d bytes: %v", test.mode, test.size, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := readSecretFile(dir, maxKeyFile); err == nil {
		t.Error("a directory was read")
	}
}

// Who writes to a cluster names one that need not be there.
func TestOpenClusterToWrite(t *testing.T) {
	location, _ := newRepository(t)
	for _, test := range []struct{ cluster, want string }{{"", "main/5"}, {"blog", "blog/5"}} {
		_, c, err := openClusterOf(t.Context(), repositoryOptions{Location: location, Cluster: test.cluster}, 5)
		if err != nil || c.Name().String() != test.want {
			t.Errorf("%q: %v", test.cluster, err)
		}
	}
	if _, _, err := openClusterOf(t.Context(), repositoryOptions{Location: location, Cluster: "keys"}, 5); err == nil {
		t.Error("a cluster is called keys")
	}
}
