package pgconf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// memory is files in memory; one without content cannot be read.
type memory map[string]string

var errDenied = errors.New("permission denied")

func (m memory) Read(name string) ([]byte, error) {
	text, ok := m[name]
	switch {
	case !ok:
		return nil, fs.ErrNotExist
	case text == "":
		return nil, errDenied
	}
	return []byte(text), nil
}

func (m memory) List(dir string) (names []string, err error) {
	for name := range m {
		if path.Dir(name) == dir {
			names = append(names, path.Base(name))
		}
	}
	if names == nil {
		return nil, fs.ErrNotExist
	}
	return names, nil
}

func TestParseSetting(t *testing.T) {
	for _, test := range []struct {
		reason, line string
		want         Setting
		ok           bool
	}{
		{"plain", "port = 5432\n", Setting{"port", "5432"}, true},
		{"no equals sign", "work_mem 64MB # of memory", Setting{"work_mem", "64MB"}, true},
		{"no blanks", "a=b", Setting{"a", "b"}, true},
		{"upper case", "  Include_Dir 'conf.d'\r\n", Setting{"include_dir", "conf.d"}, true},
		{"doubled quote", "x = 'it''s' ", Setting{"x", "it's"}, true},
		{"escapes", `x = 'a\'b\\c\101\n'`, Setting{"x", "a'b\\cA\n"}, true},
		{"hash within quotes", "x = 'a # b' # c", Setting{"x", "a # b"}, true},
		{"empty value", "x = ''", Setting{"x", ""}, true},
		{"of an extension", "pg_stat_statements.max = 10", Setting{"pg_stat_statements.max", "10"}, true},
		{"comment", "#port = 5432", Setting{}, false},
		{"empty", " \n", Setting{}, false},
		{"no value", "port =", Setting{"port", ""}, false},
		{"quote that is not closed", "x = 'a", Setting{"x", ""}, false},
		{"more than a value", "x = a b", Setting{"x", "a"}, false},
	} {
		if got, ok := ParseSetting(test.line); ok != test.ok || ok && got != test.want {
			t.Errorf("%s: %+v, %v", test.reason, got, ok)
		}
	}
}

func TestWords(t *testing.T) {
	for _, test := range []struct {
		line string
		want []word
	}{
		{`host all,"all" @f`, []word{{"host", false, false, 0, 4}, {"all", false, true, 5, 8}, {"all", true, false, 9, 14}, {"@f", false, false, 15, 17}}},
		{`"a""b c"#d`, []word{{`a"b c`, true, false, 0, 8}}},
		{`+"my role", x`, []word{{"+my role", false, true, 0, 10}, {"x", false, false, 12, 13}}},
		{`  # nothing`, nil},
	} {
		got := wordsOf(test.line)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %+v", test.line, got)
		}
		for _, w := range got {
			if again := wordsOf(w.String()); len(again) != 1 || again[0].text != w.text || again[0].quoted != w.quoted {
				t.Errorf("%s: %s is not read as it was written: %+v", test.line, w, again)
			}
		}
	}
}

// debian is the layout of a server on Debian, and what else is allowed.
func debian() memory {
	return memory{
		"/etc/pg/postgresql.conf": "data_directory = '/var/lib/pg'\nhba_file='/etc/pg/pg_hba.conf'\nwork_mem = 1MB\ninclude_dir 'conf.d'\n" +
			"include_if_exists = '../absent.conf'\ninclude '/srv/other.conf'\ninclude 'gone.conf'\nport = 5433",
		"/etc/pg/conf.d/10-memory.conf":  "work_mem = 10MB\ninclude 'deeper/a.conf'\n",
		"/etc/pg/conf.d/9.conf":          "cluster_name = 'nine'\n",
		"/etc/pg/conf.d/.hidden.conf":    "fsync = off\n",
		"/etc/pg/conf.d/old.conf.bak":    "fsync = off\n",
		"/etc/pg/conf.d/deeper/a.conf":   "include '../../loop.conf'\n",
		"/etc/pg/loop.conf":              "x.y = 1\n",
		"/srv/other.conf":                "work_mem = '20MB'\n",
		"/etc/pg/pg_hba.conf":            "local all postgres peer\n# who\nhost all @users,bob 10.0.0.0/8 \\\n  md5\ninclude /srv/more_hba.conf\ninclude_if_exists absent\n",
		"/etc/pg/users":                  "alice, \"Eve L\" # both\n@/srv/more\n",
		"/srv/more":                      "+ops\n",
		"/srv/more_hba.conf":             "host all all ::1/128 trust",
		"/etc/pg/pg_ident.conf":          "m a b\n",
		"/etc/ssl/private/snakeoil.key":  "secret",
		"/etc/pg/start.conf":             "auto\n",
		"/etc/pg/environment":            "A=b\n",
		"/etc/pg/conf.d/deeper/not.conf": "fsync = off\n",
	}
}

