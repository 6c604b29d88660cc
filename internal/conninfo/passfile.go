package conninfo

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// Login is what a line of a password file is looked up by.
type Login struct {
	Host     string // name, address or socket directory, as the user gave it
	Port     string
	Database string // for physical replication the word replication
	User     string
}

// Password looks a login up in a password file, usually ~/.pgpass. Empty means
// that there is none; a file that cannot be opened is as good as none.
//
// An error is libpq's warning about a file that it leaves alone, one that
// others can read or that is no plain file. It need not end anything.
//
// Source: passwordFromFile in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (s System) Password(file string, l Login) (string, error) {
	if file == "" || l.Database == "" || l.User == "" {
		return "", nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", nil
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("password file \"%s\" is not a plain file", file)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("password file \"%s\" has group or world access; permissions should be u=rw (0600) or less", file)
	}
	if l.Host == "" || l.Host == s.SocketDir {
		l.Host = "localhost"
	}
	if l.Port == "" {
		l.Port = defaultPort
	}
	return findPassword(f, l), nil
}

// findPassword returns the password of the first line that fits. A line is
// host:port:database:user:password, where a field can be * for anything and a
// backslash makes the next byte an ordinary one.
func findPassword(r io.Reader, l Login) string {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if line != "" && line[0] != '#' {
			if password, ok := matchLine(line, l); ok {
				return password
			}
		}
		if err != nil {
			return ""
		}
	}
}

func matchLine(line string, l Login) (password string, ok bool) {
	for _, want := range []string{l.Host, l.Port, l.Database, l.User} {
		if line, ok = matchField(line, want); !ok {
			return "", false
		}
	}
	var b strings.Builder
	for i := 0; i < len(line) && line[i] != ':'; i++ {
		if line[i] == '\\' && i+1 < len(line) {
			i++
		}
		b.WriteByte(line[i])
	}
	return b.String(), true
}

// matchField compares the first field of line with want, and returns the rest
// of the line after its colon.
//
// Source: pwdfMatchesString in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func matchField(line, want string) (rest string, ok bool) {
	if rest, ok := strings.CutPrefix(line, "*:"); ok {
		return rest, true
	}
	for i := 0; i < len(line); i++ {
		escaped := line[i] == '\\' && i+1 < len(line)
		if escaped {
			i++
		}
		if line[i] == ':' && want == "" && !escaped {
			return line[i+1:], true
		}
		if want == "" || line[i] != want[0] {
			return "", false
		}
		want = want[1:]
	}
	return "", false
}
