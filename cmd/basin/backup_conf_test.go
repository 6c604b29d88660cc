package main

import (
	"context"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/backup"
	"basin/internal/pgconf"
	"basin/internal/repo"
)

// TestConfSaver sees what is added to backups, of servers that say what they use and of such that do not.
func TestConfSaver(t *testing.T) {
	type missing = []repo.MissingFile
	known := func(files map[string]string, gone ...string) *serverConf {
		s := &serverConf{directory: "/data", roots: pgconf.Roots{Config: "/etc/a.conf"}, Found: pgconf.Found{Files: make(map[string][]byte), Missing: make(map[string]error)}}
		for name, text := range files {
			s.Files[name] = []byte(text)
		}
		for _, name := range gone {
			s.Missing[name] = fs.ErrPermission
		}
		return s
	}
	hidden := func() *serverConf {
		s := known(nil)
		s.unknown, s.directory, s.roots = errHidden, unknownDirectory, pgconf.Roots{}
		return s
	}
	for _, test := range []struct {
		reason string
		conf   *serverConf
		came   map[string]string
		added  map[string]string // files, at the end
		gone   missing
		said   string
	}{
		{"all is in the data directory", known(map[string]string{"/data/postgresql.conf": "a", "/data/conf.d/b.conf": "b"}, "/data/c.conf"),
			map[string]string{confFile: "a", "conf.d/b.conf": "b", "c.conf": "c"}, nil, nil, ""},
		{"elsewhere", known(map[string]string{"/etc/a.conf": "a", "/data/link.conf": "b"}), map[string]string{hbaFile: ""},
			map[string]string{"/etc/a.conf": "a", "/data/link.conf": "b"}, nil, ""},
		{"some cannot be read", known(map[string]string{"/etc/a.conf": "a"}, "/etc/b.conf"), nil,
			map[string]string{"/etc/a.conf": "a"}, missing{{Path: "/etc/b.conf", Reason: "permission denied"}}, `not in the backup: "/etc/b.conf": permission denied`},
		{"a path that is no text", known(map[string]string{"/etc/\xff.conf": "a"}), nil, nil, missing{{Path: "/etc/?.conf", Reason: "its path is no text"}}, "not in the backup"},
		{"what was restored is left out", known(map[string]string{"/etc/a.conf": "new"}), map[string]string{repo.ConfigurationDir + "/etc/a.conf": "old", repo.ConfigurationDir: ""},
			map[string]string{"/etc/a.conf": "new"}, nil, ""},
		{"not known, in the data directory", hidden(), map[string]string{confFile: "include_dir = 'conf.d'\nhba_file = 'x'\n"}, nil, nil, ""},
		{"not known, and not there", hidden(), map[string]string{hbaFile: ""}, nil, missing{{Path: confFile, Reason: errHidden.Error()}}, `"postgresql.conf": the role may not see`},
		{"not known, and leads elsewhere", hidden(), map[string]string{confFile: "hba_file = '/etc/hba'\ninclude '../b.conf'\ninclude_dir '/etc/conf.d'\n"}, nil,
			missing{{Path: "/b.conf", Reason: errHidden.Error()}, {Path: "/etc/conf.d", Reason: errHidden.Error()}, {Path: "/etc/hba", Reason: errHidden.Error()}}, "GRANT pg_read_all_settings"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			source := &confSaver{
				Source: &confFilesSource{smallSource{}, test.came, slices.Sorted(maps.Keys(test.came))}, conf: test.conf,
				report: newReport("basin", file, func(string) (string, bool) { return "", false }),
			}
			came, added := make(map[string]string), make(map[string]string)
			dirs := map[string]bool{"": true}
			for {
				m, r, err := source.Next(t.Context())
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				above := ""
				if i := strings.LastIndex(m.Path, "/"); i >= 0 {
					above = m.Path[:i]
				}
				if m.Kind == backup.Dir {
					dirs[m.Path] = true
					continue
				}
				text, err := io.ReadAll(r)
				if err != nil || int64(len(text)) != m.Size {
					t.Errorf("%s: %d bytes of %d, %v", m.Path, len(text), m.Size, err)
				}
				if at, isAdded := strings.CutPrefix(m.Path, repo.ConfigurationDir); isAdded {
					if !dirs[above] {
						t.Errorf("%s comes before the directory that it is in", m.Path)
					}
					added[at] = string(text)
				} else {
					came[m.Path] = string(text)
				}
			}
			maps.DeleteFunc(test.came, func(name, _ string) bool { return strings.HasPrefix(name, repo.ConfigurationDir) })
			if !maps.Equal(came, test.came) || !maps.Equal(added, test.added) {
				t.Errorf("came %q, and added %q", came, added)
			}
			said, err := os.ReadFile(file.Name())
			if err != nil || !strings.Contains(string(said), test.said) || test.said == "" && len(said) > 0 {
				t.Errorf("said %q, %v", said, err)
			}
			told := test.conf.told()
			if told == nil {
				told = new(repo.Configuration)
			}
			if diff := cmp.Diff(test.gone, told.Missing); diff != "" {
				t.Error(diff)
			}
			if len(told.Files) != len(test.added) {
				t.Errorf("told of %v", told.Files)
			}
		})
	}
}

// apartSource yields files that whoever takes them closes, and counts those that are open.
type apartSource struct {
	backup.Source
	open int
}

func (s *apartSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	m, r, err := s.Source.Next(ctx)
	if err != nil {
		return m, r, err
	}
	s.open++
	m.Apart = true
	return m, &apartFile{r, s}, nil
}

type apartFile struct {
	io.Reader
	source *apartSource
}

func (f *apartFile) Close() error {
	f.source.open--
	return nil
}

// TestConfSaverCloses has no file of the data directory be left open, be it looked into, left out or passed on.
func TestConfSaverCloses(t *testing.T) {
	files := map[string]string{confFile: "port = 1\n", hbaFile: "", repo.ConfigurationDir + "/etc/a.conf": "old"}
	below := &apartSource{Source: &confFilesSource{smallSource{}, files, slices.Sorted(maps.Keys(files))}}
	conf := &serverConf{unknown: errHidden, directory: unknownDirectory, Found: pgconf.Found{Files: make(map[string][]byte), Missing: make(map[string]error)}}
	source := &confSaver{Source: below, conf: conf}
	for {
		_, r, err := source.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if closer, ok := r.(io.Closer); ok {
			if err := closer.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if below.open != 0 {
		t.Errorf("%d files are left open", below.open)
	}
}
