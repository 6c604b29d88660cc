package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	"basin/internal/usererr"
)

// TarBlock is the unit of a tar archive, in bytes: a header is one block, and a
// file's content is padded to a whole number of them.
const TarBlock = 512

// TarEnd is how many zero bytes end an archive.
const TarEnd = 2 * TarBlock

// maxTarName is the longest name or link target that fits: the field's size
// without its terminating zero. PostgreSQL uses neither the prefix field nor extensions.
const maxTarName = 99

// Fields of a header: where they start, and how long they are.
const (
	tarName, tarNameSize         = 0, 100
	tarMode, tarModeSize         = 100, 8
	tarUID, tarUIDSize           = 108, 8
	tarGID, tarGIDSize           = 116, 8
	tarSize, tarSizeSize         = 124, 12
	tarModTime, tarModTimeSize   = 136, 12
	tarChecksum, tarChecksumSize = 148, 8
	tarType                      = 156
	tarLink, tarLinkSize         = 157, 100
	tarMagic                     = 257
	tarUser                      = 265
	tarGroup                     = 297
	tarDevMajor, tarDevMinor     = 329, 337
	tarDevSize                   = 8
	tarPrefix, tarPrefixSize     = 345, 155
)

// AppendTarHeader appends the header block of m, byte for byte as PostgreSQL
// writes it. A name or target too long for it is an error.
//
// Source: tarCreateHeader in src/port/tar.c, PostgreSQL 18.
func AppendTarHeader(dst []byte, m Member) ([]byte, error) {
	name := m.Path
	if name == "" {
		return nil, errTarNameless
	}
	if len(name) > maxTarName {
		return nil, fmt.Errorf("file name too long for tar format: %q", m.Path)
	}
	if m.Kind == Dir || m.Kind == Symlink {
		name += "/" // in the place of the terminating zero, if there is no other
	}
	if len(m.Target) > maxTarName {
		return nil, fmt.Errorf("symbolic link target too long for tar format: file name %q, target %q", m.Path, m.Target)
	}
	var h [TarBlock]byte
	copy(h[tarName:], name)
	putTarNumber(h[tarMode:tarMode+tarModeSize], modeBits(m.Mode))
	putTarNumber(h[tarUID:tarUID+tarUIDSize], uint64(m.UID))
	putTarNumber(h[tarGID:tarGID+tarGIDSize], uint64(m.GID))
	size := uint64(0)
	switch m.Kind {
	case File, Manifest:
		if m.Size < 0 {
			return nil, fmt.Errorf("size of tar member %q is not known", m.Path)
		}
		size = uint64(m.Size)
		h[tarType] = '0'
	case Dir:
		h[tarType] = '5'
	case Symlink:
		h[tarType] = '2'
		copy(h[tarLink:], m.Target)
	default:
		return nil, fmt.Errorf("member %q has no form in a tar archive", m.Path)
	}
	putTarNumber(h[tarSize:tarSize+tarSizeSize], size)
	putTarNumber(h[tarModTime:tarModTime+tarModTimeSize], uint64(m.ModTime.Unix()))
	copy(h[tarMagic:], "ustar\x0000")
	copy(h[tarUser:], "postgres")
	copy(h[tarGroup:], "postgres")
	putTarNumber(h[tarDevMajor:tarDevMajor+tarDevSize], 0)
	putTarNumber(h[tarDevMinor:tarDevMinor+tarDevSize], 0)
	putTarNumber(h[tarChecksum:tarChecksum+tarChecksumSize], uint64(sumTarHeader(&h)))
	return append(dst, h[:]...), nil
}

// TarPadding returns how many zero bytes follow a member of size bytes.
func TarPadding(size int64) int { return int(-size & (TarBlock - 1)) }

// specialModes are the three mode bits above the permissions, and where tar has them.
var specialModes = [...]struct {
	mode fs.FileMode
	bit  uint64
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}

// modeBits returns a mode as tar has it.
func modeBits(m fs.FileMode) uint64 {
	bits := uint64(m.Perm())
	for _, s := range specialModes {
		if m&s.mode != 0 {
			bits |= s.bit
		}
	}
	return bits
}

// modeOf returns the mode that tar has as bits.
func modeOf(bits uint64) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for _, s := range specialModes {
		if bits&s.bit != 0 {
			m |= s.mode
		}
	}
	return m
}

