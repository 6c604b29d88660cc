package ahead

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"basin/internal/usererr"
)

// put puts a file into a folder.
func put(s *Folder, file string, content []byte) error {
	d, err := s.Draft(file)
	if err != nil {
		return err
	}
	if _, err := d.Write(content); err != nil {
		return errors.Join(err, d.Drop())
	}
	return d.Keep()
}

// TestWhatIsTakenIsWhatWasPut puts files, does something to them, and takes them.
func TestWhatIsTakenIsWhatWasPut(t *testing.T) {
	content := bytes.Repeat([]byte("log"), 1000)
	for _, test := range []struct {
		reason string
		change func(path string) error
		want   bool
	}{
		{"nothing", func(string) error { return nil }, true},
		{"a byte is another", func(path string) error { return os.WriteFile(path, bytes.ToUpper(content), 0o600) }, false},
		{"it is shorter, as after a loss of power", func(path string) error { return os.Truncate(path, 100) }, false},
		{"it was taken by another", os.Remove, false},
	} {
		dir := t.TempDir()
		s, err := Open(dir, "a server")
		if err != nil {
			t.Fatal(err)
		}
		if err := put(s, "000000010000000000000005", content); err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(s.Dir(), "*"))
		if err != nil || len(found) != 1 {
			t.Fatalf("%v, %v", found, err)
		}
		if err := test.change(found[0]); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, "RECOVERYXLOG")
		size, err := s.Take("000000010000000000000005", to)
		got, _ := os.ReadFile(to)
		if (err == nil) != test.want || !test.want && !errors.Is(err, fs.ErrNotExist) || test.want && (size != int64(len(content)) || !bytes.Equal(got, content)) {
			t.Errorf("%s: %d bytes, error %v", test.reason, len(got), err)
		}
		if left, err := os.ReadDir(s.Dir()); err != nil || len(left) > 0 {
			t.Errorf("%s: left are %v, error %v", test.reason, left, err)
		}
	}
}

