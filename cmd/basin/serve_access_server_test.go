package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/accept"
	"basin/internal/pgtest"
)

// write writes a file that the server's user owns, and only it may read.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, path)
}

// writeCertificate writes a new certificate for 127.0.0.1 and its key, and returns its number.
func writeCertificate(t testing.TB, certificate, key string) string {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "basin"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	public, err := x509.CreateCertificate(rand.Reader, form, form, &secret.PublicKey, secret)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	write(t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return form.SerialNumber.String()
}

// login connects as a client and returns the SQLSTATE it is refused with, or nothing.
func (v *served) login(t testing.TB, settings string) (code string, conn *pgconn.PgConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d %s", v.port, settings))
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return "", conn
}

// run runs a command and returns the SQLSTATE of its error, or nothing.
func runCommand(t testing.TB, conn *pgconn.PgConn, command string) string {
	t.Helper()
	_, err := conn.Exec(t.Context(), command).ReadAll()
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return ""
}

const (
	strangeName     = `we"ird'; DROP TABLE x; --\`
	strangeSetting  = `user='we"ird\'; DROP TABLE x; --\\'`
	injectedSetting = `user='x\' OR \'1\'=\'1'`
)

// accessRules are of the tests of who is let in.
const accessRules = `
hostssl replication all 127.0.0.1/32 scram-sha-256
hostssl postgres,closed,absent all 127.0.0.1/32 scram-sha-256
`

func TestServeAccess(t *testing.T) {
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{})
	s.Exec(t,
		"CREATE ROLE right_one LOGIN REPLICATION PASSWORD 'secret'",
		"CREATE ROLE no_replication LOGIN PASSWORD 'secret'",
		"CREATE ROLE no_login REPLICATION PASSWORD 'secret'",
		"CREATE ROLE no_password LOGIN REPLICATION",
		"CREATE ROLE expired LOGIN REPLICATION PASSWORD 'secret' VALID UNTIL '2001-01-01'",
		`CREATE ROLE "we""ird'; DROP TABLE x; --\" LOGIN REPLICATION PASSWORD 'secret'`,
		"SET password_encryption = md5; CREATE ROLE old_secret LOGIN REPLICATION PASSWORD 'secret'",
		"CREATE DATABASE closed", "REVOKE CONNECT ON DATABASE closed FROM public",
	)
	secret, err := accept.NewVerifier("secret", 64)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(basin.home, "users")
	write(t, users, "right_one:"+secret.Text()+"\n"+strangeName+":"+secret.Text()+"\n")
	rules, certificate, key := filepath.Join(basin.home, "rules.hba"), filepath.Join(basin.home, "server.crt"), filepath.Join(basin.home, "server.key")
	write(t, rules, accessRules)
	writeCertificate(t, certificate, key)
	args := []string{"--hba", rules, "--tls-cert", certificate, "--tls-key", key}
	for _, way := range []struct {
		name string
		args []string
	}{{"the cluster's roles", args}, {"a file of users", append(args[:len(args):len(args)], "--users", users)}} {
		own := way.name == "the cluster's roles"
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			v := startServe(t, basin, s, way.args...)
			for _, c := range []struct {
				name, settings string
				want           string // SQLSTATE
				own            bool   // of the cluster's roles alone
			}{
				{"a password", "user=right_one password=secret replication=true", "", false},
				{"for a database", "user=right_one password=secret replication=database dbname=postgres", "", false},
				{"a strange name", strangeSetting + " password=secret replication=true", "", false},
				{"no password", "user=right_one replication=true", "28P01", false},
				{"wrong password", "user=right_one password=wrong replication=true", "28P01", false},
				{"no such user", "user=nobody password=secret replication=true", "28P01", false},
				{"a condition for a name", injectedSetting + " password=secret replication=true", "28P01", false},
				{"a database without a rule", "user=right_one password=secret replication=database dbname=template1", "28000", false},
				{"no TLS", "user=right_one password=secret replication=true sslmode=disable", "28000", false},
				{"no such database", "user=right_one password=secret replication=database dbname=absent", "3D000", true},
				{"a database that is closed to it", "user=right_one password=secret replication=database dbname=closed", "42501", true},
				{"no right to replicate", "user=no_replication password=secret replication=true", "42501", true},
				{"no right to log in", "user=no_login password=secret replication=true", "28P01", true},
				{"none is set", "user=no_password password=secret replication=true", "28P01", true},
				{"a password that has expired", "user=expired password=secret replication=true", "28P01", true},
				{"a secret of another kind", "user=old_secret password=secret replication=true", "28P01", true},
			} {
				if c.own && !own {
					continue
				}
				settings := c.settings
				if !strings.Contains(settings, "sslmode") {
					settings += " sslmode=require"
				}
				if code, _ := v.login(t, settings); code != c.want {
					t.Errorf("%s: %q, want %q", c.name, code, c.want)
				}
			}
			v.ends(t)
		})
	}
}