// putTarNumber fills field with v in octal digits and a space, or, if it does
// not fit, in base 256.
//
// Source: print_tar_number in src/port/tar.c, PostgreSQL 18.
func putTarNumber(field []byte, v uint64) {
	n := len(field)
	if v < 1<<((n-1)*3) {
		field[n-1] = ' '
		for i := n - 2; i >= 0; i-- {
			field[i] = '0' + byte(v&7)
			v >>= 3
		}
		return
	}
	field[0] = 0x80
	for i := n - 1; i > 0; i-- {
		field[i] = byte(v)
		v >>= 8
	}
}

// tarNumber reads both forms. Leading blanks and what follows the digits are
// passed over, as other writers of tar leave them there. Less than zero is a
// time before 1970: PostgreSQL writes its 64 bits as if they were not signed,
// other writers begin with 0xff and fill up with more of it.
//
// Source: read_tar_number in src/port/tar.c, PostgreSQL 18.
func tarNumber(field []byte) (int64, error) {
	if field[0]&0x80 != 0 {
		v, fill := uint64(0), byte(0) // fill is each byte before the last eight
		switch field[0] {
		case 0x80:
		case 0xff:
			v, fill = math.MaxUint64, 0xff
		default:
			return 0, errTarNumber
		}
		for i, b := range field[1:] {
			if i < len(field)-9 && b != fill {
				return 0, errTarNumber
			}
			v = v<<8 | uint64(b)
		}
		return int64(v), nil
	}
	digits := bytes.TrimLeft(field, " ")
	end := 0
	for end < len(digits) && digits[end] >= '0' && digits[end] <= '7' {
		end++
	}
	if end == 0 {
		return 0, nil
	}
	return strconv.ParseInt(string(digits[:end]), 8, 64)
}

// sumTarHeader adds up the header's bytes, with blanks where the sum stands.
func sumTarHeader(h *[TarBlock]byte) int64 {
	sum := int64(tarChecksumSize * ' ')
	for i, b := range h {
		if i < tarChecksum || i >= tarChecksum+tarChecksumSize {
			sum += int64(b)
		}
	}
	return sum
}

// Pieces hands out a stream of bytes as they lie in memory, so that they need
// not be copied on their way.
type Pieces interface {
	// Piece returns between 1 and limit of the next bytes, valid until the next call,
	// and io.EOF at the end of the stream.
	Piece(limit int) ([]byte, error)
}

// TarReader reads the members of one archive. It accepts what PostgreSQL's own
// client does, ustar headers without extensions, and of other writers names in
// two parts and blanks before numbers.
//
// Source: src/fe_utils/astreamer_tar.c, PostgreSQL 18.
type TarReader struct {
	src        Pieces
	tablespace uint32
	left       int64 // bytes of the member in hand that were not read
	padding    int64
	name       string // of the member in hand
	done       bool
}

// NewTarReader returns a reader of the archive of one tablespace; zero is the
// main data directory.
func NewTarReader(src Pieces, tablespace uint32) *TarReader {
	return &TarReader{src: src, tablespace: tablespace}
}

var (
	errNoTar       = errors.New("input file does not appear to be a valid tar archive")
	errTarNameless = errors.New("tar member has empty name")
	errTarNumber   = errors.New("number out of range in tar header")
)

// Next skips what is left of the member in hand and returns the next one, or
// io.EOF at the end of the archive. What follows a block of zeros is ignored.
func (t *TarReader) Next() (Member, error) {
	for _, n := range [...]int64{t.left, t.padding} { // a wrong size may be too large for their sum
		if err := t.skip(n); err != nil {
			return Member{}, err
		}
	}
	t.left, t.padding = 0, 0
	if t.done {
		return Member{}, io.EOF
	}
	for {
		var h [TarBlock]byte
		if err := t.fill(h[:]); err != nil {
			t.done = err == io.EOF
			return Member{}, err
		}
		if h == ([TarBlock]byte{}) {
			break
		}
		m, err := t.parse(&h)
		if err != nil {
			return Member{}, err
		}
		if path.Clean(m.Path) == "." {
			continue // the directory itself, which other writers of tar mention
		}
		t.name = m.Path
		if m.Kind == File {
			t.left, t.padding = m.Size, int64(TarPadding(m.Size))
		}
		return m, nil
	}
	for { // so that the sender is not blocked by bytes that nobody wants
		if _, err := t.src.Piece(1 << 20); err != nil {
			t.done = err == io.EOF
			return Member{}, err
		}
	}
}

