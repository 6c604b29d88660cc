// Package accept knows the server's way to a client: from a connection that has
// just been accepted to a session that is authenticated and idle.
//
// It is for clients what PostgreSQL is, to the texts of the errors that they
// get before a session begins. It knows TLS, SCRAM, and the rules and users of
// package hba. It runs no command and knows none, decides nothing about what a
// user may do, reads no file, and listens on nothing: the caller does.
package accept

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"basin/internal/hba"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Options say whom to let in, and how. Rules, Verifier and Secret are needed.
type Options struct {
	// TLS returns the configuration with the server's certificate, of a new one
	// at any time. It is not changed. If it has ClientCAs, clients are asked for
	// certificates. Nil, and one that returns nil, is no TLS.
	TLS func() *tls.Config

	// Rules returns the rules of the moment. Nil refuses everyone.
	Rules func() hba.Rules

	// Verifier returns the SCRAM secret of a user, in PostgreSQL's form. Of a
	// user who has none, or another kind of it, ok does not matter: that user
	// cannot log in with a password. It should take as long for one as for the
	// other. The text of its errors is not shown to clients.
	Verifier func(ctx context.Context, user string) (verifier string, ok bool, err error)

	// Iterations returns the number of iterations that most secrets have, which
	// those who are no users are told. Nil, and zero, is 4096, PostgreSQL's.
	Iterations func() int

	// Secret makes up the salt of those who are no users, who could be told from
	// users if it were another each time. It is at least 16 random bytes, known
	// to nobody else, and best stays as it is when the program is started again.
	Secret []byte

	// Admit decides about a session whose user is authenticated, and returns the
	// settings to report to the client. It may change the session's PID and Key
	// before the client gets them; Conn is not set yet. It may take its time. An error refuses: with the SQLSTATE of a
	// method SQLState() string if the error has one, the detail and the hint of
	// package usererr, and otherwise its text. Nil admits, and reports nothing.
	Admit func(ctx context.Context, s *Session) ([]Parameter, error)

	// Cancel is told of a request to cancel what a session does. It has to
	// compare the key in constant time. Nil ignores them.
	Cancel func(pid uint32, key []byte)

	// Timeout is for all that a client has to do until it is authenticated, and
	// once more until it has taken the answer. Zero is 10 s.
	Timeout time.Duration
}

// minSecret is the least number of bytes of Options.Secret.
const minSecret = 16

// Parameter is a setting with its value.
type Parameter struct{ Name, Value string }

// Replication is what a client wants to do.
//
// Source: am_walsender and am_db_walsender in src/backend/replication/walsender.c, PostgreSQL 18.
type Replication int

// What a client may want to do.
const (
	None     Replication = iota // an ordinary connection
	Physical                    // replication of the cluster
	Database                    // replication of one database, and SQL
)

// Session is a connection whose client has been told that it is connected, and
// has said nothing since.
type Session struct {
	Conn net.Conn // a *tls.Conn with TLS; no byte of what the client says next was read

	User            string
	Database        string // empty for physical replication
	Replication     Replication
	ApplicationName string            // printable ASCII
	Parameters      map[string]string // the others of the startup packet, as they were given
	ProtocolMinor   int               // of protocol 3: 0 to 2

	PID uint32 // of no process: random, up to 31 bits
	Key []byte // to cancel with; 4 bytes before protocol 3.2, 4 to 256 from then on

	TLS           bool
	CertificateCN string     // of a client's certificate that is verified; empty without
	Method        hba.Method // by which the user was authenticated
	Address       netip.Addr // of the client; the zero value if it has none
}

// ErrCancel is what Accept returns for a connection that asked for nothing but
// to cancel what another one does.
var ErrCancel = errors.New("request to cancel")