func TestServeReadsRulesAgain(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{})
	file := func(name string) string { return filepath.Join(basin.home, name) }
	setPassword := func(password string) {
		secret, err := accept.NewVerifier(password, 64)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file("users"), "someone:"+secret.Text()+"\n")
	}
	setPassword("first")
	write(t, file("rules.hba"), accessRules)
	number := writeCertificate(t, file("crt"), file("key"))
	v := startServe(t, basin, s, "--hba", file("rules.hba"), "--users", file("users"), "--tls-cert", file("crt"), "--tls-key", file("key"))
	check := func(when, password, want string) {
		t.Helper()
		code, conn := v.login(t, "user=someone replication=true sslmode=require password="+password)
		if code != want {
			t.Errorf("%s, with the password %s: %q, want %q", when, password, code, want)
		}
		if conn != nil {
			if got := conn.Conn().(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(); got != number {
				t.Errorf("%s: certificate %s, want %s", when, got, number)
			}
		}
	}
	reload := func(says string) {
		t.Helper()
		before := strings.Count(v.process.stderr.String(), says)
		v.process.signal(t, syscall.SIGHUP)
		eventually(t, says, func() bool { return strings.Count(v.process.stderr.String(), says) > before })
	}
	const again, kept = "were read again", "the configuration was not changed"
	check("at first", "first", "")
	setPassword("second")
	check("before the signal", "first", "")
	old, number2 := number, writeCertificate(t, file("crt"), file("key"))
	reload(again)
	number = number2
	check("after it", "first", "28P01")
	check("after it", "second", "")
	if old == number {
		t.Error("the certificate is the same")
	}
	for _, broken := range []struct{ file, text, works string }{
		{"rules.hba", "hostssl nonsense\n", accessRules}, {"users", "someone:md5abc\n", ""}, {"crt", "x", ""},
	} {
		was, err := os.ReadFile(file(broken.file))
		if err != nil {
			t.Fatal(err)
		}
		write(t, file(broken.file), broken.text)
		reload(kept)
		check("with broken "+broken.file, "second", "")
		write(t, file(broken.file), string(was))
		reload(again)
	}
	write(t, file("rules.hba"), "hostssl replication all 127.0.0.1/32 reject\n")
	_, inside := v.login(t, "user=someone replication=true sslmode=require password=second")
	reload(again)
	check("with a rule that rejects", "second", "28000")
	if code := runCommand(t, inside, "IDENTIFY_SYSTEM"); code != "" {
		t.Errorf("who was let in before: %s", code)
	}
	v.ends(t)
}