// TestServersDoNotShare is about two servers with one spool.
func TestServersDoNotShare(t *testing.T) {
	dir := t.TempDir()
	one, err := Open(dir, "one")
	if err != nil {
		t.Fatal(err)
	}
	two, err := Open(dir, "two")
	if err != nil {
		t.Fatal(err)
	}
	if err := put(one, "000000010000000000000005", []byte("of one")); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Take("000000010000000000000005", filepath.Join(dir, "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("two took it: %v", err)
	}
	if err := os.Chmod(one.Dir(), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "one"); err == nil {
		t.Error("a folder that all can write to was taken")
	}
}

// TestOneFetches sees that the second who would fetch does not, and knows what comes.
func TestOneFetches(t *testing.T) {
	s, err := Open(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	check := func(file string, isTurn, isComing bool) {
		t.Helper()
		if turn, coming := s.IsAtWork(file); turn != isTurn || coming != isComing {
			t.Errorf("%s: at work: %v, and coming: %v", file, turn, coming)
		}
	}
	check("B", false, false)
	turn, err := s.Begin()
	if err != nil || turn == nil {
		t.Fatal(turn, err)
	}
	if second, err := s.Begin(); second != nil || err != nil {
		t.Errorf("two fetch: %v", err)
	}
	check("B", true, false)
	if err := turn.Tell("B", "D"); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{"A": false, "B": true, "D": true, "E": false} {
		check(file, true, want)
	}
	if err := turn.Tell("", ""); err != nil {
		t.Fatal(err)
	}
	check("B", true, false)
	if err := turn.End(); err != nil {
		t.Fatal(err)
	}
	check("B", false, false)
}

// What is told is whole at any time: who waits for a file is not to see that it is not coming while another one is told of.
func TestTellIsWhole(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	turn, err := s.Begin()
	if err == nil {
		err = turn.Tell("000000010000000000000001", "000000010000000000000005")
	}
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan error)
	go func() {
		var err error
		for i := range 2000 {
			err = errors.Join(err, turn.Tell("000000010000000000000001", []string{"000000010000000000000005", "000000010000000000000006"}[i%2]))
		}
		told <- err
	}()
	for {
		select {
		case err := <-told:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
		if _, isComing := s.IsAtWork("000000010000000000000003"); !isComing {
			t.Fatal("it is not coming")
		}
	}
}

// TestKeep removes what recovery does not ask for, and parts of files.
func TestKeep(t *testing.T) {
	s, err := Open(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"A", "B", "C"} {
		if err := put(s, name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	part := filepath.Join(s.Dir(), "D"+fileEnd+partEnd)
	if err := os.WriteFile(part, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(func(file string) bool { return file == "B" }); err != nil {
		t.Fatal(err)
	}
	if files, err := s.Files(); err != nil || len(files) != 1 || files[0].Name != "B" || files[0].Size != 1 {
		t.Errorf("left are %v, error %v", files, err)
	}
	if _, err := os.Stat(part); err == nil {
		t.Error("the part is left")
	}
}

// TestNotes notes what is stored: a note is of a file as it was, and old ones do not count.
func TestNotes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Open(dir, "server")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "segment")
	look := func() fs.FileInfo {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log")
	if err := s.Note("a", look()); !errors.Is(err, errYoung) {
		t.Fatalf("a file that was just written is noted: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if err = s.Note("a", look()); err == nil || time.Now().After(deadline) {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	begun := time.Now().Add(-time.Minute)
	for _, file := range []string{"b", "b"} { // again, which is no error
		err = errors.Join(err, s.Note(file, look()))
	}
	if err = errors.Join(err, put(s, "b", []byte("ahead"))); err != nil {
		t.Fatal(err)
	}
	was := look()
	if !s.Noted("a", was, begun) || s.Noted("c", was, begun) || s.Noted("a", was, begun.Add(time.Hour)) {
		t.Error("notes are not what was noted")
	}
	write("lag")
	if err := os.Chtimes(path, was.ModTime(), was.ModTime()); err != nil {
		t.Fatal(err)
	}
	if s.Noted("a", look(), begun) {
		t.Error("it was written to since, and is noted")
	}
	if err := s.KeepNotes(func(file string, made time.Time) bool { return file > "a" && made.After(begun) }); err != nil {
		t.Fatal(err)
	}
	files, err := s.Files()
	if s.Noted("a", was, begun) || !s.Noted("b", was, begun) || err != nil || len(files) != 1 {
		t.Errorf("other notes are left, or files: %v, %v", files, err)
	}
}

func TestOpenMakesTheSpool(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	f, err := Open(dir, "a server")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 || filepath.Dir(f.Dir()) != dir {
		t.Fatalf("made %v in %s: %v", info, f.Dir(), err)
	}
	if _, err := Open(filepath.Join(dir, "a", "b"), "a server"); err == nil || usererr.Hint(err) == "" {
		t.Fatalf("below what is not there: %v", err)
	}
}

// TestDraft writes files piece by piece, which are there once they are kept, and never if they are dropped.
func TestDraft(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, isKept := range []bool{false, true} {
		d, err := s.Draft("A")
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []string{"in ", "pieces"} {
			if _, err := d.Write([]byte(piece)); err != nil {
				t.Fatal(err)
			}
		}
		if files, err := s.Files(); err != nil || len(files) > 0 {
			t.Errorf("it is there before it is kept: %v, error %v", files, err)
		}
		end, want := d.Drop, 0
		if isKept {
			end, want = d.Keep, 1
		}
		if err := end(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(s.Dir()); err != nil || len(left) != want {
			t.Errorf("left are %v, error %v", left, err)
		}
	}
	path := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	if size, err := s.Take("A", path); err != nil || size != int64(len("in pieces")) {
		t.Errorf("it has %d bytes, error %v", size, err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "in pieces" {
		t.Errorf("it is %q, error %v", content, err)
	}
}