func (t *TarReader) parse(h *[TarBlock]byte) (Member, error) {
	sum, err := tarNumber(h[tarChecksum : tarChecksum+tarChecksumSize])
	if err != nil || sum != sumTarHeader(h) {
		return Member{}, errNoTar
	}
	switch magic := string(h[tarMagic : tarMagic+8]); magic {
	case "ustar\x0000", "ustar  \x00", "ustar00\x00":
	default:
		return Member{}, errNoTar
	}
	name := cString(h[tarName : tarName+tarNameSize])
	if name == "" {
		return Member{}, errTarNameless
	}
	if h[tarMagic+5] == 0 && h[tarPrefix] != 0 { // in ustar alone; the others keep times there
		name = cString(h[tarPrefix:tarPrefix+tarPrefixSize]) + "/" + name
	}
	if clean := path.Clean(name); !LocalPath(clean) || clean == "." && h[tarType] != '5' {
		return Member{}, fmt.Errorf("tar member has unsafe path name: \"%s\"", name)
	}
	m := Member{Tablespace: t.tablespace, Path: strings.TrimRight(name, "/")}
	var number [5]int64
	for i, f := range [...][2]int{
		{tarMode, tarModeSize}, {tarUID, tarUIDSize}, {tarGID, tarGIDSize},
		{tarSize, tarSizeSize}, {tarModTime, tarModTimeSize},
	} {
		if number[i], err = tarNumber(h[f[0] : f[0]+f[1]]); err != nil || number[i] < 0 && f[0] != tarModTime {
			return Member{}, fmt.Errorf("tar member \"%s\": number out of range in header", name)
		}
	}
	m.Mode = modeOf(uint64(number[0]))
	m.UID, m.GID = int(number[1]), int(number[2])
	m.ModTime = time.Unix(number[4], 0)
	switch kind := h[tarType]; kind {
	case '0', 0:
		m.Kind, m.Size = File, number[3]
	case '5':
		m.Kind = Dir
	case '2':
		m.Kind, m.Target = Symlink, cString(h[tarLink:tarLink+tarLinkSize])
	case 'x', 'g':
		return Member{}, errors.New("pax extensions to tar format are not supported")
	default:
		return Member{}, &usererr.Error{
			Err:  fmt.Errorf("tar member \"%s\" has the unknown type %q", name, kind),
			Hint: "PostgreSQL sends files, directories and symbolic links; is something between it and this program?",
		}
	}
	return m, nil
}

// LocalPath says whether a cleaned, slash-separated path stays below the
// directory it is relative to.
//
// Source: path_is_safe_for_extraction in src/port/path.c, PostgreSQL 18.
func LocalPath(p string) bool {
	return p != "" && p[0] != '/' && p != ".." && !strings.HasPrefix(p, "../") && !strings.Contains(p, "\x00")
}

// Read reads from the member in hand.
func (t *TarReader) Read(p []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil // there is no piece of no bytes
	}
	piece, err := t.piece(len(p))
	return copy(p, piece), err
}

// WriteTo writes what is left of the member in hand, piece by piece, without
// copying. An error of w is returned as it is.
func (t *TarReader) WriteTo(w io.Writer) (written int64, err error) {
	for t.left > 0 {
		piece, err := t.piece(1 << 20)
		if err != nil {
			return written, err
		}
		n, err := w.Write(piece)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (t *TarReader) piece(limit int) ([]byte, error) {
	piece, err := t.src.Piece(int(min(int64(limit), t.left)))
	if err != nil {
		return nil, t.cut(err)
	}
	t.left -= int64(len(piece))
	return piece, nil
}

func (t *TarReader) skip(n int64) error {
	for n > 0 {
		piece, err := t.src.Piece(int(min(n, 1<<20)))
		if err != nil {
			return t.cut(err)
		}
		n -= int64(len(piece))
	}
	return nil
}

// fill reads len(p) bytes. It returns io.EOF only if there was none.
func (t *TarReader) fill(p []byte) error {
	for n := 0; n < len(p); {
		piece, err := t.src.Piece(len(p) - n)
		if err != nil && n > 0 {
			return t.cut(err)
		}
		if err != nil {
			return err
		}
		n += copy(p[n:], piece)
	}
	return nil
}

// cut says that the stream ended too early, if that is what err is.
func (t *TarReader) cut(err error) error {
	if err != io.EOF {
		return err
	}
	e := &usererr.Error{Err: errors.New("COPY stream ended before last file was finished")}
	if t.name != "" {
		e.Detail = fmt.Sprintf("The last file begun was \"%s\".", t.name)
	}
	return e
}

// cString returns the bytes of a field up to its first zero.
func cString(field []byte) string {
	s, _, _ := bytes.Cut(field, []byte{0})
	return string(s)
}