// Accept brings a client in. The session's connection is conn, perhaps inside
// TLS. In case of an error conn is closed, and the client has been told what it
// may know of it: that is the *Refusal in the error's tree, if there is one.
// That of a client that left before it said anything, or when it was asked for
// a password, is io.EOF: clients do so to see whether a server is there, or to
// ask the user. No error tells a secret. The end of ctx closes conn too, until
// Accept returns.
//
// Source: BackendInitialize in src/backend/tcop/backend_startup.c and
// InitPostgres in src/backend/utils/init/postinit.c, PostgreSQL 18.
func Accept(ctx context.Context, conn net.Conn, o Options) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	g := &guest{conn: conn, options: o, session: Session{Address: addressOf(conn)}}
	err := g.enter(ctx)
	if !stop() {
		err = context.Cause(ctx) // too late, even if all went well
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		if r := (*Refusal)(nil); !errors.As(err, &r) && errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no session in time: %w", err)
		}
		g.sayGoodbye(err)
		return nil, err
	}
	g.session.Conn = g.conn
	return &g.session, nil
}

// guest is a client that is not in yet.
type guest struct {
	conn    net.Conn // inside TLS as soon as there is any
	options Options
	session Session
	old     bool // it speaks a protocol before 3
	mute    bool // it is not to be answered

	sum         []byte // of the server's certificate, to bind the channel by; nil if it cannot
	authorities bool   // the server knows whose certificates of clients to believe
	verified    bool   // the client has one of those
}

// enter goes all the way.
func (g *guest) enter(ctx context.Context) error {
	if len(g.options.Secret) < minSecret {
		return errors.New("there is no secret for those who are no users")
	}
	if err := g.extend(); err != nil {
		return err
	}
	packet, err := g.introduce(ctx)
	if err != nil {
		return err
	}
	if err := g.readStartup(packet); err != nil {
		return err
	}
	if err := g.authenticate(ctx); err != nil {
		return err
	}
	if err := g.giveKey(); err != nil {
		return err
	}
	var parameters []Parameter
	if g.options.Admit != nil {
		if err := g.conn.SetDeadline(time.Time{}); err != nil {
			return err
		}
		if parameters, err = g.options.Admit(ctx, &g.session); err != nil {
			return refusalOf(err)
		}
		if err := g.extend(); err != nil {
			return err
		}
	}
	var answer []pgproto3.BackendMessage
	for _, p := range parameters {
		answer = append(answer, &pgproto3.ParameterStatus{Name: p.Name, Value: p.Value})
	}
	return g.send(append(answer,
		&pgproto3.BackendKeyData{ProcessID: g.session.PID, SecretKey: g.session.Key},
		&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
}

// extend gives the client time.
func (g *guest) extend() error {
	return g.conn.SetDeadline(time.Now().Add(g.options.timeout()))
}

func (o Options) timeout() time.Duration { return cmp.Or(o.Timeout, 10*time.Second) }

// giveKey makes what the client may cancel with. As many of PostgreSQL's
// clients print the PID as a number with a sign, it has none.
//
// Source: MyCancelKeyLength in BackendMain and InitProcess, PostgreSQL 18.
func (g *guest) giveKey() error {
	length := 4
	if g.session.ProtocolMinor >= 2 {
		length = 32 // MAX_CANCEL_KEY_LENGTH
	}
	b := make([]byte, 4+length)
	if _, err := rand.Read(b); err != nil {
		return err
	}
	g.session.PID = max(binary.BigEndian.Uint32(b)>>1, 1)
	g.session.Key = b[4:]
	return nil
}

// send writes messages, all at once.
func (g *guest) send(messages ...pgproto3.BackendMessage) error {
	var b []byte
	var err error
	for _, m := range messages {
		if b, err = m.Encode(b); err != nil {
			return err
		}
	}
	_, err = g.conn.Write(b)
	return err
}

// read fills b.
func (g *guest) read(b []byte) error {
	_, err := io.ReadFull(g.conn, b)
	return err
}

// addressOf returns where a client is, if it is at an address.
func addressOf(conn net.Conn) netip.Addr {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
