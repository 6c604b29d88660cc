package inplace

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/usererr"
)

// MarkerName is what is in a data directory while it is restored. A server does not start there: the
// control file comes when all else is there, and this is removed last.
const MarkerName = "basin_restore.json"

// Marker is what is in that file.
type Marker struct {
	Format      int                 `json:"format"`
	Cluster     string              `json:"cluster"`         // its name
	SystemID    uint64              `json:"systemID,string"` // of the cluster that is restored
	Backup      string              `json:"backup"`
	Began       time.Time           `json:"began"`
	Tablespaces []backup.Tablespace `json:"tablespaces,omitempty"` // where they are made here
}

// readMarker returns what a restore left that did not end, nil if there is nothing of the kind.
func readMarker(dir string) (*Marker, error) {
	path := filepath.Join(dir, MarkerName)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, localfs.Errorf(err, path, `could not read file "%s"`, path)
	}
	m := new(Marker)
	if err := json.Unmarshal(content, m); err != nil || m.Format != 1 {
		return nil, usererr.Hinted("Empty the directory, or name another one.", "file \"%s\" is not of a restore that this program knows", path)
	}
	return m, nil
}
