package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"basin/internal/conninfo"
	"basin/internal/usererr"
)

// sslRequestCode asks a server for TLS in place of a startup packet.
//
// Source: NEGOTIATE_SSL_CODE in src/include/libpq/pqcomm.h, PostgreSQL 18.
const sslRequestCode = 80877103

// alpn names the protocol within TLS. libpq has sent it since 17.
//
// Source: PG_ALPN_PROTOCOL in src/include/libpq/pqcomm.h, PostgreSQL 18.
const alpn = "postgresql"

// startTLS negotiates TLS on a connection. The connection that it returns can
// be the same one, if the server has no TLS and the method allows that.
//
// Source: CONNECTION_SSL_STARTUP in PQconnectPoll in
// src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (c *connector) startTLS(ctx context.Context, conn net.Conn, t target, m method, certificate *clientCertificate) (net.Conn, *failure) {
	if c.tls == nil {
		settings, err := loadTLSSettings(c.params, c.options.System)
		if err != nil {
			return nil, &failure{t, stop, err}
		}
		c.tls = settings
	}
	config, err := c.tls.config(t.host, certificate)
	if err != nil {
		return nil, &failure{t, stop, err}
	}
	direct := c.params.Value("sslnegotiation") == "direct"
	if !direct {
		switch answer, err := requestTLS(ctx, conn); {
		case err != nil:
			return nil, &failure{t, nextHost, systemError(err)}
		case answer == 'N' && m == tlsIfServer:
			return conn, nil
		case answer == 'N':
			return nil, &failure{t, stop, errors.New("server does not support SSL, but SSL was required")}
		case answer == 'E':
			return nil, &failure{t, stop, errors.New("server sent an error response during SSL exchange")}
		case answer != 'S':
			return nil, &failure{t, stop, fmt.Errorf("received invalid response to SSL negotiation: %c", answer)}
		}
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, &failure{t, nextMethod, handshakeError(err)}
	}
	if direct && secured.ConnectionState().NegotiatedProtocol != alpn {
		return nil, &failure{t, nextMethod, errors.New("direct SSL connection was established without ALPN protocol negotiation extension")}
	}
	return secured, nil
}

// requestTLS sends a request and returns the server's one byte. Reading just
// that byte makes sure that nothing sent in the clear is later taken for part
// of the protected stream.
func requestTLS(ctx context.Context, conn net.Conn) (answer byte, err error) {
	release := interruptible(ctx, conn)
	defer release()
	request := binary.BigEndian.AppendUint32(nil, 8)
	if _, err := conn.Write(binary.BigEndian.AppendUint32(request, sslRequestCode)); err != nil {
		return 0, err
	}
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, errors.New("server closed the connection unexpectedly")
		}
		return 0, err
	}
	return b[0], nil
}

// interruptible lets the end of ctx end what blocks on conn. The function that
// it returns ends that. If it returns false ctx has ended, and conn is of no
// more use; otherwise nothing has happened to conn and nothing will.
func interruptible(ctx context.Context, conn net.Conn) (release func() bool) {
	return context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // long ago; a closed connection does not block either
	})
}

// handshakeError words what went wrong. A certificate that does not hold gets
// libpq's words before Go's, since people look for those.
func handshakeError(err error) error {
	var verification *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.Is(err, errCertificate):
		return err
	case errors.As(err, &verification), errors.As(err, &unknown), errors.As(err, &invalid):
		return fmt.Errorf("SSL error: certificate verify failed: %w", err)
	case errors.Is(err, io.EOF):
		return errors.New("SSL SYSCALL error: EOF detected")
	}
	return fmt.Errorf("SSL error: %w", systemError(err))
}

// tlsSettings are what all TLS connections of a connector share.
type tlsSettings struct {
	base        tls.Config
	roots       *x509.CertPool // nil trusts any server
	revocations []*x509.RevocationList
	revoke      bool // a certificate needs a list that does not name it
	certificate *tls.Certificate
	fullName    bool // sslmode=verify-full
	sendName    bool // sslsni
	keyLog      *os.File
}

func (s *tlsSettings) close() {
	if s.keyLog != nil {
		s.keyLog.Close() // a log for debugging; nobody is to fail for it
	}
}

// loadTLSSettings reads the files that the parameters name, or else the usual
// ones in ~/.postgresql.
//
// Source: initialize_SSL in src/interfaces/libpq/fe-secure-openssl.c, PostgreSQL 18.
func loadTLSSettings(p conninfo.Params, sys conninfo.System) (*tlsSettings, error) {
	s := &tlsSettings{
		fullName: p.Value("sslmode") == "verify-full",
		sendName: p.Value("sslsni") == "1",
	}
	s.base.NextProtos = []string{alpn}
	s.base.MinVersion = tlsVersion(p.Value("ssl_min_protocol_version"))
	s.base.MaxVersion = tlsVersion(p.Value("ssl_max_protocol_version"))
	if err := s.loadRoots(p, sys); err != nil {
		return nil, err
	}
	if s.roots != nil {
		if err := s.loadRevocations(p, sys); err != nil {
			return nil, err
		}
	}
	if p.Value("sslcertmode") != "disable" {
		var err error
		if s.certificate, err = loadClientCertificate(p, sys); err != nil {
			return nil, err
		}
	}
	if name := p.Value("sslkeylogfile"); name != "" {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("could not open SSL key logging file \"%s\": %w", name, cause(err))
		}
		s.keyLog, s.base.KeyLogWriter = f, f
	}
	return s, nil
}

