package plain

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// placedText is text that lies in files, in pieces with zeros between them.
type placedText struct {
	io.Reader
	extents []backup.Extent
	settled int
}

func (p *placedText) Extents() iter.Seq2[backup.Extent, error] {
	return func(yield func(backup.Extent, error) bool) {
		for _, e := range p.extents {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (p *placedText) Settle(context.Context) error {
	p.settled++
	return nil
}

// placing returns a sink that has begun, and its directory.
func placing(t *testing.T, method CopyMethod) (sink *Sink, dir string) {
	t.Helper()
	claim, err := localfs.ClaimDir(filepath.Join(t.TempDir(), "out"), 0o700)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = claim.Close() })
	sink = NewSink(Options{Dir: claim, Method: method})
	t.Cleanup(func() { _ = sink.Close() })
	if err := sink.Begin(t.Context(), backup.Start{}); err != nil {
		t.Fatal(err)
	}
	return sink, claim.Path()
}

func TestPlacedMembers(t *testing.T) {
	dir := t.TempDir()
	stored := func(name, content string) *backup.StoredFile {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return &backup.StoredFile{File: f, Size: int64(len(content)), Name: path}
	}
	whole, other := stored("whole", "whole file"), stored("other", "0123456789")
	part := *stored("archive", "before, part of an archive, behind")
	part.Offset, part.Size, part.Shared = 8, 18, true
	for _, test := range []struct {
		reason  string
		method  CopyMethod
		extents []backup.Extent
		want    string
		linked  bool
		read    bool // and not settled
	}{
		{"linked", CopyLink, []backup.Extent{{File: whole, Length: 10}}, "whole file", true, false},
		{"empty", CopyRange, nil, "", false, false},
		{"a copy", CopyRange, []backup.Extent{{File: whole, Length: 10}}, "whole file", false, false},
		{"pieces", CopyRange, []backup.Extent{{File: whole, Length: 5}, {Length: 2}, {File: other, Offset: 8, Length: 2}, {File: whole, Offset: 5, Length: 1}}, "whole\x00\x0089 ", false, false},
		{"zeros at both ends", CopyRange, []backup.Extent{{Length: 3}, {File: other, Length: 1}, {Length: 2}}, "\x00\x00\x000\x00\x00", false, false},
		{"of an archive", CopyRange, []backup.Extent{{File: &part, Length: 18}}, "part of an archive", false, false},
		{"pieces cannot be linked", CopyLink, []backup.Extent{{File: whole, Length: 10}, {File: other, Length: 1}}, "as read", false, true},
		{"a part cannot be linked", CopyLink, []backup.Extent{{File: whole, Length: 9}}, "as read", false, true},
		{"nor one of an archive", CopyLink, []backup.Extent{{File: &part, Length: 18}}, "as read", false, true},
		{"pieces cannot be cloned", CopyClone, []backup.Extent{{Length: 1}}, "as read", false, true},
		{"bytes", CopyBytes, []backup.Extent{{File: whole, Length: 10}}, "as read", false, true},
	} {
		t.Run(test.reason, func(t *testing.T) {
			sink, dir := placing(t, test.method)
			r := &placedText{Reader: strings.NewReader("as read"), extents: test.extents}
			m := backup.Member{Path: "file", Kind: backup.File, Size: int64(len(test.want)), Mode: 0o640, Apart: true}
			if err := sink.PutApart(t.Context(), m, r); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "file")
			content, err := os.ReadFile(path)
			if err != nil || string(content) != test.want {
				t.Errorf("%q, %v", content, err)
			}
			if isSettled := r.settled == 1; isSettled == test.read {
				t.Errorf("settled %d times", r.settled)
			}
			ours, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := whole.File.Stat()
			if err != nil || os.SameFile(ours, theirs) != test.linked || !test.linked && ours.Mode() != 0o640 {
				t.Errorf("%v, linked: %v, %v", ours.Mode(), os.SameFile(ours, theirs), err)
			}
		})
	}
}

// TestPlacedMembersThatCannotBe has a source that is shorter than it was, a cancelled
// context, and what a file system cannot do.
func TestPlacedMembersThatCannotBe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	short := []backup.Extent{{File: &backup.StoredFile{File: f, Size: 10, Name: path}, Length: 10}}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		reason string
		ctx    context.Context
		method CopyMethod
		said   string
	}{
		{"shorter than it was", t.Context(), CopyRange, `unexpected end of file while copying file range from "` + path + `"`},
		{"cancelled", cancelled, CopyRange, "context canceled"},
	} {
		sink, _ := placing(t, test.method)
		r := &placedText{extents: short}
		err = sink.Put(test.ctx, backup.Member{Path: "file", Kind: backup.File, Size: 10, Mode: 0o600}, r)
		if err == nil || !strings.Contains(err.Error(), test.said) || r.settled > 0 {
			t.Errorf("%s: %v, settled %d times", test.reason, err, r.settled)
		}
		if err := sink.Commit(t.Context(), wal.Position{}); err == nil {
			t.Errorf("%s: committed", test.reason)
		}
	}
	for errno, hinted := range map[error]bool{syscall.EXDEV: true, syscall.EOPNOTSUPP: true, syscall.EIO: false} {
		err := unable(errno, path, "error while cloning file \"%s\" to \"%s\"", "a", "b")
		if !errors.Is(err, errno) || (usererr.Hint(err) != "") != hinted {
			t.Errorf("%v: hint %q", err, usererr.Hint(err))
		}
	}
}
