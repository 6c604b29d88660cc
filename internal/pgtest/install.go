package pgtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Newest is the newest major that is known here.
const Newest = 18

// Majors returns the PostgreSQL majors that tests can have, oldest first.
func Majors() []int {
	return []int{10, 11, 12, 13, 14, 15, 16, 17, 18}
}

// Full tells whether a major is installed whole, with all clients, lz4 and zstd.
// Of the others there is only the server, which has TLS but neither of them.
func Full(major int) bool {
	return slices.Contains([]int{15, 17, 18}, major)
}

// Version returns the exact version of an installed major, such as "18.6".
func Version(t testing.TB, major int) string {
	t.Helper()
	record, err := os.ReadFile(filepath.Join(prefix(major), "installed"))
	if err != nil {
		t.Fatalf("PostgreSQL %d is not installed: %v\nhint: run make servers", major, err)
	}
	for line := range strings.Lines(string(record)) {
		if version, ok := strings.CutPrefix(line, "version="); ok {
			return strings.TrimSpace(version)
		}
	}
	t.Fatalf("PostgreSQL %d has no version in its record\nhint: run make servers", major)
	return ""
}

// Bin returns the folder of the programs of an installed major. A major that is
// not installed fails the test: a test that passes because it did not run is
// worth less than none.
func Bin(t testing.TB, major int) string {
	t.Helper()
	Version(t, major)
	return filepath.Join(prefix(major), "bin")
}

// Command returns the command that runs a program of a major as the user that
// the servers run as, without the PG* settings of whoever runs the tests.
func Command(t testing.TB, major int, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(Bin(t, major), program), args...)
	cmd.Env = environment()
	cmd.Dir = os.TempDir()
	cmd.SysProcAttr = ProcessAttributes(syscall.SIGQUIT)
	return cmd
}

// prefix returns the folder that build/postgres.sh installs a major in.
func prefix(major int) string {
	return filepath.Join(CacheDir(), "postgres", strconv.Itoa(major))
}

// CacheDir returns the folder of what is installed for tests. It follows the rule
// in the head of build/postgres.sh.
func CacheDir() string {
	if dir := os.Getenv("BASIN_CACHE"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/cache/basin"
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "basin")
	}
	return filepath.Join(os.Getenv("HOME"), ".cache", "basin")
}

// environment returns the environment of PostgreSQL's programs. What it leaves
// out would otherwise choose servers, passwords, languages and time zones. HOME
// holds nothing, so that no one's certificates and password file are found.
func environment() []string {
	keep := []string{"HOME=/nonexistent", "LC_ALL=C.UTF-8", "TZ=UTC"}
	for _, setting := range os.Environ() {
		name, _, _ := strings.Cut(setting, "=")
		if name == "PATH" || name == "TMPDIR" {
			keep = append(keep, setting)
		}
	}
	return keep
}