func TestFind(t *testing.T) {
	found := Find(debian(), Roots{"/etc/pg/postgresql.conf", "/etc/pg/pg_hba.conf", "/etc/pg/pg_ident.conf"})
	want := []string{
		"/etc/pg/conf.d/10-memory.conf", "/etc/pg/conf.d/9.conf", "/etc/pg/conf.d/deeper/a.conf", "/etc/pg/loop.conf", "/etc/pg/pg_hba.conf",
		"/etc/pg/pg_ident.conf", "/etc/pg/postgresql.conf", "/etc/pg/users", "/srv/more", "/srv/more_hba.conf", "/srv/other.conf",
	}
	if got := found.Paths(); !slices.Equal(got, want) {
		t.Errorf("found %q", got)
	}
	if len(found.Missing) != 1 || !errors.Is(found.Missing["/etc/pg/gone.conf"], fs.ErrNotExist) {
		t.Errorf("missing %v", found.Missing)
	}
}

func TestFindLimits(t *testing.T) {
	large, many := strings.Repeat("#", MaxFile), memory{"/c": "include_dir 'd'\n"}
	for i := range MaxFiles + 5 {
		many["/d/"+strings.Repeat("x", i+1)+".conf"] = "a = 1\n"
	}
	for _, test := range []struct {
		reason string
		files  memory
		config string
		found  int
		want   map[string]error
	}{
		{"one includes itself", memory{"/c": "include 'c'\n"}, "/c", 1, nil},
		{"one may not be read", memory{"/c": "include_if_exists 'd'\n", "/d": ""}, "/c", 1, map[string]error{"/d": errDenied}},
		{"no directory", memory{"/c": "include_dir 'd'\n"}, "/c", 1, map[string]error{"/d": fs.ErrNotExist}},
		{"none at all", memory{}, "", 0, nil},
		{"too large", memory{"/c": large + "#"}, "/c", 0, map[string]error{"/c": ErrTooMuch}},
		{"too large together", memory{"/c": "include 'd'\ninclude 'e'\ninclude 'f'\ninclude 'g'\n", "/d": large, "/e": large, "/f": large, "/g": large}, "/c", 4, map[string]error{"/g": ErrTooMuch}},
	} {
		found := Find(test.files, Roots{Config: test.config})
		if len(found.Files) != test.found || len(found.Missing) != len(test.want) {
			t.Errorf("%s: found %q, missing %v", test.reason, found.Paths(), found.Missing)
		}
		for name, err := range test.want {
			if !errors.Is(found.Missing[name], err) {
				t.Errorf("%s: %s: %v", test.reason, name, found.Missing[name])
			}
		}
	}
	if found := Find(many, Roots{Config: "/c"}); len(found.Files) != MaxFiles || len(found.Missing) != 6 {
		t.Errorf("too many: found %d, missing %d", len(found.Files), len(found.Missing))
	}
}

