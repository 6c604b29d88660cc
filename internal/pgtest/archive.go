package pgtest

import "fmt"

// Archiving returns the settings of a server that archives its log to a folder,
// which the servers' user must own. A file gets its name once it is whole; one
// that is there already, as after a crash, is replaced.
func Archiving(dir string) map[string]string {
	return map[string]string{
		"archive_mode":    "on",
		"archive_command": fmt.Sprintf("cp %%p '%[1]s/%%f.copy' && mv -f '%[1]s/%%f.copy' '%[1]s/%%f'", dir),
	}
}
