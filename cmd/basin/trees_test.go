package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/manifest"
)

// node is one thing in a tree of files.
type node struct {
	Mode   fs.FileMode
	Size   int64  // of a file
	Target string // of a link, without the directory's own path
	Links  uint64 // names of a file
}

// readTree returns all that is in a directory but its manifest, by path.
func readTree(t *testing.T, dir string) map[string]node {
	t.Helper()
	tree := make(map[string]node)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		n := node{Mode: info.Mode()}
		switch {
		case entry.Type() == fs.ModeSymlink:
			var target string
			target, err = os.Readlink(path)
			n.Target = strings.TrimPrefix(target, dir)
		case !entry.IsDir():
			n.Size, n.Links = info.Size(), uint64(info.Sys().(*syscall.Stat_t).Nlink)
		}
		if rel, _ := filepath.Rel(dir, path); rel != manifest.Name {
			tree[rel] = n
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// sameTree fails the test unless two directories hold the same, but for their manifests. It
// returns how many files were compared.
func sameTree(t *testing.T, want, got string) (files int) {
	t.Helper()
	tree, other := readTree(t, want), readTree(t, got)
	if diff := cmp.Diff(tree, other); diff != "" {
		t.Errorf("%s and %s:\n%s", want, got, diff)
		return 0
	}
	for path, n := range tree {
		if !n.Mode.IsRegular() {
			continue
		}
		files++
		if at := firstDifference(t, filepath.Join(want, path), filepath.Join(got, path)); at >= 0 {
			t.Errorf("%s: byte %d is another in %s than in %s", path, at, got, want)
		}
	}
	return files
}

// firstDifference returns the offset of the first buffer in which two files differ, less
// than zero if they do not.
func firstDifference(t *testing.T, want, got string) int64 {
	t.Helper()
	var files [2]*os.File
	for i, name := range []string{want, got} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	if a, _ := files[0].Stat(); a != nil {
		if b, _ := files[1].Stat(); os.SameFile(a, b) {
			return -1
		}
	}
	var buffers [2][64 << 10]byte
	for at := int64(0); ; {
		var n [2]int
		for i, f := range files {
			var err error
			if n[i], err = io.ReadFull(f, buffers[i][:]); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(buffers[0][:n[0]], buffers[1][:n[1]]) {
			return at
		}
		if n[0] == 0 {
			return -1
		}
		at += int64(n[0])
	}
}

// sameManifest fails the test unless two manifests say the same, but for when files were
// changed, and in whatever order.
func sameManifest(t *testing.T, want, got string) {
	t.Helper()
	if diff := cmp.Diff(readManifest(t, want), readManifest(t, got)); diff != "" {
		t.Errorf("manifests in %s and %s:\n%s", want, got, diff)
	}
}

// readManifest returns what the manifest of a backup says, of the whole under no path.
func readManifest(t *testing.T, dir string) map[string]any {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, manifest.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := make(map[string]any)
	whole, err := manifest.Read(f, func(f manifest.File) error {
		if _, twice := all[f.Path]; twice {
			t.Errorf("%s is twice in the manifest in %s", f.Path, dir)
		}
		all[f.Path] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all[""] = whole
	return all
}
