package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"basin/internal/wal"
)

// Read reads a manifest and calls each for every file in it, in order. The slice of a
// checksum is each's own.
//
// Files are told before the checksum of the manifest is known to be right: what each
// was told counts only once Read has returned no error. The text of a number, or of
// anything else, may be in quotes or not. Memory does not depend on the number of files.
//
// Source: json_parse_manifest in src/common/parse_manifest.c, PostgreSQL 18.
func Read(r io.Reader, each func(File) error) (Manifest, error) {
	return read(r, func(f File, _ int64) error { return each(f) })
}

// read is Read that also tells the offset in bytes of what is said of each file.
func read(r io.Reader, each func(f File, offset int64) error) (Manifest, error) {
	sum := &sumOfManifest{hash: sha256.New()}
	p := &parser{src: io.TeeReader(r, sum), each: each}
	if err := p.read(); err != nil {
		return Manifest{}, err
	}
	return p.manifest, sum.check(p.checksum, p.hasChecksum)
}

// parser is one Read.
type parser struct {
	src      io.Reader
	noLines  bool // all is left to package json
	json     *json.Decoder
	begin    int64 // what of src json has first, in bytes
	each     func(f File, offset int64) error
	offset   int64 // of the element in hand, in bytes
	manifest Manifest

	checksum    string
	hasChecksum bool
}

// read reads all of a manifest.
func (p *parser) read() error {
	p.parse(p.src)
	if err := p.open('{'); err != nil {
		return err
	}
	for first := true; !p.hasChecksum; first = false {
		key, ended, err := p.key()
		switch {
		case err != nil:
			return err
		case ended:
			return unexpected(json.Delim('}'))
		case first && key != "PostgreSQL-Backup-Manifest-Version":
			return parseError("expected version indicator")
		}
		if err := p.field(key); err != nil {
			return err
		}
	}
	token, err := p.next()
	switch {
	case err != nil:
		return err
	case token != json.Delim('}'):
		return unexpected(token)
	}
	if token, err := p.json.Token(); !errors.Is(err, io.EOF) {
		if err != nil {
			return lexical(err)
		}
		return unexpected(token)
	}
	return nil
}

// parse has package json read from r on.
func (p *parser) parse(r io.Reader) {
	p.json = json.NewDecoder(r)
	p.json.UseNumber()
}

// field reads the value of a field of the whole.
func (p *parser) field(key string) (err error) {
	switch key {
	case "PostgreSQL-Backup-Manifest-Version":
		return p.version()
	case "System-Identifier":
		text, err := p.scalar()
		if err != nil {
			return err
		}
		if p.manifest.SystemID, err = strconv.ParseUint(text, 10, 64); err != nil {
			return parseError("system identifier in manifest not an integer")
		}
		return nil
	case "Files":
		return p.array(p.lines, p.file)
	case "WAL-Ranges":
		return p.array(nil, p.walRange)
	case "Manifest-Checksum":
		p.checksum, err = p.scalar()
		p.hasChecksum = true
		return err
	}
	return parseError("unrecognized top-level field")
}

func (p *parser) version() error {
	text, err := p.scalar()
	if err != nil {
		return err
	}
	if p.manifest.Version, err = strconv.Atoi(text); err != nil {
		return parseError("manifest version not an integer")
	}
	if p.manifest.Version != 1 && p.manifest.Version != 2 {
		return parseError("unexpected manifest version")
	}
	return nil
}

// array reads an array of objects, of each of which element reads what follows its
// opening brace. What begins may read some of them before, unless it is nil.
func (p *parser) array(begins, element func() error) error {
	if err := p.open('['); err != nil {
		return err
	}
	if begins != nil {
		if err := begins(); err != nil {
			return err
		}
	}
	for {
		token, err := p.next()
		switch {
		case err != nil:
			return err
		case token == json.Delim(']'):
			return nil
		case token != json.Delim('{'):
			return unexpected(token)
		}
		p.offset = p.begin + p.json.InputOffset() - 1
		if err := element(); err != nil {
			return err
		}
	}
}

// object reads the fields of an object whose opening brace was read. All are scalars.
func (p *parser) object(what string, fields map[string]*text) error {
	for {
		key, ended, err := p.key()
		if ended || err != nil {
			return err
		}
		field, ok := fields[key]
		if !ok {
			return parseError("unexpected %s field", what)
		}
		if field.value, err = p.scalar(); err != nil {
			return err
		}
		field.given = true
	}
}

