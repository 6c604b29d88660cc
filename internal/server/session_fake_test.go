package server

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/accept"
	"basin/internal/backup"
	"basin/internal/hba"
	"basin/internal/wal"
)

// fakeCluster is a cluster whose backups, and whose answers to what is relayed, a test
// decides on. What it hands out is counted.
type fakeCluster struct {
	log      *shelf
	describe func() error
	begin    func(ctx context.Context) error // of a backup; nil: at once
	size     int64                           // of a backup's only file; less than zero has no end
	hangs    bool                            // it answers nothing that is relayed

	mu        sync.Mutex
	open      int // backups and connections that were not closed
	backups   int // that began
	relayed   []string
	requested []BackupRequest
}

func newFakeCluster() *fakeCluster { return &fakeCluster{log: newShelf(16*mib, 1), size: 100 << 10} }

const fakeSystemID = 7000000000000000001

func (c *fakeCluster) Describe(context.Context) (Description, error) {
	if c.describe != nil {
		if err := c.describe(); err != nil {
			return Description{}, err
		}
	}
	return Description{
		ServerVersion: "18.6", Version: 180006, SystemID: fakeSystemID, SegmentSize: 16 * mib,
		Settings: map[string]string{"TimeZone": "UTC", "server_encoding": "UTF8"}, Flushed: 16 * mib,
	}, nil
}

func (c *fakeCluster) Log() Log { return c.log }

// count notes what was opened or closed.
func (c *fakeCluster) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open += n
}

// left returns how many things are open.
func (c *fakeCluster) left() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

