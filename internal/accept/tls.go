package accept

import (
	"context"
	"crypto"
	_ "crypto/sha256" // for certificates that are signed with it
	_ "crypto/sha512" // and with it
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"strings"
)

// alpn names the protocol inside TLS.
//
// Source: PG_ALPN_PROTOCOL in src/include/libpq/pqcomm.h, PostgreSQL 18.
const alpn = "postgresql"

// tlsConfig returns the configuration of the moment; nil is no TLS.
func (g *guest) tlsConfig() *tls.Config {
	if g.options.TLS == nil {
		return nil
	}
	return g.options.TLS()
}

// answerTLS answers a client that asks for TLS, and takes it there if there is
// any to be had. The client has to wait for the answer: what it, or somebody on
// the way, has sent before would otherwise count as said inside TLS. As nothing
// is read ahead here, that is now the beginning of its handshake, which it is not.
func (g *guest) answerTLS(ctx context.Context, config *tls.Config) error {
	if config == nil {
		_, err := g.conn.Write([]byte{'N'})
		return err
	}
	if _, err := g.conn.Write([]byte{'S'}); err != nil {
		return err
	}
	var head [1]byte
	if err := g.read(head[:]); err != nil {
		return fmt.Errorf("could not accept SSL connection: %w", err)
	}
	if head[0] != helloOfTLS {
		r := refuse(codeProtocolViolation, "received unencrypted data after SSL request")
		r.Detail = "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."
		return r
	}
	return g.secure(ctx, config, head[:])
}

// secureDirectly takes a client to TLS that begins with it. It has to say that
// it is PostgreSQL's protocol that it means: no other can then be led here.
//
// Source: ProcessSSLStartup in src/backend/tcop/backend_startup.c, PostgreSQL 18.
func (g *guest) secureDirectly(ctx context.Context, config *tls.Config, head []byte) error {
	g.mute = true // what it hears until it is secured is no message
	if config == nil {
		return errors.New("direct SSL connection request, and there is no TLS")
	}
	if err := g.secure(ctx, config, head); err != nil {
		return err
	}
	if g.conn.(*tls.Conn).ConnectionState().NegotiatedProtocol != alpn {
		return errors.New("received direct SSL connection request without ALPN protocol negotiation extension")
	}
	g.mute = false
	return nil
}

// secure makes the handshake, of which head was read already.
//
// Source: be_tls_init and be_tls_open_server in
// src/backend/libpq/be-secure-openssl.c, PostgreSQL 18.
func (g *guest) secure(ctx context.Context, config *tls.Config, head []byte) error {
	config = config.Clone()
	config.NextProtos = []string{alpn}
	config.SessionTicketsDisabled = true // each session proves anew who it is
	if config.ClientCAs != nil && config.ClientAuth < tls.VerifyClientCertIfGiven {
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	var shown *tls.Certificate
	choose, certificates := config.GetCertificate, config.Certificates
	config.Certificates = nil // for the function to be called in any case
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (chosen *tls.Certificate, err error) {
		shown, err = chooseCertificate(hello, choose, certificates)
		return shown, err
	}
	secured := tls.Server(&prefixed{g.conn, head}, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		g.mute = true
		return fmt.Errorf("could not accept SSL connection: %w", err)
	}
	g.conn, g.session.TLS, g.authorities = secured, true, config.ClientCAs != nil
	state := secured.ConnectionState()
	if shown != nil && len(shown.Certificate) > 0 {
		certificate, err := x509.ParseCertificate(shown.Certificate[0])
		if err != nil {
			return fmt.Errorf("the server's certificate: %w", err)
		}
		g.sum = endPoint(certificate)
	}
	if len(state.VerifiedChains) > 0 {
		g.verified = true
		g.session.CertificateCN = commonName(state.PeerCertificates[0])
	}
	return nil
}

// chooseCertificate does what crypto/tls does with a configuration that has
// this function and these certificates.
func chooseCertificate(hello *tls.ClientHelloInfo, choose func(*tls.ClientHelloInfo) (*tls.Certificate, error), from []tls.Certificate) (*tls.Certificate, error) {
	if choose != nil && (hello.ServerName != "" || len(from) == 0) {
		if c, err := choose(hello); c != nil || err != nil {
			return c, err
		}
	}
	if len(from) == 0 {
		return nil, errors.New("the server has no certificate")
	}
	for i := range from {
		if hello.SupportsCertificate(&from[i]) == nil {
			return &from[i], nil
		}
	}
	return &from[0], nil
}

// prefixed is a connection of which a few bytes were read too early.
type prefixed struct {
	net.Conn
	head []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.head) == 0 || len(b) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.head)
	p.head = p.head[n:]
	return n, nil
}

// endPoint returns the hash of the server's certificate that a channel is bound
// by: tls-server-end-point of RFC 5929. It is nil for a certificate whose
// signature has no hash of its own; no channel can be bound by that.
//
// Source: be_tls_get_certificate_hash in src/backend/libpq/be-secure-openssl.c, PostgreSQL 18.
func endPoint(certificate *x509.Certificate) []byte {
	var hash crypto.Hash
	switch certificate.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1,
		x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256, x509.DSAWithSHA256:
		hash = crypto.SHA256
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	default:
		return nil
	}
	h := hash.New()
	h.Write(certificate.Raw)
	return h.Sum(nil)
}

// commonName returns the first common name of a certificate; empty if it has
// none, or one with a zero byte, after which others would not read on.
func commonName(certificate *x509.Certificate) string {
	for _, name := range certificate.Subject.Names {
		if name.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
			text, _ := name.Value.(string)
			if strings.IndexByte(text, 0) >= 0 {
				return ""
			}
			return text
		}
	}
	return ""
}
