package inplace

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// isServer says whether a process is one of PostgreSQL's servers.
func isServer(pid int) bool {
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	switch strings.TrimSpace(string(name)) {
	case "postgres", "postmaster":
		return err == nil
	}
	return false
}

// worksElsewhere says whether it is known of a process that it is no server in a directory: servers
// work in theirs.
//
// Source: ChangeToDataDir in src/backend/utils/init/miscinit.c, PostgreSQL 18.
func worksElsewhere(pid int, dir string) bool {
	isThere, known := worksIn(pid, dir)
	return known && !isThere
}

// worksIn says whether a process has a directory for its own, if that is known.
func worksIn(pid int, dir string) (isThere, known bool) {
	theirs, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil {
		return false, false
	}
	ours, err := os.Stat(dir)
	return err == nil && os.SameFile(ours, theirs), err == nil
}

// serverIn returns a process of a server that works in a directory, of those that may be looked at. Zero is none.
func serverIn(dir string) int {
	names, err := readNames("/proc")
	if err != nil {
		return 0
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || !isServer(pid) {
			continue
		}
		if isThere, _ := worksIn(pid, dir); isThere {
			return pid
		}
	}
	return 0
}
