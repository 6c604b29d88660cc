package main

import (
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
)

// confFile is a file of configuration that a server does not start without.
const confFile = "postgresql.conf"

// What is in files of configuration that are made.
const (
	confNote = "# by basin restore: the backup has no such file, since the server had its configuration elsewhere,\n" +
		"# as Debian has in /etc/postgresql. Put the original in its place before the server is used.\n"
	closedHBA = "local all all peer\nlocal replication all peer\n"
)

// confSource yields a backup with the configuration that the restored data directory gets.
type confSource struct {
	backup.Source
	conf    *restoredConf
	queue   []backup.Member
	readers []io.Reader
}

// Next returns the next member. The configuration comes before the control file.
func (s *confSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	for {
		if len(s.queue) > 0 {
			m, r := s.queue[0], s.readers[0]
			s.queue, s.readers = s.queue[1:], s.readers[1:]
			return m, r, nil
		}
		m, r, err := s.Source.Next(ctx)
		if err != nil || m.Tablespace != 0 {
			return m, r, err
		}
		if _, isMade := s.conf.files[m.Path]; isMade || s.conf.lacks && m.Path == confFile {
			if closer, ok := r.(io.Closer); ok && m.Apart {
				_ = closer.Close() // it was not read
			}
			continue
		}
		if m.Path != pgdata.ControlPath {
			return m, r, nil
		}
		control, err := io.ReadAll(io.LimitReader(r, m.Size+1))
		if err != nil {
			return m, nil, err
		}
		needed := neededSettings(controlNeeds(control, s.conf.commit.ServerVersion))
		if s.conf.lacks {
			s.add(confFile, confNote+needed)
		}
		for _, name := range slices.Sorted(maps.Keys(s.conf.files)) {
			text := s.conf.files[name]
			if name == confFile { // its own settings come behind, and count
				text = "# by basin restore: made of the server's own, which were, or led, outside of its data directory\n" + needed + s.conf.instead + "\n" + text
			}
			s.add(name, text)
		}
		s.queue, s.readers = append(s.queue, m), append(s.readers, bytes.NewReader(control))
	}
}

// add has a file come.
func (s *confSource) add(path, text string) {
	s.queue = append(s.queue, backup.Member{
		Path: path, Kind: backup.File, Size: int64(len(text)), Mode: localfs.FileModeOwner,
		UID: backup.InjectedUID, GID: backup.InjectedGID, ModTime: time.Now(),
	})
	s.readers = append(s.readers, strings.NewReader(text))
}
