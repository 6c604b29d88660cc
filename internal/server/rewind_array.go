package server

import (
	"fmt"
	"strings"
)

// parseArray reads the literal of an array of one dimension, without its bounds, of at most
// maxChunks elements. An element that is NULL is an error, as here it means nothing.
//
// Source: array_in in src/backend/utils/adt/arrayfuncs.c, PostgreSQL 18.
func parseArray(literal string) ([]string, error) {
	p := arrayParser{rest: literal}
	elements, ok := p.array()
	if len(elements) > maxChunks {
		return nil, &Error{Code: codeProgramLimit, Message: fmt.Sprintf("an array has more than %d elements", maxChunks)}
	}
	if !ok {
		const shown = 100
		if len(literal) > shown {
			literal = literal[:shown] + "…"
		}
		return nil, &Error{Code: "22P02", Message: fmt.Sprintf("malformed array literal: \"%s\"", strings.ToValidUTF8(literal, "?"))}
	}
	return elements, nil
}

// arrayParser has what is left of a literal.
type arrayParser struct{ rest string }

// array reads all of the literal; it ends where there are too many elements.
func (p *arrayParser) array() (elements []string, ok bool) {
	if !p.take('{') {
		return nil, false
	}
	if p.take('}') {
		return nil, p.end()
	}
	for len(elements) <= maxChunks {
		element, ok := p.element()
		if !ok {
			return nil, false
		}
		elements = append(elements, element)
		if p.take('}') {
			return elements, p.end()
		}
		if !p.take(',') {
			return nil, false
		}
	}
	return elements, false
}

// blanks are what may be around elements.
//
// Source: array_isspace in src/backend/utils/adt/arrayfuncs.c, PostgreSQL 18.
const blanks = " \t\n\r\v\f"

// take takes a character, and blanks around it.
func (p *arrayParser) take(c byte) bool {
	rest := strings.TrimLeft(p.rest, blanks)
	if rest == "" || rest[0] != c {
		return false
	}
	p.rest = strings.TrimLeft(rest[1:], blanks)
	return true
}

// end says whether nothing is left.
func (p *arrayParser) end() bool { return p.rest == "" }

// element reads an element.
func (p *arrayParser) element() (string, bool) {
	quoted := strings.HasPrefix(p.rest, `"`)
	if quoted {
		p.rest = p.rest[1:]
	}
	var b strings.Builder
	kept := 0 // of b, that blanks at the end of an element without quotes are not cut from
	for i := 0; i < len(p.rest); i++ {
		c := p.rest[i]
		switch {
		case c == '\\':
			if i++; i == len(p.rest) {
				return "", false
			}
			b.WriteByte(p.rest[i])
			kept = b.Len()
			continue
		case quoted && c == '"':
			p.rest = p.rest[i+1:]
			return b.String(), true
		case !quoted && (c == ',' || c == '}'):
			p.rest = p.rest[i:]
			element := b.String()
			element = element[:kept] + strings.TrimRight(element[kept:], blanks)
			return element, element != "" && (kept > 0 || !strings.EqualFold(element, "null"))
		case !quoted && (c == '{' || c == '"'):
			return "", false
		}
		b.WriteByte(c)
	}
	return "", false
}
