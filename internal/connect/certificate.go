package connect

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"basin/internal/conninfo"
	"basin/internal/usererr"
)

// clientCertificate notes what became of the client's certificate during one
// handshake.
type clientCertificate struct {
	certificate *tls.Certificate // nil has none
	requested   bool
	sent        bool
}

// choose is called when a server asks for a certificate. Like libpq it sends
// the one it has, whatever authorities the server says it knows.
func (c *clientCertificate) choose(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c.requested = true
	if c.certificate == nil {
		return new(tls.Certificate), nil
	}
	c.sent = true
	return c.certificate, nil
}

// checkSent is an error unless the server asked for a certificate and got it.
//
// Source: check_expected_areq in src/interfaces/libpq/fe-auth.c, PostgreSQL 18.
func (c *clientCertificate) checkSent() error {
	switch {
	case !c.requested:
		return errors.New("server did not request an SSL certificate")
	case !c.sent:
		return errors.New("server accepted connection without a valid SSL certificate")
	}
	return nil
}

// loadClientCertificate reads the client's certificate and key. A certificate
// file that is not there is no error; the server may be content without.
func loadClientCertificate(p conninfo.Params, sys conninfo.System) (*tls.Certificate, error) {
	file := p.Value("sslcert")
	if file == "" {
		file = dotPostgresql(sys, "postgresql.crt")
	}
	if file == "" {
		return nil, nil
	}
	chain, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("could not read certificate file \"%s\": %w", file, cause(err))
	}
	keyFile := p.Value("sslkey")
	if keyFile == "" {
		keyFile = filepath.Join(sys.Home, ".postgresql", "postgresql.key")
	}
	key, err := readKey(keyFile, p.Value("sslpassword"))
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("could not load certificate file \"%s\" with private key file \"%s\": %w", file, keyFile, err)
	}
	return &certificate, nil
}

// readKey reads a private key, which nobody but its owner may be able to read.
//
// Source: initialize_SSL in src/interfaces/libpq/fe-secure-openssl.c, PostgreSQL 18.
func readKey(file, password string) ([]byte, error) {
	info, err := os.Stat(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("certificate present, but not private key file \"%s\"", file)
	}
	if err != nil {
		return nil, fmt.Errorf("could not stat private key file \"%s\": %w", file, cause(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("private key file \"%s\" is not a regular file", file)
	}
	if open := info.Mode().Perm() & 0o077; open != 0 && (open&^0o040 != 0 || !ownedByRoot(info)) {
		return nil, fmt.Errorf("private key file \"%s\" has group or world access; file must have permissions u=rw (0600) or less if owned by the current user, or permissions u=rw,g=r (0640) or less if owned by root", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("could not load private key file \"%s\": %w", file, cause(err))
	}
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return text, nil // the caller will say what is wrong with it
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, usererr.Hinted("convert it with openssl rsa -aes256 -traditional, or with openssl ec -aes256",
			"could not load private key file \"%s\": its form of encryption, PKCS#8, is not supported", file)
	//lint:ignore SA1019 it is weak, and it is what people have
	case !x509.IsEncryptedPEMBlock(block):
		return text, nil
	}
	//lint:ignore SA1019 as above
	plain, err := x509.DecryptPEMBlock(block, []byte(password))
	if err != nil {
		return nil, usererr.Hinted("give the passphrase with sslpassword=", "could not load private key file \"%s\": %w", file, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: plain}), nil
}

func ownedByRoot(info os.FileInfo) bool {
	status, ok := info.Sys().(*syscall.Stat_t)
	return ok && status.Uid == 0
}

// loadRevocations reads the lists of certificates that are not to be trusted
// any more. Without any there is no check.
func (s *tlsSettings) loadRevocations(p conninfo.Params, sys conninfo.System) error {
	file, dir := p.Value("sslcrl"), p.Value("sslcrldir")
	if file == "" && dir == "" {
		if file = dotPostgresql(sys, "root.crl"); file == "" {
			return nil
		}
	}
	s.revoke = true
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("could not read certificate revocation list \"%s\": %w", file, cause(err))
		}
		if err := s.addRevocations(text); err != nil {
			return fmt.Errorf("could not read certificate revocation list \"%s\": %w", file, err)
		}
	}
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("could not read directory \"%s\": %w", dir, cause(err))
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue // a directory, or something else that is no list
		}
		if err := s.addRevocations(text); err != nil {
			return fmt.Errorf("could not read certificate revocation list \"%s\": %w", filepath.Join(dir, entry.Name()), err)
		}
	}
	return nil
}

// addRevocations adds the lists in a PEM text, which may hold other things.
func (s *tlsSettings) addRevocations(text []byte) error {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return err
		}
		s.revocations = append(s.revocations, list)
	}
	return nil
}

// checkRevocation checks a chain, the server's certificate first, against the
// lists. Every certificate needs a list of its issuer that is in force.
//
// Source: X509_V_FLAG_CRL_CHECK_ALL as set by initialize_SSL in
// src/interfaces/libpq/fe-secure-openssl.c, PostgreSQL 18.
func checkRevocation(chain []*x509.Certificate, lists []*x509.RevocationList) error {
	for i, certificate := range chain {
		issuer := chain[min(i+1, len(chain)-1)]
		found := false
		for _, list := range lists {
			if !bytes.Equal(list.RawIssuer, certificate.RawIssuer) || list.CheckSignatureFrom(issuer) != nil {
				continue
			}
			if !list.NextUpdate.IsZero() && list.NextUpdate.Before(time.Now()) {
				return errors.New("CRL has expired")
			}
			found = true
			for _, entry := range list.RevokedCertificateEntries {
				if entry.SerialNumber.Cmp(certificate.SerialNumber) == 0 {
					return errors.New("certificate revoked")
				}
			}
		}
		if !found {
			return errors.New("unable to get certificate CRL")
		}
	}
	return nil
}
