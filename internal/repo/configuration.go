package repo

import "strings"

// ConfigurationDir is where a backup has files of configuration that were outside of the data directory: each below it
// at its whole path. What a data directory has of that name, as one that was restored, is not backed up.
const ConfigurationDir = "basin_configuration"

// Configuration tells of a server's files of configuration that were outside of its data directory.
type Configuration struct {
	DataDirectory string `json:"dataDirectory,omitempty"` // as the server called it; as all below it is empty if that is not known
	ConfigFile    string `json:"configFile,omitempty"`
	HBAFile       string `json:"hbaFile,omitempty"`
	IdentFile     string `json:"identFile,omitempty"`

	Files   []ConfigurationFile `json:"files"`             // that are in the backup, sorted by path
	Missing []MissingFile       `json:"missing,omitempty"` // that are not, sorted by path
}

// ConfigurationFile is a file that is in a backup, below ConfigurationDir.
type ConfigurationFile struct {
	Path string `json:"path"` // that it had on the server's host
	Size int64  `json:"size"` // in bytes
}

// MissingFile is a file that the server used, and that is not in a backup.
type MissingFile struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// isConfiguration says whether a member is of the configuration that was outside of the data directory.
func isConfiguration(k key) bool {
	return k.tablespace == 0 && strings.HasPrefix(k.path, ConfigurationDir+"/")
}
