package protocol

import (
	"strconv"
	"strings"

	"basin/internal/wal"
)

// tokenKind is what a token of the replication grammar is.
type tokenKind byte

const (
	tokenEnd        tokenKind = iota
	tokenKeyword              // text is the word, in upper case
	tokenIdentifier           // text is folded and cut
	tokenString               // text is what stands between the quotes
	tokenNumber               // number
	tokenLSN                  // lsn
	tokenOther                // text is the one byte
)

// token is one token of a command.
type token struct {
	kind   tokenKind
	text   string
	number uint32
	lsn    wal.LSN
	start  int // byte offset
	end    int
}

// is tells whether the token is a keyword or, of one byte, a punctuation mark.
func (t token) is(text string) bool {
	return (t.kind == tokenKeyword || t.kind == tokenOther) && t.text == text
}

// majors is the range of versions that know a word; zero is no limit.
type majors struct{ first, last int }

// keywords are the words that are no identifiers in upper case. Some that the
// grammar of 15 and later reads as options' names were words of their own before.
//
// Source: src/backend/replication/repl_scanner.l, PostgreSQL 10 to 18.
var keywords = map[string]majors{
	"BASE_BACKUP":             {},
	"CREATE_REPLICATION_SLOT": {},
	"DROP_REPLICATION_SLOT":   {},
	"EXPORT_SNAPSHOT":         {},
	"IDENTIFY_SYSTEM":         {},
	"LOGICAL":                 {},
	"NOEXPORT_SNAPSHOT":       {},
	"PHYSICAL":                {},
	"RESERVE_WAL":             {},
	"SHOW":                    {},
	"SLOT":                    {},
	"START_REPLICATION":       {},
	"TEMPORARY":               {},
	"TIMELINE":                {},
	"TIMELINE_HISTORY":        {},
	"USE_SNAPSHOT":            {},
	"WAIT":                    {},

	"FAST":               {last: 14},
	"LABEL":              {last: 14},
	"MAX_RATE":           {last: 14},
	"NOWAIT":             {last: 14},
	"PROGRESS":           {last: 14},
	"TABLESPACE_MAP":     {last: 14},
	"WAL":                {last: 14},
	"NOVERIFY_CHECKSUMS": {first: 11, last: 14},
	"MANIFEST":           {first: 13, last: 14},
	"MANIFEST_CHECKSUMS": {first: 13, last: 14},

	"READ_REPLICATION_SLOT":  {first: 15},
	"TWO_PHASE":              {first: 15},
	"ALTER_REPLICATION_SLOT": {first: 17},
	"UPLOAD_MANIFEST":        {first: 17},
}

// identifierSize is the most bytes of an identifier that count, NAMEDATALEN - 1.
const identifierSize = 63

// firstMajorDoubledQuote is the first whose newest minor versions read a doubled
// quote in an identifier as one. Earlier majors see two identifiers there, and so
// do the minor versions before this was mended, such as 16.14.
const firstMajorDoubledQuote = 15

// lexer cuts a command into tokens, for a server of one major version. It reads
// no further than it is asked to: what follows the first token of an SQL command
// may have no meaning here.
type lexer struct {
	text  string
	major int
	next  int // byte offset of what is not read yet
}

// scan returns the next token. The one error is a quote that is never closed.
func (l *lexer) scan() (token, error) {
	l.skipSpace()
	start := l.next
	t := token{start: start}
	rest := l.text[start:]
	if rest == "" {
		t.end = start
		return t, nil
	}
	switch c := rest[0]; {
	case c == '\'':
		text, size, ok := quoted(rest, true)
		if !ok {
			return t, l.unterminated(start)
		}
		t.kind, t.text, l.next = tokenString, text, start+size
	case c == '"':
		text, size, ok := quoted(rest, l.major >= firstMajorDoubledQuote)
		if !ok {
			return t, l.unterminated(start)
		}
		t.kind, t.text, l.next = tokenIdentifier, truncate(text), start+size
	case l.scanLSN(&t, rest):
	case isDigit(c):
		size := span(rest, isDigit)
		t.kind, t.number, l.next = tokenNumber, number(rest[:size], 10), start+size
	case isIdentifierStart(c):
		size := span(rest, isIdentifierPart)
		l.next = start + size
		t.kind, t.text = tokenIdentifier, truncate(foldCase(rest[:size]))
		if known, ok := keywords[rest[:size]]; ok && known.first <= l.major && (known.last == 0 || l.major <= known.last) {
			t.kind, t.text = tokenKeyword, rest[:size]
		}
	default:
		t.kind, t.text, l.next = tokenOther, rest[:1], start+1
	}
	t.end = l.next
	return t, nil
}

// scanLSN reads two hexadecimal numbers with a slash between them, which may
// begin like a number or an identifier but is longer than either.
func (l *lexer) scanLSN(t *token, rest string) bool {
	high := span(rest, isHexDigit)
	if high == 0 || high == len(rest) || rest[high] != '/' {
		return false
	}
	low := span(rest[high+1:], isHexDigit)
	if low == 0 {
		return false
	}
	size := high + 1 + low
	t.kind = tokenLSN
	t.lsn = wal.LSN(number(rest[:high], 16))<<32 | wal.LSN(number(rest[high+1:size], 16))
	l.next += size
	return true
}

func (l *lexer) skipSpace() {
	spaces := " \t\n\r\f"
	if l.major >= 17 {
		spaces += "\v"
	}
	l.next = len(l.text) - len(strings.TrimLeft(l.text[l.next:], spaces))
}

func (l *lexer) unterminated(start int) error {
	return &CommandError{
		SQLState: stateSyntax, Message: "unterminated quoted string",
		Position: characterAt(l.text, start),
	}
}

// quoted reads a quoted text, and returns what is in the quotes and how many
// bytes it takes with them. Doubled quotes are one if double says so.
func quoted(s string, double bool) (text string, size int, ok bool) {
	quote := s[0]
	var b strings.Builder
	for at := 1; ; {
		end := strings.IndexByte(s[at:], quote)
		if end < 0 {
			return "", 0, false
		}
		b.WriteString(s[at : at+end])
		at += end + 1
		if !double || at == len(s) || s[at] != quote {
			return b.String(), at, true
		}
		b.WriteByte(quote)
		at++
	}
}

// number returns what digits stand for, as the C library and a conversion to 32
// bits leave it: cut to the low half, all bits set if 64 were too few.
//
// Source: strtoul and sscanf in src/backend/replication/repl_scanner.l, PostgreSQL 18.
func number(digits string, base int) uint32 {
	n, _ := strconv.ParseUint(digits, base, 64) // out of range it is the largest
	return uint32(n)
}

// truncate cuts an identifier to the size that counts. A server does so between
// characters of its database's encoding; without a database, as here, between bytes.
//
// Source: truncate_identifier in src/backend/parser/scansup.c, PostgreSQL 18.
func truncate(s string) string { return s[:min(len(s), identifierSize)] }

// foldCase turns the letters of ASCII, and no others, to lower case.
//
// Source: downcase_identifier in src/backend/parser/scansup.c, PostgreSQL 18.
func foldCase(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// span returns how many bytes at the beginning of s are of a class.
func span(s string, class func(byte) bool) int {
	for i := range len(s) {
		if !class(s[i]) {
			return i
		}
	}
	return len(s)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHexDigit(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

func isIdentifierStart(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

func isIdentifierPart(c byte) bool { return isIdentifierStart(c) || isDigit(c) || c == '$' }