func TestFlatten(t *testing.T) {
	flat, err := Flatten(debian(), "/etc/pg/postgresql.conf", map[string]bool{"data_directory": true, "hba_file": true})
	want := `# data_directory = '/var/lib/pg'
# hba_file='/etc/pg/pg_hba.conf'
work_mem = 1MB
# include_dir 'conf.d'
# from here on: /etc/pg/conf.d/10-memory.conf
work_mem = 10MB
# include 'deeper/a.conf'
# from here on: /etc/pg/conf.d/deeper/a.conf
# include '../../loop.conf'
# from here on: /etc/pg/loop.conf
x.y = 1
# up to here: /etc/pg/loop.conf
# up to here: /etc/pg/conf.d/deeper/a.conf
# up to here: /etc/pg/conf.d/10-memory.conf
# from here on: /etc/pg/conf.d/9.conf
cluster_name = 'nine'
# up to here: /etc/pg/conf.d/9.conf
# include_if_exists = '../absent.conf'
# include '/srv/other.conf'
# from here on: /srv/other.conf
work_mem = '20MB'
# up to here: /srv/other.conf
# include 'gone.conf'
# it is not here: /etc/pg/gone.conf
port = 5433
`
	if err != nil || string(flat.Text) != want {
		t.Errorf("%v\n%s", err, flat.Text)
	}
	if want := map[string]string{"work_mem": "20MB", "cluster_name": "nine", "x.y": "1", "port": "5433"}; !maps.Equal(flat.Settings, want) {
		t.Errorf("settings %v", flat.Settings)
	}
	if !slices.Equal(flat.Left, []string{"data_directory", "hba_file"}) || !slices.Equal(flat.Missing, []string{"/etc/pg/gone.conf"}) || len(flat.From) != 6 {
		t.Errorf("left %q, missing %q, from %q", flat.Left, flat.Missing, flat.From)
	}
	for reason, files := range map[string]memory{
		"it is not there": {}, "it includes itself": {"/c": "include 'c'\n"},
		"it would be without end": {"/c": strings.Repeat("include 'd'\n", 100), "/d": strings.Repeat("#", MaxFile)},
	} {
		if _, err := Flatten(files, "/c", nil); err == nil {
			t.Errorf("%s: no error", reason)
		}
	}
}

func TestFlattenAccess(t *testing.T) {
	flat, err := FlattenAccess(debian(), "/etc/pg/pg_hba.conf")
	want := `local all postgres peer
# who
host all alice,"Eve L",+ops,bob 10.0.0.0/8   md5
# include /srv/more_hba.conf
# from here on: /srv/more_hba.conf
host all all ::1/128 trust
# up to here: /srv/more_hba.conf
# include_if_exists absent
`
	if err != nil || string(flat.Text) != want {
		t.Errorf("%v\n%s", err, flat.Text)
	}
	same := memory{"/h": "local all \"@no\" peer # @f\n\n  host a \\\n b c d\n"}
	if flat, err := FlattenAccess(same, "/h"); err != nil || string(flat.Text) != same["/h"] {
		t.Errorf("without references: %q, %v", flat.Text, err)
	}
	many := memory{"/h": "host all @0 all trust\n"}
	const levels = maxDepth - 2
	for i := range levels {
		many[fmt.Sprint("/", i)] = strings.Repeat(fmt.Sprintf("@%d\n", i+1), 50)
	}
	many[fmt.Sprint("/", levels)] = "# nobody\n"
	if _, err := FlattenAccess(many, "/h"); !errors.Is(err, errLong) {
		t.Errorf("references without end: %v", err)
	}
	for reason, files := range map[string]memory{
		"rules are missing": {"/h": "include i\n"}, "names are missing": {"/h": "host all @f all trust\n"},
		"a directory is missing": {"/h": "include_dir i\n"}, "names of themselves": {"/h": "host all @h all trust\n"},
	} {
		if _, err := FlattenAccess(files, "/h"); err == nil {
			t.Errorf("%s: no error", reason)
		}
	}
}

func TestValues(t *testing.T) {
	for value, want := range map[string][]string{
		"": nil, "/tmp": {"/tmp"}, " /a , /b": {"/a", "/b"}, `"/a, b", "/c""d" ,@x`: {"/a, b", `/c"d`, "@x"}, `"open`: {"open"},
	} {
		if got := SplitList(value); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q", value, got)
		}
	}
	for value, want := range map[string]bool{"on": true, "1": true, "TRUE": true, "y": true, "off": false, "0": false, "": false, "o": false} {
		if IsOn(value) != want {
			t.Errorf("%q: %v", value, !want)
		}
	}
}
