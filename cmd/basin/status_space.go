package main

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"basin/internal/getopt"
	"basin/internal/monitor"
	"basin/internal/usererr"
)

// spaceStatus is the file system that a repository is in.
type spaceStatus struct {
	State state  `json:"state"`
	Free  uint64 `json:"free"` // bytes
	Size  uint64 `json:"size"` // bytes
}

// readSpace returns the file system that a folder is in.
func readSpace(folder string) (spaceStatus, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(folder, &fs); err != nil {
		return spaceStatus{}, fmt.Errorf("%s: %w", folder, err)
	}
	return spaceStatus{Free: fs.Bavail * uint64(fs.Bsize), Size: fs.Blocks * uint64(fs.Bsize)}, nil
}

// String returns it for people.
func (s spaceStatus) String() string {
	return fmt.Sprintf("%s of %s", humanize.IBytes(s.Free), humanize.IBytes(s.Size))
}

// shareLimit is how much of a file system is to be free, in hundredths: less than Warning is a warning, less than Critical is critical.
type shareLimit struct{ Warning, Critical int }

// minFree is what is to be free if nothing is said.
var minFree = shareLimit{5, 1}

// parseShareLimit reads a limit: NUM, of which a fifth is critical, NUM:NUM, or off. A number may have a sign of percent.
func parseShareLimit(value string) (l shareLimit, err error) {
	if value == "off" {
		return shareLimit{}, nil
	}
	warning, critical, isPair := strings.Cut(value, ":")
	if l.Warning, err = parseInt(strings.TrimSuffix(warning, "%"), "--min-free", 1, 100); err != nil {
		return shareLimit{}, err
	}
	l.Critical = l.Warning / 5
	if isPair {
		if l.Critical, err = parseInt(strings.TrimSuffix(critical, "%"), "--min-free", 0, 100); err != nil {
			return shareLimit{}, err
		}
	}
	if l.Critical > l.Warning || isPair && critical == "" {
		return shareLimit{}, usererr.Hinted("Say what is a warning, and then what is critical: 10%:2%.", "invalid limit \"%s\"", value)
	}
	return l, nil
}

// shareLimitOption takes what parseShareLimit does.
func shareLimitOption(long string, field *shareLimit) getopt.Option {
	return getopt.Option{Long: long, Value: func(value string) (err error) {
		*field, err = parseShareLimit(value)
		return err
	}}
}

// judge returns what is to be said of a file system.
func (l shareLimit) judge(s spaceStatus) state {
	isBelow := func(share int) bool { return float64(s.Free) < float64(share)/100*float64(s.Size) }
	switch {
	case isBelow(l.Critical):
		return stateCritical
	case isBelow(l.Warning):
		return stateWarning
	}
	return stateOK
}

// readSpace looks at the file system of a repository that is in one, if that tells.
func (r *statusReport) readSpace(o *statusOptions) {
	p, err := o.place()
	if err != nil || !p.isFolder() {
		return
	}
	space, err := readSpace(p.Location)
	if err != nil {
		return
	}
	space.State = o.MinFree.judge(space)
	r.Space, r.State = &space, r.State.worse(space.State)
}

// problem says what is not as it should be; nothing if all is well.
func (s *spaceStatus) problem() string {
	if s == nil || s.State == stateOK {
		return ""
	}
	return fmt.Sprintf("%s are free where the repository is: basin forget and basin prune free what is not needed", s)
}

// metrics adds the file system to what Prometheus is told.
func (s *spaceStatus) metrics(m *monitor.Metrics) {
	if s != nil {
		m.Gauge("repository_free_bytes", "What is free in the file system of the repository.").Set(float64(s.Free))
		m.Gauge("repository_size_bytes", "Size of that file system.").Set(float64(s.Size))
	}
}
