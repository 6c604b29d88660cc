package backup

import (
	"context"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Files that make a copy of a cluster a standby, or have it recover up to a target.
const (
	autoConfPath       = "postgresql.auto.conf"
	standbySignalPath  = "standby.signal"
	recoverySignalPath = "recovery.signal"
	recoveryConfPath   = "recovery.conf" // before 12
	controlFilePath    = "global/pg_control"
)

// Owner of members that no server sent, as PostgreSQL's client gives them.
//
// Source: astreamer_inject_file in src/bin/pg_basebackup/astreamer_inject.c, PostgreSQL 18.
const (
	InjectedUID = 0o4000
	InjectedGID = 0o2000
)

// RecoveryOptions say how a standby finds its primary, or how far a copy recovers.
type RecoveryOptions struct {
	Settings string      // lines of configuration
	Mode     fs.FileMode // of the files made
	Signal   bool        // settings in postgresql.auto.conf and a standby.signal, as from 12 on; else a recovery.conf
	// Ends makes it a recovery.signal, and leaves out a standby.signal of the source: recovery
	// ends at a target.
	Ends bool
}

// WithRecovery returns src with the files in the main directory that make the
// copy a standby, or have it recover. What the source has of them is replaced, or, of
// postgresql.auto.conf, continued. A manifest in src does not list them.
//
// They come just before global/pg_control, so that a copy cut short never
// starts without them.
func WithRecovery(src Source, o RecoveryOptions) Source {
	return &recoverySource{Source: src, o: o}
}

type recoverySource struct {
	Source
	o        RecoveryOptions
	queue    []injected // to be handed out first
	autoConf bool       // was seen
	injected bool
	ended    bool // the source has nothing more
}

// injected is a member and its bytes.
type injected struct {
	m Member
	r io.Reader
}

func (s *recoverySource) Next(ctx context.Context) (Member, io.Reader, error) {
	for {
		if len(s.queue) > 0 {
			i := s.queue[0]
			s.queue = s.queue[1:]
			return i.m, i.r, nil
		}
		if s.ended {
			return Member{}, nil, io.EOF
		}
		m, r, err := s.Source.Next(ctx)
		switch {
		case err == io.EOF && !s.injected:
			s.ended = true
			s.inject()
			continue
		case err != nil:
			return m, r, err
		case s.replaced(m):
			continue
		case !s.injected && (m.Kind == Manifest || isMain(m, controlFilePath)):
			s.inject()
			s.queue = append(s.queue, injected{m, r})
			continue
		case s.o.Signal && m.Kind == File && isMain(m, autoConfPath):
			s.autoConf = true
			m.Size += int64(len(s.o.Settings))
			m.ModTime = time.Now()
			ours := io.Reader(strings.NewReader(s.o.Settings))
			if r != nil { // as it may be for an empty file
				ours = io.MultiReader(r, ours)
			}
			r = ours
		}
		return m, r, nil
	}
}

// isMain says whether m is the main directory's member of that path.
func isMain(m Member, name string) bool {
	return m.Tablespace == 0 && path.Clean(m.Path) == name
}

// replaced says whether the source's own file gives way to ours.
func (s *recoverySource) replaced(m Member) bool {
	if s.o.Signal {
		return isMain(m, standbySignalPath) || s.o.Ends && isMain(m, recoverySignalPath)
	}
	return isMain(m, recoveryConfPath)
}

func (s *recoverySource) inject() {
	s.injected = true
	switch {
	case !s.o.Signal:
		s.add(recoveryConfPath, s.o.Settings)
		return
	case !s.autoConf:
		s.add(autoConfPath, s.o.Settings)
	}
	if s.o.Ends {
		s.add(recoverySignalPath, "")
		return
	}
	s.add(standbySignalPath, "")
}

func (s *recoverySource) add(path, content string) {
	s.queue = append(s.queue, injected{
		m: Member{
			Path: path, Kind: File, Size: int64(len(content)), Mode: s.o.Mode,
			UID: InjectedUID, GID: InjectedGID, ModTime: time.Now(),
		},
		r: strings.NewReader(content),
	})
}