// Every setting that the server shows to some roles only is refused here, by whatever name.
func TestServeKeepsSecrets(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range []int{13, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major})
			v := startServe(t, basin, s)
			all := strings.Fields(s.Query(t, "SELECT name FROM pg_settings"))
			s.Exec(t, "CREATE ROLE plain LOGIN")
			seen := strings.Fields(s.Query(t, "SET ROLE plain; SELECT name FROM pg_settings"))
			if len(seen) < 300 || len(seen) >= len(all) {
				t.Fatalf("%d of %d settings are to be seen", len(seen), len(all))
			}
			_, conn := v.login(t, "user=postgres replication=true")
			visible := make(map[string]bool)
			for _, name := range seen {
				visible[name] = true
			}
			for _, name := range all {
				if visible[name] {
					continue
				}
				for _, form := range []string{name, strings.ToUpper(name), `"` + name + `"`} {
					if code := runCommand(t, conn, "SHOW "+form); code != "42501" {
						t.Errorf("SHOW %s: %q", form, code)
					}
				}
			}
			if code := runCommand(t, conn, "SHOW wal_segment_size"); code != "" {
				t.Errorf("SHOW wal_segment_size: %q", code)
			}
			for _, sql := range []string{"SELECT 1", "SELECT rolpassword FROM pg_authid", "COPY pg_authid TO STDOUT"} {
				if code := runCommand(t, conn, sql); code != "0A000" {
					t.Errorf("%s: %q", sql, code)
				}
				_, other := v.login(t, "user=postgres replication=database dbname=postgres")
				if code := runCommand(t, other, sql+" "); sql != "SELECT 1" && code != "0A000" {
					t.Errorf("%s in a database: %q", sql, code)
				}
			}
			v.ends(t)
		})
	}
}

func TestServeLabels(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{})
	s.Exec(t, "ALTER ROLE postgres SET standard_conforming_strings = off", "CREATE TABLE victim ()")
	v := startServe(t, basin, s)
	_, conn := v.login(t, "user=postgres replication=true")
	for _, c := range []struct{ name, label, want string }{
		{"quotes", `it''s "quoted"`, ""},
		{"a backslash", `a\b`, ""},
		{"a statement behind a backslash", `\'', true); DROP TABLE victim; --`, ""},
		{"a new line", "one\ntwo", ""},
		{"a line of the label's file", "one\nSTART TIMELINE: 99", ""},
		{"control characters", "\x01\x1b[31m\x7f", ""},
		{"1024 bytes", strings.Repeat("l", 1024), ""},
		{"1025 bytes", strings.Repeat("l", 1025), "22023"},
		{"no UTF-8", "\xff\xfe", "22021"},
	} {
		if code := runCommand(t, conn, "BASE_BACKUP (LABEL '"+c.label+"', TARGET 'blackhole', CHECKPOINT 'fast', WAIT false)"); code != c.want {
			t.Errorf("%s: %q, want %q", c.name, code, c.want)
		}
	}
	if n := s.Query(t, "SELECT count(*) FROM pg_class WHERE relname = 'victim'"); n != "1" {
		t.Error("a label was a statement")
	}
	v.ends(t)
}

// TestServeUserNamesAreNoSQL has the cluster read backslashes in constants, as old
// applications want it, from the first connection that is asked about a user on.
func TestServeUserNamesAreNoSQL(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Config{Conf: map[string]string{"standard_conforming_strings": "off", "escape_string_warning": "off"}})
	hba := filepath.Join(pgtest.TempDir(t), "hba")
	if err := os.WriteFile(hba, []byte("host replication all 127.0.0.1/32 scram-sha-256\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	v := startServe(t, newProgram(t, "basin"), s, "--hba", hba)
	for _, name := range []string{`\'; CREATE TABLE injected (); --`, `'; CREATE TABLE injected (); --`, `\\'; CREATE TABLE injected (); --`, `a\`} {
		config, err := pgconn.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d sslmode=disable dbname=replication password=guess", v.port))
		if err != nil {
			t.Fatal(err)
		}
		config.User, config.RuntimeParams["replication"] = name, "true"
		conn, err := pgconn.ConnectConfig(t.Context(), config)
		if err == nil {
			_ = conn.Close(t.Context())
			t.Errorf("%q was let in", name)
		} else if !strings.Contains(err.Error(), "28P01") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if got := s.Query(t, "SELECT count(*) FROM pg_class WHERE relname = 'injected'"); got != "0" {
		t.Error("a user's name was run as SQL")
	}
}
