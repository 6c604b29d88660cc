package pgconf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Flat is one file that stands for another and those that it includes.
type Flat struct {
	Text     []byte
	Settings map[string]string // of a file of settings: what holds in the end, without what was left out
	From     []string          // paths of what it was made of, in order
	Missing  []string          // paths of what is not in it, since it could not be read
	Left     []string          // names of settings that were left out, in order
}

// errLong is a file that would be too long, as one that is included many times.
var errLong = fmt.Errorf("with what it includes it has more than %d bytes", 4*MaxSize)

// Flatten returns a file of settings that includes no other. Settings that without has are comments in it. It is an
// error if the file itself cannot be read; of others that is noted.
func Flatten(f Files, path string, without map[string]bool) (Flat, error) {
	w := &flattener{files: f, without: without, flat: Flat{Settings: make(map[string]string)}, left: make(map[string]bool)}
	err := w.settings(path, 0)
	w.flat.Text = w.text.Bytes()
	return w.flat, err
}

// FlattenAccess returns a file of rules, as pg_hba.conf and pg_ident.conf, that refers to no other. It is an
// error if anything is missing: rules that are left out let others decide.
func FlattenAccess(f Files, path string) (Flat, error) {
	w := &flattener{files: f}
	err := w.access(path, 0)
	w.flat.Text = w.text.Bytes()
	return w.flat, err
}

// flattener is a file that is being made.
type flattener struct {
	files   Files
	without map[string]bool
	flat    Flat
	left    map[string]bool
	text    bytes.Buffer
}

// maxReads is how often files are read at most: many lines may refer to one, but references to references grow without end.
const maxReads = 100 * MaxFiles

// read reads a file that the one in hand, at a depth of 0 none, is to have.
func (w *flattener) read(name string, depth int) (string, error) {
	if depth > maxDepth {
		return "", fmt.Errorf("\"%s\": %w", name, errDeep)
	}
	content, err := w.files.Read(name)
	if err != nil {
		return "", err
	}
	if w.text.Len()+len(content) > 4*MaxSize || len(w.flat.From) == maxReads {
		return "", errLong
	}
	w.flat.From = append(w.flat.From, name)
	return string(content), nil
}

// comment writes a line as a comment.
func (w *flattener) comment(line string) {
	for part := range strings.Lines(line) {
		w.line("# " + part)
	}
}

// line writes a line, with an end that it may not have.
func (w *flattener) line(raw string) {
	w.text.WriteString(raw)
	if !strings.HasSuffix(raw, "\n") {
		w.text.WriteByte('\n')
	}
}

func (w *flattener) settings(name string, depth int) error {
	content, err := w.read(name, depth)
	if err != nil {
		return err
	}
	for raw := range strings.Lines(content) {
		s, ok := ParseSetting(raw)
		switch {
		case ok && isInclude(s.Name):
			w.comment(raw)
			if err := w.includeSettings(s, name, depth); err != nil {
				return err
			}
		case ok && w.without[s.Name]:
			w.comment(raw)
			if !w.left[s.Name] {
				w.left[s.Name] = true
				w.flat.Left = append(w.flat.Left, s.Name)
			}
		default:
			if ok {
				w.flat.Settings[s.Name] = s.Value
			}
			w.line(raw)
		}
	}
	return nil
}

// includeSettings writes what a line includes.
func (w *flattener) includeSettings(s Setting, from string, depth int) error {
	if s.Value == "" {
		return nil
	}
	files := []string{absolute(from, s.Value)}
	if s.Name == includeDir {
		var err error
		if files, err = listDir(w.files, files[0]); err != nil {
			return w.missing(absolute(from, s.Value), err)
		}
	}
	for _, name := range files {
		begin := w.text.Len()
		w.line(beginsLine(name))
		err := w.settings(name, depth+1)
		if errors.Is(err, errLong) || errors.Is(err, errDeep) {
			return err
		}
		if err != nil {
			w.text.Truncate(begin)
			if s.Name == includeIfExists && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err := w.missing(name, err); err != nil {
				return err
			}
			continue
		}
		w.line(endsLine(name))
	}
	return nil
}

func beginsLine(name string) string { return "# from here on: " + oneLine(name) }
func endsLine(name string) string   { return "# up to here: " + oneLine(name) }

func oneLine(name string) string { return strings.NewReplacer("\n", "?", "\r", "?").Replace(name) }

// missing notes what is not in the file; an error that says nothing of the kind is returned.
func (w *flattener) missing(name string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w.flat.Missing = append(w.flat.Missing, name)
	w.line("# it is not here: " + oneLine(name))
	return nil
}

func (w *flattener) access(name string, depth int) error {
	content, err := w.read(name, depth)
	if err != nil {
		return err
	}
	for _, l := range logicalLines(content) {
		words := wordsOf(l.text)
		if how, to, ok := includeOf(words); ok {
			w.comment(l.raw)
			if err := w.includeAccess(how, absolute(name, to), depth); err != nil {
				return err
			}
			continue
		}
		line, changed, err := w.expand(l.text, words, name, depth)
		if err != nil {
			return err
		}
		if !changed {
			line = l.raw
		}
		w.line(line)
	}
	return nil
}

// includeAccess writes the rules that a line includes.
func (w *flattener) includeAccess(how, at string, depth int) error {
	files := []string{at}
	if how == includeDir {
		var err error
		if files, err = listDir(w.files, at); err != nil {
			return err
		}
	}
	for _, name := range files {
		begin := w.text.Len()
		w.line(beginsLine(name))
		err := w.access(name, depth+1)
		if how == includeIfExists && errors.Is(err, fs.ErrNotExist) {
			w.text.Truncate(begin)
			continue
		}
		if err != nil {
			return err
		}
		w.line(endsLine(name))
	}
	return nil
}

// expand returns a line with the words of the files that it refers to.
func (w *flattener) expand(line string, words []word, from string, depth int) (string, bool, error) {
	var b strings.Builder
	at := 0
	for _, word := range words {
		if !word.isReference() {
			continue
		}
		inside, err := w.words(absolute(from, word.text[1:]), depth+1)
		if err != nil {
			return "", false, err
		}
		b.WriteString(line[at:word.at])
		for i, one := range inside {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(one.String())
		}
		if len(inside) == 0 {
			b.WriteString(`""`) // nobody has that name
		}
		at = word.end
	}
	return b.String() + line[at:], at > 0, nil
}

// words returns those in a file, and in others that it refers to.
func (w *flattener) words(name string, depth int) (all []word, err error) {
	content, err := w.read(name, depth)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(content) {
		for _, one := range wordsOf(line) {
			if !one.isReference() {
				all = append(all, one)
				continue
			}
			inside, err := w.words(absolute(name, one.text[1:]), depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, inside...)
		}
		if len(all) > MaxFile {
			return nil, errLong
		}
	}
	return all, nil
}
