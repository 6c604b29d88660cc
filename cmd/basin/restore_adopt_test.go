package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"basin/internal/backup"
	"basin/internal/repo"
)

// confFilesSource is a cluster of files that are given.
type confFilesSource struct {
	smallSource
	files map[string]string
	names []string
}

func (s *confFilesSource) Next(context.Context) (backup.Member, io.Reader, error) {
	if len(s.names) == 0 {
		return backup.Member{}, nil, io.EOF
	}
	name := s.names[0]
	s.names = s.names[1:]
	text := s.files[name]
	return backup.Member{Path: name, Kind: backup.File, Size: int64(len(text)), Mode: 0o600}, strings.NewReader(text), nil
}

// TestAdopt makes the configuration of restored clusters of many kinds.
func TestAdopt(t *testing.T) {
	const open = "host all all 0.0.0.0/0 trust\n"
	const c = repo.ConfigurationDir
	clearEnvironment(t)
	there := t.TempDir()
	debian := &repo.Configuration{DataDirectory: "/data", ConfigFile: "/etc/pg/postgresql.conf", HBAFile: "/etc/pg/pg_hba.conf", IdentFile: "/etc/pg/pg_ident.conf", Files: []repo.ConfigurationFile{}}
	own := &repo.Configuration{DataDirectory: "/data", ConfigFile: "/data/postgresql.conf", HBAFile: "/data/pg_hba.conf", IdentFile: "/data/pg_ident.conf", Files: []repo.ConfigurationFile{}}
	for _, test := range []struct {
		reason string
		told   *repo.Configuration
		files  map[string]string
		want   map[string]string // that are made; those with a star are closed
		said   []string          // by the plan
	}{
		{"all in the data directory", nil, map[string]string{confFile: "a = 1\n", hbaFile: open}, nil, nil},
		{"in the data directory, which it names", nil, map[string]string{confFile: "data_directory = '/data'\na = 1\n", hbaFile: open, identFile: "m a b"},
			map[string]string{confFile: "# data_directory = '/data'\na = 1\n"}, []string{"without data_directory\n"}},
		{"nothing known, and nothing there", nil, map[string]string{hbaFile: open}, map[string]string{hbaFile: "*", identFile: "*"}, []string{"the backup has no postgresql.conf", "lets nobody in"}},
		{"saved", debian, map[string]string{c + "/etc/pg/postgresql.conf": "hba_file='pg_hba.conf'\n", c + "/etc/pg/pg_hba.conf": open, c + "/etc/pg/pg_ident.conf": "m a b\n"},
			map[string]string{confFile: "# hba_file='pg_hba.conf'\n", hbaFile: open, identFile: "m a b\n"}, []string{"postgresql.conf is made of /etc/pg/postgresql.conf", "without hba_file\n"}},
		{"old ones in the data directory are not used", debian, map[string]string{confFile: "a = 2\n", hbaFile: open, c + "/etc/pg/postgresql.conf": "a = 1\n", c + "/etc/pg/pg_hba.conf": "# none\n", c + "/etc/pg/pg_ident.conf": "m a b\n"},
			map[string]string{confFile: "a = 1\n", hbaFile: "# none\n", identFile: "m a b\n"}, nil},
		{"what was used is not saved", debian, map[string]string{confFile: "a = 2\n", hbaFile: open}, map[string]string{hbaFile: "*", identFile: "*"}, []string{"the backup has no postgresql.conf", "lets nobody in"}},
		{"rules are not saved", debian, map[string]string{hbaFile: open, c + "/etc/pg/postgresql.conf": "a = 1\n", c + "/etc/pg/pg_hba.conf": "include more\n"},
			map[string]string{confFile: "a = 1\n", hbaFile: "*", identFile: "*"}, []string{"lets nobody in"}},
		{"links in the data directory", own, map[string]string{c + "/data/postgresql.conf": "a = 1\n", hbaFile: open, c + "/data/pg_ident.conf": "m a b\n"},
			map[string]string{confFile: "a = 1\n", identFile: "m a b\n"}, nil},
		{"what is included is elsewhere", own, map[string]string{confFile: "include '/etc/a.conf'\ninclude '/etc/b.conf'\n", hbaFile: open, identFile: "m a b\n", c + "/etc/a.conf": "a = 1\n"},
			map[string]string{confFile: "# include '/etc/a.conf'\n# from here on: /etc/a.conf\na = 1\n# up to here: /etc/a.conf\n# include '/etc/b.conf'\n# it is not here: /etc/b.conf\n"},
			[]string{"without what was in /etc/b.conf, which was not saved"}},
		{"set by ALTER SYSTEM", debian, map[string]string{autoConfFile: "hba_file = '/x'\nwork_mem = '1MB'\n", c + "/etc/pg/postgresql.conf": "a = 1\n", c + "/etc/pg/pg_hba.conf": open, c + "/etc/pg/pg_ident.conf": "m a b\n"},
			map[string]string{confFile: "a = 1\n", autoConfFile: "# hba_file = '/x'\nwork_mem = '1MB'\n", hbaFile: open, identFile: "m a b\n"}, []string{"without hba_file\n"}},
		{"what this host lacks", own, map[string]string{hbaFile: open, identFile: "m a b\n", confFile: "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = '/nowhere/key'\nunix_socket_directories = '" + there + ", /nowhere/run'\nlog_directory = '/nowhere/log'\n"},
			map[string]string{confFile: "# ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = '/nowhere/key'\n# unix_socket_directories = '" + there + ", /nowhere/run'\n# log_directory = '/nowhere/log'\n"},
			[]string{"without ssl, since \"/nowhere/key\"", "without unix_socket_directories, since \"/nowhere/run\" cannot be used here: it is /tmp", "without log_directory"}},
		{"what this host has", own, map[string]string{hbaFile: open, identFile: "m a b\n", confFile: "ssl = on\nssl_key_file = 'key'\nunix_socket_directories = '" + there + ", @x'\nlog_directory = 'log'\n"}, map[string]string{}, nil},
	} {
		t.Run(test.reason, func(t *testing.T) {
			location := filepath.Join(there, test.reason)
			if _, err := callBasin(t, "init", location); err != nil {
				t.Fatal(err)
			}
			r, err := openRepository(t.Context(), repositoryOptions{Location: location})
			if err != nil {
				t.Fatal(err)
			}
			cluster, err := r.Cluster("main", 7)
			if err != nil {
				t.Fatal(err)
			}
			sink := cluster.NewSink(repo.SinkOptions{Configuration: func() *repo.Configuration { return test.told }})
			source := &confFilesSource{smallSource{at: 0x1000028}, test.files, slices.Sorted(maps.Keys(test.files))}
			if err := errors.Join(backup.Copy(t.Context(), sink, source, backup.Options{}), sink.Close()); err != nil {
				t.Fatal(err)
			}
			conf, _, err := (&restoreRun{cluster: cluster}).adopt(t.Context(), *sink.Written())
			if err != nil || (conf == nil) != (test.want == nil) {
				t.Fatalf("%+v, %v", conf, err)
			}
			if conf == nil {
				return
			}
			for name, text := range conf.files {
				switch want, isWanted := test.want[name]; {
				case !isWanted:
					t.Errorf("%s is made: %s", name, text)
				case want == "*" && (!strings.HasPrefix(text, confNote) || strings.Contains(text, "trust")), want != "*" && want != text:
					t.Errorf("%s is\n%s\nand not\n%s", name, text, want)
				}
			}
			if len(conf.files) != len(test.want) {
				t.Errorf("%d are made", len(conf.files))
			}
			for _, text := range test.said {
				if !strings.Contains(conf.plan(), text) {
					t.Errorf("the plan does not say %q:\n%s", text, conf.plan())
				}
			}
		})
	}
}