// tlsVersion returns Go's number for libpq's name; the name has been checked.
func tlsVersion(name string) uint16 {
	switch strings.ToLower(name) {
	case "tlsv1":
		return tls.VersionTLS10
	case "tlsv1.1":
		return tls.VersionTLS11
	case "tlsv1.2":
		return tls.VersionTLS12
	case "tlsv1.3":
		return tls.VersionTLS13
	}
	return 0 // as Go has it
}

// dotPostgresql returns a file that libpq looks for without being told, empty
// if it is not there.
func dotPostgresql(sys conninfo.System, name string) string {
	if sys.Home == "" {
		return ""
	}
	file := filepath.Join(sys.Home, ".postgresql", name)
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

// loadRoots reads the authorities to trust. If there are any, every server
// must have a certificate by them, whatever sslmode says.
func (s *tlsSettings) loadRoots(p conninfo.Params, sys conninfo.System) error {
	file := p.Value("sslrootcert")
	if file == "system" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return fmt.Errorf("could not load system root certificate paths: %w", err)
		}
		s.roots = roots
		return nil
	}
	if file == "" {
		file = dotPostgresql(sys, "root.crt")
	}
	var text []byte
	err := os.ErrNotExist
	if file != "" {
		text, err = os.ReadFile(file)
	}
	switch {
	case err == nil:
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("could not read root certificate file \"%s\": %w", file, cause(err))
	case strings.HasPrefix(p.Value("sslmode"), "verify-"):
		if file == "" {
			file = filepath.Join(sys.Home, ".postgresql", "root.crt")
		}
		return usererr.Hinted(
			"either provide the file, use the system's trusted roots with sslrootcert=system, or change sslmode to disable server certificate verification",
			"root certificate file \"%s\" does not exist", file)
	default:
		return nil // not there, and nobody insists
	}
	s.roots = x509.NewCertPool()
	if !s.roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("could not read root certificate file \"%s\": it holds no certificate", file)
	}
	return nil
}

// config returns the configuration for one connection. What Go would check is
// done in verify: libpq's levels are others than Go's.
func (s *tlsSettings) config(h conninfo.Host, certificate *clientCertificate) (*tls.Config, error) {
	if s.fullName && h.Name == "" {
		return nil, errors.New("host name must be specified for a verified SSL connection")
	}
	config := s.base.Clone()
	config.InsecureSkipVerify = true
	if s.sendName && net.ParseIP(h.Name) == nil {
		config.ServerName = h.Name
	}
	certificate.certificate = s.certificate
	config.GetClientCertificate = certificate.choose
	if s.roots != nil {
		config.VerifyConnection = func(state tls.ConnectionState) error { return s.verify(state.PeerCertificates, h.Name) }
	}
	return config, nil
}

// errCertificate is what verify's own findings are.
var errCertificate = errors.New("SSL error: certificate verify failed")

// verify checks a server's certificates.
func (s *tlsSettings) verify(given []*x509.Certificate, host string) error {
	if len(given) == 0 {
		return errors.New("certificate could not be obtained")
	}
	others := x509.NewCertPool()
	for _, certificate := range given[1:] {
		others.AddCert(certificate)
	}
	chains, err := given[0].Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: others})
	if err != nil {
		return fmt.Errorf("%w: %w", errCertificate, err)
	}
	if s.revoke {
		// One chain that holds is enough.
		var failed error
		if !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool {
			failed = checkRevocation(chain, s.revocations)
			return failed == nil
		}) {
			return fmt.Errorf("%w: %w", errCertificate, failed)
		}
	}
	if s.fullName && !nameMatches(given[0], host) {
		return fmt.Errorf("%w: server certificate for \"%s\" does not match host name \"%s\"", errCertificate, certificateName(given[0]), host)
	}
	return nil
}

// nameMatches reports whether a certificate is for a host. One that names no
// host in the modern place is looked up in the old one, as libpq does.
//
// Source: pq_verify_peer_name_matches_certificate in
// src/interfaces/libpq/fe-secure-common.c, PostgreSQL 18.
func nameMatches(certificate *x509.Certificate, host string) bool {
	if len(certificate.DNSNames) > 0 || len(certificate.IPAddresses) > 0 {
		return certificate.VerifyHostname(host) == nil
	}
	name := certificate.Subject.CommonName
	if strings.EqualFold(name, host) {
		return true
	}
	// A star stands for one label, and for the first one only.
	suffix, ok := strings.CutPrefix(name, "*")
	_, rest, _ := strings.Cut(host, ".")
	return ok && strings.HasPrefix(suffix, ".") && net.ParseIP(host) == nil && rest != "" && strings.EqualFold(suffix[1:], rest)
}

// certificateName returns the first name of a certificate, for errors.
func certificateName(certificate *x509.Certificate) string {
	if len(certificate.DNSNames) > 0 {
		return certificate.DNSNames[0]
	}
	return certificate.Subject.CommonName
}

// cause drops the operation and the file name, which the message tells, from
// an error of the os package.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return systemError(path.Err)
	}
	return err
}
