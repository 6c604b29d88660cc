package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseArray(t *testing.T) {
	many := "{" + strings.Repeat("a,", maxChunks-1) + "a}"
	for _, c := range []struct {
		literal string
		want    []string
		code    string // of the error, else empty
	}{
		{`{}`, nil, ""},
		{` { } `, nil, ""},
		{`{a}`, []string{"a"}, ""},
		{`{a,"b"}`, []string{"a", "b"}, ""},
		{`{"a\"b","c\\d","e\f"}`, []string{`a"b`, `c\d`, "ef"}, ""},
		{`{ a b , "c " }`, []string{"a b", "c "}, ""},
		{`{a\ }`, []string{"a "}, ""},
		{`{"",""}`, []string{"", ""}, ""},
		{`{",","{","}"}`, []string{",", "{", "}"}, ""},
		{`{"NULL",\null}`, []string{"NULL", "null"}, ""},
		{"{ä,\xff}", []string{"ä", "\xff"}, ""},
		{`{1,-2}`, []string{"1", "-2"}, ""},
		{many, slices.Repeat([]string{"a"}, maxChunks), ""},

		{``, nil, "22P02"},
		{`a`, nil, "22P02"},
		{`{`, nil, "22P02"},
		{`{a`, nil, "22P02"},
		{`{a,`, nil, "22P02"},
		{`{a,}`, nil, "22P02"},
		{`{,a}`, nil, "22P02"},
		{`{a}}`, nil, "22P02"},
		{`{a} b`, nil, "22P02"},
		{`{"a`, nil, "22P02"},
		{`{"a"b}`, nil, "22P02"},
		{`{a"b"}`, nil, "22P02"},
		{`{a\`, nil, "22P02"},
		{`{NULL}`, nil, "22P02"},
		{`{null}`, nil, "22P02"},
		{`{{a},{b}}`, nil, "22P02"},
		{`[1:2]={a,b}`, nil, "22P02"},
		{strings.Replace(many, "{", "{a,", 1), nil, "54000"},
	} {
		t.Run(fmt.Sprintf("%.40s", c.literal), func(t *testing.T) {
			got, err := parseArray(c.literal)
			code := ""
			if e := (*Error)(nil); errors.As(err, &e) {
				code = e.Code
			}
			if code != c.code || !slices.Equal(got, c.want) {
				t.Errorf("got %q, %q (%v)", got, code, err)
			}
		})
	}
}

// quoteArray is what pg_rewind makes of names.
func quoteArray(elements []string) string {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	for i, e := range elements {
		elements[i] = `"` + quote.Replace(e) + `"`
	}
	return "{" + strings.Join(elements, ",") + "}"
}

func FuzzParseArray(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a","b\\c"}`, `{a , b\}}`, `{"`, `{a,{b}}`, `{null}`, `{a\ }`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, literal string) {
		elements, err := parseArray(literal)
		if err != nil {
			if elements != nil {
				t.Fatalf("%q and %v", elements, err)
			}
			return
		}
		again, err := parseArray(quoteArray(slices.Clone(elements)))
		if err != nil || !slices.Equal(again, elements) {
			t.Fatalf("%q became %q (%v)", elements, again, err)
		}
	})
}

func TestParseChunks(t *testing.T) {
	for _, c := range []struct{ name, paths, begins, lengths, code string }{
		{"one", "{a}", "{9223372036853727231}", "{1048576}", ""},
		{"of nothing", "{a}", "{0}", "{0}", ""},
		{"more paths", "{a,b}", "{0}", "{1}", "22023"},
		{"more lengths", "{a}", "{0}", "{1,1}", "22023"},
		{"from the end", "{a}", "{-1}", "{1}", "22023"},
		{"an end that is no number", "{a}", "{9223372036854775807}", "{1}", "22023"},
		{"an offset that is no number", "{a}", "{x}", "{1}", "22023"},
		{"less than nothing", "{a}", "{0}", "{-1}", "22023"},
		{"a length that is no int4", "{a}", "{0}", "{2147483648}", "22023"},
		{"too long", "{a}", "{0}", "{1048577}", "54000"},
		{"no array", "a", "{0}", "{1}", "22P02"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseChunks([][]byte{[]byte(c.paths), []byte(c.begins), []byte(c.lengths)})
			code := ""
			if e := (*Error)(nil); errors.As(err, &e) {
				code = e.Code
			}
			if code != c.code {
				t.Errorf("%q (%v), want %q", code, err, c.code)
			}
		})
	}
}
