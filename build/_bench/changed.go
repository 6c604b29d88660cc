package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

const (
	pageSize = 8192
	together = 16 // pages that are compressed as one
)

// changed prints how many pages of the files below a folder differ from those that they were
// copied to before, and how many bytes they are compressed, sixteen at a time.
func changed(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("changed: %d arguments, want the old folder and the new", len(args))
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(3)), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	var pages, packed int64
	var waiting []byte
	pack := func() {
		packed += int64(len(encoder.EncodeAll(waiting, nil)))
		waiting = waiting[:0]
	}
	err = filepath.WalkDir(args[1], func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(args[1], path)
		if err != nil {
			return err
		}
		return differing(filepath.Join(args[0], name), path, func(page []byte) {
			pages++
			if waiting = append(waiting, page...); len(waiting) == together*pageSize {
				pack()
			}
		})
	})
	if err != nil {
		return err
	}
	pack()
	fmt.Printf("%d\t%d\n", pages, packed)
	return nil
}

// differing calls a function for each page of a file that an older one does not have in its place.
func differing(before, after string, each func(page []byte)) error {
	now, err := os.Open(after)
	if err != nil {
		return err
	}
	defer now.Close()
	var was io.Reader = bytes.NewReader(nil)
	if old, err := os.Open(before); err == nil {
		defer old.Close()
		was = old
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	const chunk = 128 * pageSize
	page, other := make([]byte, chunk), make([]byte, chunk)
	for {
		n, err := io.ReadFull(now, page)
		if n == 0 {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		m, err := io.ReadFull(was, other)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		for at := 0; at < n; at += pageSize {
			end := min(at+pageSize, n)
			if end > m || !bytes.Equal(page[at:end], other[at:end]) {
				each(page[at:end])
			}
		}
	}
}
