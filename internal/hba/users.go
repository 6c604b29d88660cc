package hba

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
)

// Verifier is what a server keeps of a password: enough to check that a client
// knows it, and too little to log in with.
//
// Source: parse_scram_secret in src/backend/libpq/auth-scram.c, PostgreSQL 18.
type Verifier struct {
	Iterations int
	Salt       []byte
	StoredKey  [sha256.Size]byte
	ServerKey  [sha256.Size]byte
}

// What a verifier's text begins with, and the most bytes of salt: PostgreSQL
// takes 16 and knows no bound.
const (
	verifierScheme = "SCRAM-SHA-256$"
	maxSalt        = 256
)

// Text returns the verifier in PostgreSQL's form. It is not named String so
// that none is printed by chance: with it one can pretend to be the server.
//
// Source: scram_build_secret in src/common/scram-common.c, PostgreSQL 18.
func (v Verifier) Text() string {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s%d:%s$%s:%s", verifierScheme, v.Iterations, encode(v.Salt), encode(v.StoredKey[:]), encode(v.ServerKey[:]))
}

// Format keeps a verifier out of texts, whatever the verb.
func (v Verifier) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("SCRAM-SHA-256 secret")) }

// ParseVerifier reads SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey. An
// error does not tell what is in the text.
//
// Source: parse_scram_secret in src/backend/libpq/auth-scram.c, PostgreSQL 18.
func ParseVerifier(text string) (Verifier, error) {
	invalid := errors.New("invalid SCRAM secret")
	rest, ok := strings.CutPrefix(text, verifierScheme)
	count, rest, ok2 := strings.Cut(rest, ":")
	salt, rest, ok3 := strings.Cut(rest, "$")
	storedKey, serverKey, ok4 := strings.Cut(rest, ":")
	if !ok || !ok2 || !ok3 || !ok4 {
		return Verifier{}, invalid
	}
	var v Verifier
	var err error
	v.Iterations, err = strconv.Atoi(count)
	if err != nil || v.Iterations < 1 || v.Iterations > math.MaxInt32 || count != strconv.Itoa(v.Iterations) {
		return Verifier{}, invalid
	}
	if v.Salt, err = decode(salt); err != nil || len(v.Salt) == 0 || len(v.Salt) > maxSalt {
		return Verifier{}, invalid
	}
	for _, key := range []struct {
		text string
		into *[sha256.Size]byte
	}{{storedKey, &v.StoredKey}, {serverKey, &v.ServerKey}} {
		b, err := decode(key.text)
		if err != nil || copy(key.into[:], b) != len(key.into) || len(b) != len(key.into) {
			return Verifier{}, invalid
		}
	}
	return v, nil
}

// decode reads base64. Go's own leaves out line ends, which are none here.
func decode(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("there is a line end")
	}
	return base64.StdEncoding.Strict().DecodeString(text)
}

// Users are those of a file, by name. The zero value has none.
type Users struct {
	verifiers  map[string]string
	iterations int
}

// ParseUsers reads users, one a line: the name, a colon, and a SCRAM secret in
// PostgreSQL's form. Empty lines and those that begin with # are comments. name
// is that of the file, for errors, each of which is an *Error and tells no
// secret. A file of no users is no error.
func ParseUsers(name string, text []byte) (Users, error) {
	users := Users{verifiers: make(map[string]string)}
	counts := make(map[int]int)
	lines := make(map[string]int)
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		p := parser{file: name, line: number}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		user, verifier, ok := cutUser(line)
		if !ok {
			return Users{}, p.fail("a line is: name:SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey; an md5 secret is none, nor is a password", "no SCRAM secret")
		}
		if err := checkUserName(user); err != nil {
			return Users{}, p.fail("", "%v", err)
		}
		v, err := ParseVerifier(verifier)
		if err != nil {
			return Users{}, p.fail("copy it whole, as in rolpassword of PostgreSQL's pg_authid, or have a new one made", `%v for user "%s"`, err, user)
		}
		if earlier, ok := lines[user]; ok {
			return Users{}, p.fail("delete one of the two lines", `user "%s" is in line %d already`, user, earlier)
		}
		lines[user] = number
		users.verifiers[user] = verifier
		if counts[v.Iterations]++; counts[v.Iterations] > counts[users.iterations] {
			users.iterations = v.Iterations
		}
	}
	return users, nil
}

// cutUser parts a line in name and secret. A name may have a colon in it.
func cutUser(line string) (user, verifier string, ok bool) {
	i := strings.LastIndex(line, ":"+verifierScheme)
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// checkUserName looks whether a line can hold a name.
func checkUserName(user string) error {
	switch {
	case user == "":
		return errors.New("the name of the user is empty")
	case user != strings.TrimSpace(user), user[0] == '#', strings.ContainsAny(user, "\x00\r\n"), strings.Contains(user, ":"+verifierScheme):
		return fmt.Errorf("%q is no name for a user of this file", user)
	}
	return nil
}

// Lookup returns the SCRAM secret of a user in PostgreSQL's form.
func (u Users) Lookup(user string) (verifier string, ok bool) {
	verifier, ok = u.verifiers[user]
	return verifier, ok
}

// Len returns the number of users.
func (u Users) Len() int { return len(u.verifiers) }

// Iterations returns the number of iterations that most users' secrets have:
// the one that tells least of those who are no users. Zero is no users.
func (u Users) Iterations() int { return u.iterations }

// SetUser returns the text of a users file with the secret of one user changed,
// or with one user more. The rest, comments included, stays as it is.
func SetUser(text []byte, user string, v Verifier) ([]byte, error) {
	if err := checkUserName(user); err != nil {
		return nil, err
	}
	entry := user + ":" + v.Text() + "\n"
	var changed bytes.Buffer
	found := false
	for line := range strings.Lines(string(text)) {
		if name, _, ok := cutUser(strings.TrimSpace(line)); ok && name == user {
			if !found {
				changed.WriteString(entry)
			}
			found = true
			continue
		}
		changed.WriteString(line)
	}
	if !found {
		if b := changed.Bytes(); len(b) > 0 && b[len(b)-1] != '\n' {
			changed.WriteByte('\n')
		}
		changed.WriteString(entry)
	}
	return changed.Bytes(), nil
}

// CheckUsersMode looks at the permissions of a users file: an *Error if others
// than its owner and group can read it, or others than its owner write it.
func CheckUsersMode(name string, mode fs.FileMode) error {
	if mode.Perm()&0o027 == 0 {
		return nil
	}
	return &Error{
		File: name, Reason: fmt.Sprintf("has permissions %#o: others have access to the users' secrets", mode.Perm()),
		Hint: "make it chmod 0600, or 0640 for the group of the server",
	}
}
