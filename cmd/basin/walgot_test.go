package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/repo"
	"basin/internal/wal"
)

// TestDamageIsNotLeft gets a segment whose last frame is damaged in one repository or in both: nothing is left of it but what is whole.
func TestDamageIsNotLeft(t *testing.T) {
	clearEnvironment(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "basin.toml")
	write(t, config, fmt.Sprintf("[repository.local]\nlocation = \"%[1]s/local\"\n[repository.offsite]\nlocation = \"%[1]s/offsite\"\n"+
		"[cluster.shop]\nrepositories = [\"local\", \"offsite\"]\n", dir))
	segment := wal.Segment{Timeline: 1, Number: 5}
	name := segment.Name(wal.DefaultSegmentSize)
	content := forgedSegment(42, segment, "of 42")
	write(t, filepath.Join(dir, name), string(content))
	for _, location := range []string{"local", "offsite"} {
		if _, err := callBasin(t, "init", filepath.Join(dir, location)); err != nil {
			t.Fatal(err)
		}
	}
	call := func(args ...string) (string, int) {
		t.Helper()
		said, err := callBasin(t, append(args, "--config="+config, "--system-id=42")...)
		if err != nil {
			said += err.Error()
		}
		return said, statusOf(err)
	}
	if said, status := call("wal", "push", filepath.Join(dir, name)); status != exitSuccess {
		t.Fatal(said)
	}
	damage := func(location string) {
		found, err := filepath.Glob(filepath.Join(dir, location, "shop", "*", "wal", "*", "*", name))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		data, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		facts, err := clusterFacts(t, filepath.Join(dir, location), name)
		if err != nil {
			t.Fatal(err)
		}
		at := int64(64 + 32) // behind the head and a digest
		for _, n := range facts.Frames {
			at += n
		}
		data[at-1] ^= 1
		if err := os.WriteFile(found[0], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		reason  string
		damaged string
		to      string
		status  int
		says    string
	}{
		{"both are whole", "", "got", exitSuccess, ""},
		{"one is damaged", "local", "got", exitSuccess, "repository offsite has it"},
		{"there is no place for it", "", filepath.Join("missing", "got"), exitUnknown, fmt.Sprintf("could not write file \"%s\": No such file or directory", filepath.Join(dir, "to", "missing", "got.tmp"))},
		{"both are damaged", "offsite", "got", exitUnknown, "it is damaged"},
	} {
		if test.damaged != "" {
			damage(test.damaged)
		}
		to := filepath.Join(dir, "to")
		if err := errors.Join(os.RemoveAll(to), os.Mkdir(to, 0o700)); err != nil {
			t.Fatal(err)
		}
		said, status := call("wal", "get", name, filepath.Join(to, test.to))
		if status != test.status || !strings.Contains(said, test.says) {
			t.Errorf("%s: status %d, says %s", test.reason, status, said)
		}
		if test.status != exitSuccess {
			if names := entries(t, to); len(names) > 0 || strings.Contains(said, "repository") && strings.Contains(said, "could not write") {
				t.Errorf("%s: left are %v, says %s", test.reason, names, said)
			}
			continue
		}
		got, err := os.ReadFile(filepath.Join(to, test.to))
		if names := entries(t, to); err != nil || !bytes.Equal(got, content) || len(names) != 1 {
			t.Errorf("%s: %d bytes, error %v; left are %v", test.reason, len(got), err, names)
		}
	}
}

// clusterFacts returns what is known of a file of the log of cluster shop.
func clusterFacts(t *testing.T, location, name string) (facts repo.LogFacts, err error) {
	t.Helper()
	r, err := openRepository(t.Context(), repositoryOptions{Location: location})
	if err != nil {
		return facts, err
	}
	c, err := r.Cluster("shop", 42)
	if err != nil {
		return facts, err
	}
	return c.LogFacts(t.Context(), name)
}

// TestSlowDrafts has a repository still write when what another one had was put in place: it leaves nothing, and takes nothing away.
func TestSlowDrafts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "RECOVERYXLOG")
	text := func(text string) func(io.Writer) error {
		return func(w io.Writer) error { _, err := io.WriteString(w, text); return err }
	}
	begun, goOn, ended := make(chan bool), make(chan bool), make(chan error)
	drafts := &logDrafts{path: path}
	go func() {
		_, err := drafts.write(func(w io.Writer) error {
			err := text("slow")(w)
			begun <- true
			<-goOn
			return errors.Join(err, text("er")(w), context.Canceled)
		})
		ended <- err
	}()
	<-begun
	got, err := drafts.write(text("whole"))
	if err == nil {
		err = drafts.place(got, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if names := entries(t, dir); len(names) != 1 || names[0] != filepath.Base(path) {
		t.Errorf("left are %v", names)
	}
	if _, err := drafts.write(text("late")); err == nil {
		t.Error("one more was made")
	}
	next := &logDrafts{path: path} // whose file has the name that the slow one's had
	if got, err = next.write(text("next")); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := next.place(got, nil); err != nil {
		t.Error(err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "next" {
		t.Errorf("it is %q, error %v", content, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	last := &logDrafts{path: filepath.Join(dir, "taken")}
	if got, err = last.write(text("nowhere")); err == nil {
		err = last.place(got, nil)
	}
	if names := entries(t, dir); err == nil || len(names) != 2 {
		t.Errorf("left are %v, error %v", names, err)
	}
}