func (c *fakeCluster) Backup(_ context.Context, r BackupRequest) (backup.Source, error) {
	c.count(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requested = append(c.requested, r)
	return &fakeSource{cluster: c}, nil
}

// fakeSource is a backup of one file.
type fakeSource struct {
	cluster *fakeCluster
	sent    int
	closed  sync.Once
}

func (s *fakeSource) Begin(ctx context.Context) (backup.Start, error) {
	s.cluster.mu.Lock()
	s.cluster.backups++
	s.cluster.mu.Unlock()
	if s.cluster.begin != nil {
		if err := s.cluster.begin(ctx); err != nil {
			return backup.Start{}, err
		}
	}
	return backup.Start{Position: wal.Position{Timeline: 1, LSN: 16 * mib}, ServerVersion: 180006, SegmentSize: 16 * mib}, nil
}

func (s *fakeSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	if s.sent++; s.sent > 1 && s.cluster.size >= 0 {
		return backup.Member{}, nil, io.EOF
	}
	size := max(s.cluster.size, 0)
	if s.cluster.size < 0 {
		size = 1 << 20
	}
	m := backup.Member{Path: "file", Kind: backup.File, Size: size, Mode: 0o600, ModTime: time.Unix(0, 0)}
	return m, io.LimitReader(endless{ctx}, size), ctx.Err()
}

// endless has bytes until its context ends.
type endless struct{ ctx context.Context }

func (e endless) Read(p []byte) (int, error) { return len(p), e.ctx.Err() }

func (s *fakeSource) End(context.Context) (wal.Position, error) {
	return wal.Position{Timeline: 1, LSN: 17 * mib}, nil
}

func (s *fakeSource) Close() error {
	s.closed.Do(func() { s.cluster.count(-1) })
	return nil
}

func (c *fakeCluster) Upstream(context.Context, Client) (Upstream, error) {
	c.count(1)
	return &fakeUpstream{cluster: c, answers: make(chan []byte, 1<<10), gone: make(chan struct{})}, nil
}

// fakeUpstream answers queries with an error, and those that begin a stream with a COPY that
// ends when the client ends it.
type fakeUpstream struct {
	cluster *fakeCluster
	answers chan []byte
	gone    chan struct{}
	message []byte
	closed  sync.Once
}

func (u *fakeUpstream) Send(p []byte) error {
	var answers []pgproto3.BackendMessage
	switch p[0] {
	case 'Q':
		text := string(p[5 : len(p)-1])
		u.cluster.mu.Lock()
		u.cluster.relayed = append(u.cluster.relayed, text)
		u.cluster.mu.Unlock()
		switch {
		case u.cluster.hangs:
		case strings.HasPrefix(text, "START_REPLICATION"):
			answers = append(answers, &pgproto3.CopyBothResponse{}, &pgproto3.CopyData{Data: []byte("w of a log")})
		default:
			answers = append(answers, &pgproto3.ErrorResponse{Severity: "ERROR", Code: "42704", Message: "no such thing"}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
	case 'c':
		answers = append(answers, &pgproto3.CopyDone{}, &pgproto3.CommandComplete{CommandTag: []byte("COPY 0")}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	case 'f':
		answers = append(answers, &pgproto3.ErrorResponse{Severity: "ERROR", Code: "57014", Message: "COPY failed"}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	}
	for _, a := range answers {
		b, err := a.Encode(nil)
		if err != nil {
			return err
		}
		select {
		case u.answers <- b:
		case <-u.gone:
			return net.ErrClosed
		}
	}
	return nil
}

func (u *fakeUpstream) Next(ctx context.Context) (byte, error) {
	select {
	case u.message = <-u.answers:
		return u.message[0], nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-u.gone:
		return 0, errors.New("closed")
	}
}

func (u *fakeUpstream) Pass(_ context.Context, w io.Writer) error {
	_, err := w.Write(u.message)
	return err
}

func (u *fakeUpstream) Waiting() bool { return len(u.answers) > 0 }

func (u *fakeUpstream) Close() error {
	u.closed.Do(func() { u.cluster.count(-1); close(u.gone) })
	return nil
}

// pipes is a listener in memory.
type pipes struct {
	calls  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{calls: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.calls:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return local.RemoteAddr() }

// dial connects to what listens.
func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.calls <- fromLocal{theirs}
	return ours
}

// fromLocal is a connection that comes from this machine.
type fromLocal struct{ net.Conn }

func (fromLocal) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

var local fromLocal

// trusting returns options of a server that trusts everyone.
func trusting(t testing.TB, c Cluster) Options {
	t.Helper()
	rules, err := hba.Parse("rules", []byte("host all,replication all 127.0.0.1/32 trust"), hba.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Cluster: c, TempDir: t.TempDir(),
		Accept: accept.Options{Rules: func() hba.Rules { return rules }, Secret: make([]byte, 32)},
	}
}

// running is a server that answers in memory.
type running struct {
	*Server
	*pipes
	stop context.CancelFunc
	done chan struct{}
}

// run starts a server. It is to be ended.
func run(t testing.TB, o Options) *running {
	t.Helper()

	ctx, stop := context.WithCancel(context.Background())
	r := &running{Server: New(o), pipes: newPipes(), stop: stop, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := r.Serve(ctx, r.pipes); err != nil {
			t.Error(err)
		}
	}()
	return r
}

// end ends the server and waits for it.
func (r *running) end() {
	r.stop()
	<-r.done
}

// startup returns the packet that a session begins with.
func startup(t testing.TB, parameters ...string) []byte {
	t.Helper()
	m := pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersionNumber, Parameters: map[string]string{"user": "postgres"}}
	for i := 0; i < len(parameters); i += 2 {
		m.Parameters[parameters[i]] = parameters[i+1]
	}
	p, err := m.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// guest is a client that says what a test has it say. What it is told is collected by a
// goroutine, unless it does not read.
type guest struct {
	net.Conn
	front *pgproto3.Frontend
	key   pgproto3.BackendKeyData
	heard chan pgproto3.BackendMessage // closed at the end

	listens bool // what comes goes to heard, and is for nobody else to read
}

// enter connects a client, which is let in.
func enter(t testing.TB, conn net.Conn, parameters ...string) *guest {
	t.Helper()
	if len(parameters) == 0 {
		parameters = []string{"replication", "true"}
	}
	g := &guest{Conn: conn, front: pgproto3.NewFrontend(conn, conn), heard: make(chan pgproto3.BackendMessage, 1<<16)}
	if _, err := conn.Write(startup(t, parameters...)); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := g.front.Receive()
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *pgproto3.BackendKeyData:
			g.key = pgproto3.BackendKeyData{ProcessID: m.ProcessID, SecretKey: append([]byte(nil), m.SecretKey...)}
		case *pgproto3.ErrorResponse:
			t.Fatalf("not let in: %s %s", m.Code, m.Message)
		case *pgproto3.ReadyForQuery:
			return g
		}
	}
}

// listen collects what the client is told, but for the bytes of copies.
func (g *guest) listen() {
	g.listens = true
	go func() {
		defer close(g.heard)
		for {
			m, err := g.front.Receive()
			if err != nil {
				return
			}
			switch m := m.(type) {
			case *pgproto3.ErrorResponse:
				e := *m
				g.heard <- &e
			case *pgproto3.CopyData:
			default:
				g.heard <- m
			}
		}
	}()
}

// say sends bytes.
func (g *guest) say(t testing.TB, p []byte) {
	t.Helper()
	if _, err := g.Write(p); err != nil {
		t.Fatal(err)
	}
}

// query returns a simple query.
func query(text string) []byte { return queryMessage(text) }

// answer returns the SQLSTATE of the error that a command ends with, if it ends with one, and
// whether another one may follow.
func (g *guest) answer() (code string, ready bool) {
	for m := range g.heard {
		switch m := m.(type) {
		case *pgproto3.ErrorResponse:
			code = m.Code
		case *pgproto3.ReadyForQuery:
			return code, true
		}
	}
	return code, false
}

// waitFor waits for a message of a type.
func waitFor[T pgproto3.BackendMessage](t testing.TB, g *guest) {
	t.Helper()
	for m := range g.heard {
		if _, ok := m.(T); ok {
			return
		}
	}
	t.Fatal("the connection has ended")
}