// text is a field that may be missing.
type text struct {
	value string
	given bool
}

// file reads what is said of one file.
func (p *parser) file() error {
	var path, encoded, size, modified, algorithm, checksum text
	err := p.object("file", map[string]*text{
		"Path": &path, "Encoded-Path": &encoded, "Size": &size, "Last-Modified": &modified,
		"Checksum-Algorithm": &algorithm, "Checksum": &checksum,
	})
	switch {
	case err != nil:
		return err
	case !path.given && !encoded.given:
		return parseError("missing path name")
	case path.given && encoded.given:
		return parseError("both path name and encoded path name")
	case !size.given:
		return parseError("missing size")
	case !algorithm.given && checksum.given:
		return parseError("checksum without algorithm")
	}
	f := File{Path: path.value}
	if encoded.given {
		decoded, err := hex.DecodeString(encoded.value)
		if err != nil {
			return parseError("could not decode file name")
		}
		f.Path = string(decoded)
	}
	if f.Size, err = strconv.ParseInt(size.value, 10, 64); err != nil || f.Size < 0 {
		return parseError("file size is not an integer")
	}
	if algorithm.given {
		if f.Algorithm, err = ParseAlgorithm(algorithm.value); err != nil {
			return err
		}
	}
	if checksum.given {
		if f.Checksum, err = hex.DecodeString(checksum.value); err != nil {
			return fmt.Errorf("invalid checksum for file \"%s\": \"%s\"", f.Path, checksum.value)
		}
	}
	return p.each(f, p.offset)
}

// walRange reads one range of log.
func (p *parser) walRange() error {
	var timeline, start, end text
	err := p.object("WAL range", map[string]*text{"Timeline": &timeline, "Start-LSN": &start, "End-LSN": &end})
	switch {
	case err != nil:
		return err
	case !timeline.given:
		return parseError("missing timeline")
	case !start.given:
		return parseError("missing start LSN")
	case !end.given:
		return parseError("missing end LSN")
	}
	number, err := strconv.ParseUint(timeline.value, 10, 32)
	if err != nil {
		return parseError("timeline is not an integer")
	}
	r := Range{Timeline: wal.Timeline(number)}
	if r.Start, err = wal.ParseLSN(start.value); err != nil {
		return parseError("could not parse start LSN")
	}
	if r.End, err = wal.ParseLSN(end.value); err != nil {
		return parseError("could not parse end LSN")
	}
	p.manifest.Ranges = append(p.manifest.Ranges, r)
	return nil
}

// next returns the next token.
func (p *parser) next() (json.Token, error) {
	token, err := p.json.Token()
	if err != nil {
		return nil, lexical(err)
	}
	return token, nil
}

// open reads the beginning of an object or an array.
func (p *parser) open(want json.Delim) error {
	token, err := p.next()
	if err == nil && token != want {
		err = unexpected(token)
	}
	return err
}

// key reads the name of the next field of an object, or the object's end.
func (p *parser) key() (name string, ended bool, err error) {
	token, err := p.next()
	switch {
	case err != nil:
		return "", false, err
	case token == json.Delim('}'):
		return "", true, nil
	}
	return token.(string), false, nil // the decoder sees to that
}

// scalar reads a value and returns its text.
func (p *parser) scalar() (string, error) {
	token, err := p.next()
	if err != nil {
		return "", err
	}
	switch value := token.(type) {
	case string:
		return value, nil
	case json.Number:
		return value.String(), nil
	case bool:
		return strconv.FormatBool(value), nil
	case nil:
		return "null", nil
	}
	return "", unexpected(token)
}

// unexpected is the error of a token where another is to be.
func unexpected(token json.Token) error {
	switch token {
	case json.Delim('{'):
		return parseError("unexpected object start")
	case json.Delim('}'):
		return parseError("unexpected object end")
	case json.Delim('['):
		return parseError("unexpected array start")
	case json.Delim(']'):
		return parseError("unexpected array end")
	}
	return parseError("unexpected scalar")
}

// lexical is the error of what is no JSON, or of a file that cannot be read.
func lexical(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return parseError("The input string ended unexpectedly.")
	case errors.As(err, &syntax):
		return parseError("%w", err)
	}
	return err
}
