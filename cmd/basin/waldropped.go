package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"basin/internal/repo"
	"basin/internal/usererr"
)

// droppedEnd ends the name of the file in the spool that tells of log that a server gave up.
const droppedEnd = ".dropped.json"

// droppedName returns the name of the file of a server whose pg_wal is in a place.
func droppedName(cluster string, systemID uint64, pgWAL string) string {
	sum := sha256.Sum256([]byte(pgWAL))
	return fmt.Sprintf("%s-%d-%x%s", cluster, systemID, sum[:4], droppedEnd)
}

// droppedLog is log that was given up, of which a repository does not know yet.
type droppedLog struct {
	Cluster      string                `json:"cluster"`
	SystemID     string                `json:"systemID"`
	Repositories map[string]*droppedIn `json:"repositories"` // by location

	path string // of the file
}

// droppedIn is what one repository does not have.
type droppedIn struct {
	repo.Hole
	Tried time.Time `json:"tried"` // when it was last tried to store something there
	// Kept are small files that were given up, by name: they are stored as soon as that can be.
	Kept map[string][]byte `json:"kept,omitempty"`
}

// readDropped reads such a file. One that is not there is of no log.
func readDropped(path string) (d droppedLog, err error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &d)
	}
	if err != nil { // of what is damaged nothing is told any further
		return droppedLog{}, usererr.Hinted("Look into it, take a backup, which makes up for log that was given up, and remove the file.",
			"read which log was given up: %s: %w", path, err)
	}
	return d, nil
}

// write makes the file durable, or removes it if there is nothing to tell.
func (d droppedLog) write(path string) error {
	if len(d.Repositories) == 0 {
		if err := removeIfThere(path); err != nil {
			return err
		}
		return syncFolder(filepath.Dir(path))
	}
	content, err := json.Marshal(d)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) // basin status may run as somebody else
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(path+".tmp"))
	}
	return syncFolder(filepath.Dir(path))
}

// droppedOf returns what the servers of this host gave up of a cluster that have a spool. System identifier zero is any.
func droppedOf(spool, cluster string, systemID uint64) (all []droppedLog, err error) {
	if spool == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(spool)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the configuration is another host's, too
	}
	if err != nil {
		return nil, fmt.Errorf("it is not known whether log was given up: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), droppedEnd) {
			continue
		}
		d, err := readDropped(filepath.Join(spool, e.Name()))
		if err != nil {
			return nil, err
		}
		d.path = filepath.Join(spool, e.Name())
		if d.Cluster == cluster && (systemID == 0 || d.SystemID == strconv.FormatUint(systemID, 10)) && len(d.Repositories) > 0 {
			all = append(all, d)
		}
	}
	return all, nil
}

// holeText says what a hole means.
func holeText(h repo.Hole) string {
	what := fmt.Sprintf("%s to %s were", h.First, h.Last)
	if h.Files == 1 {
		what = h.First + " was"
	}
	return fmt.Sprintf("log is missing for good: %s given up at %s, since the queue was full; older backups lead no further, a new one is needed", what, stamp(h.Until))
}
