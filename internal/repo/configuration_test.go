package repo

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/backup"
	"basin/internal/manifest"
)

// confAtEnd yields, behind all else, a file that is in no manifest of its source's.
type confAtEnd struct {
	*treeSource
	path, text string
}

func (s *confAtEnd) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	m, r, err := s.treeSource.Next(ctx)
	if err == io.EOF && s.text != "" {
		m = backup.Member{Path: s.path, Kind: backup.File, Size: int64(len(s.text)), Mode: 0o600, ModTime: time.Unix(int64(len(s.text)), 0)}
		r, err, s.text = strings.NewReader(s.text), nil, ""
	}
	return m, r, err
}

// TestConfigurationIsKept has a file of configuration be in a backup, though the server's manifest does not list it,
// and in its copy; the backup's own manifest does.
func TestConfigurationIsKept(t *testing.T) {
	const path, text = ConfigurationDir + "/etc/pg.conf", "a = 1\n"
	told := &Configuration{DataDirectory: "/data", ConfigFile: "/etc/pg.conf", Files: []ConfigurationFile{{"/etc/pg.conf", 6}}, Missing: []MissingFile{{"/etc/key", "no"}}}
	now := tree{{path: "backup_label"}: []byte("label"), {path: "global/pg_control"}: []byte("control"), {path: "base/1"}: make([]byte, 3*BlockSize)}
	from, to := newCluster(t, true), newCluster(t, false)
	var last *Commit
	for range 2 {
		sink := from.NewSink(SinkOptions{Parent: last, Configuration: func() *Configuration { return told }})
		source := &confAtEnd{newTreeSource(now, rng(1)), path, text}
		if err := errors.Join(backup.Copy(t.Context(), sink, source, backup.Options{}), sink.Close()); err != nil {
			t.Fatal(err)
		}
		last = sink.Written()
	}
	now[key{path: path}] = []byte(text)
	compare(t, from, last.ID, now)
	copied, err := copyBackup(t.Context(), to, from, *last, nil)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, to, copied.ID, now)
	again, err := to.Backup(t.Context(), copied.ID)
	if diff := cmp.Diff(told, again.Configuration); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	source := to.NewSource(again, SourceOptions{})
	defer source.Close()
	if _, err := source.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, r, err := source.manifest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	isListed := false
	if _, err := manifest.Read(r, func(f manifest.File) error { isListed = isListed || f.Path == path; return nil }); err != nil || !isListed {
		t.Errorf("in the manifest: %v, %v", isListed, err)
	}
}
