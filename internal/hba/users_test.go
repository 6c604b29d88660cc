package hba

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

// A secret of PostgreSQL's own, of the password "secret".
const secret = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

func TestParseVerifier(t *testing.T) {
	for _, c := range []struct {
		reason, old, new string
		ok               bool
	}{
		{"intact", "", "", true},
		{"md5", secret, "md5c11a4dcb1cd0b7d2b0b6e4eb3b0b7b34", false},
		{"a password", secret, "secret", false},
		{"nothing", secret, "", false},
		{"another scheme", "SCRAM-SHA-256", "SCRAM-SHA-1", false},
		{"no iterations", "4096", "", false},
		{"zero iterations", "4096", "0", false},
		{"fewer", "4096", "-1", false},
		{"a sign", "4096", "+4096", false},
		{"too many", "4096", "2147483648", false},
		{"no salt", "W22ZaJ0SNY7soEsUEjb6gQ==", "", false},
		{"salt that is no base64", "W22Z", "W22?", false},
		{"a long salt", "W22ZaJ0SNY7soEsUEjb6gQ==", strings.Repeat("W22Z", 100), false},
		{"a line end in the salt", "W22Z", "W2\n2Z", false},
		{"a short key", "WG5d", "", false},
		{"a long key", "wfPL", "wfPLwfPL", false},
		{"a key that is no base64", "wfPL", "????", false},
		{"more", "2dU=", "2dU=:x", false},
	} {
		text := secret
		if c.old != "" {
			text = strings.Replace(secret, c.old, c.new, 1)
		}
		v, err := ParseVerifier(text)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.reason, err)
		}
		if err == nil && v.Text() != text {
			t.Errorf("%s: %s became %s", c.reason, text, v.Text())
		}
	}
}

func TestVerifierIsNotPrinted(t *testing.T) {
	v, err := ParseVerifier(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		if got := fmt.Sprintf(verb, v); got != "SCRAM-SHA-256 secret" {
			t.Errorf("%s: %s", verb, got)
		}
	}
}

func TestParseUsers(t *testing.T) {
	more := strings.Replace(secret, "4096", "10000", 1)
	users, err := ParseUsers("f", []byte("# users\n\n a:"+secret+" \r\nb:c:"+more+"\nd e:"+more))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, verifier string
		ok             bool
	}{{"a", secret, true}, {"b:c", more, true}, {"d e", more, true}, {"b", "", false}, {"", "", false}, {"# users", "", false}} {
		if verifier, ok := users.Lookup(c.name); verifier != c.verifier || ok != c.ok {
			t.Errorf("%q: %v", c.name, ok)
		}
	}
	if users.Len() != 3 || users.Iterations() != 10000 {
		t.Errorf("%d users, %d iterations", users.Len(), users.Iterations())
	}
	if _, ok := (Users{}).Lookup("a"); ok {
		t.Error("a user of none")
	}
	for _, c := range []struct{ reason, text, want, hint string }{
		{"a password", "a:hunter2", "f, line 1: no SCRAM secret", "md5"},
		{"no password", "#\nhunter2", "f, line 2: no SCRAM secret", "md5"},
		{"a damaged secret", "a:SCRAM-SHA-256$hunter2", `f, line 1: invalid SCRAM secret for user "a"`, "pg_authid"},
		{"no name", ":" + secret, "f, line 1: the name of the user is empty", ""},
		{"twice", "a:" + secret + "\nb:" + secret + "\na:" + more, `f, line 3: user "a" is in line 1 already`, "delete"},
	} {
		_, err := ParseUsers("f", []byte(c.text))
		var e *Error
		if !errors.As(err, &e) || err.Error() != c.want || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: %v, want %s", c.reason, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the password: %v", c.reason, err)
		}
	}
}

func TestSetUser(t *testing.T) {
	v, err := ParseVerifier(strings.Replace(secret, "4096", "9", 1))
	if err != nil {
		t.Fatal(err)
	}
	entry := "a:" + v.Text() + "\n"
	for _, c := range []struct{ reason, before, after string }{
		{"the first", "", entry},
		{"one more", "# c\nb:" + secret + "\n", "# c\nb:" + secret + "\n" + entry},
		{"no line end", "b:" + secret, "b:" + secret + "\n" + entry},
		{"changed", "a:" + secret + "\n# c\nb:" + secret, entry + "# c\nb:" + secret},
		{"changed at the end", "a:" + secret, entry},
		{"made one of two", "a:" + secret + "\nb:" + secret + "\na:" + secret, entry + "b:" + secret + "\n"},
		{"a comment is none", "#a:" + secret + "\n", "#a:" + secret + "\n" + entry},
	} {
		got, err := SetUser([]byte(c.before), "a", v)
		if err != nil || string(got) != c.after {
			t.Errorf("%s: %q, %v", c.reason, got, err)
		}
	}
	for _, name := range []string{"", " a", "a\t", "#a", "a\nb", "a\x00", "a:SCRAM-SHA-256$b"} {
		if _, err := SetUser(nil, name, v); err == nil {
			t.Errorf("%q is a name", name)
		}
	}
}

func TestCheckUsersMode(t *testing.T) {
	for mode, ok := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o640: true, 0o440: true, 0o644: false, 0o660: false, 0o604: false, 0o666: false} {
		if err := CheckUsersMode("f", mode); (err == nil) != ok {
			t.Errorf("%o: %v", mode, err)
		}
	}
}

func FuzzParseUsers(f *testing.F) {
	f.Add([]byte("a:" + secret + "\n# c\nb:" + secret))
	v, err := ParseVerifier(secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		users, err := ParseUsers("f", text)
		if err != nil {
			return
		}
		changed, err := SetUser(text, "new user", v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseUsers("f", changed)
		if err != nil {
			t.Fatalf("%q: %v", changed, err)
		}
		for name, verifier := range users.verifiers {
			if now, ok := again.Lookup(name); !ok || now != verifier && name != "new user" {
				t.Errorf("%q is not what it was", name)
			}
		}
		if got, _ := again.Lookup("new user"); got != secret {
			t.Errorf("the new user has %q", got)
		}
	})
}
