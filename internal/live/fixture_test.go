package live

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/backup"
	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgtest"
	"basin/internal/plain"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// session is a Session over pgconn.
type session struct{ conn *pgconn.PgConn }

func (s session) Query(ctx context.Context, sql string) ([][][]byte, error) {
	results, err := s.conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, err
	}
	return results[len(results)-1].Rows, nil
}

func (s session) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.conn.Close(ctx)
}

func newSession(t *testing.T, s *pgtest.Server) session { return session{s.Connect(t, "")} }

// slotPin is a Pin that is a temporary slot.
type slotPin struct {
	session
	slot string
	done chan struct{}
	err  error
}

func (p *slotPin) Slot() string          { return p.slot }
func (p *slotPin) Done() <-chan struct{} { return p.done }
func (p *slotPin) Err() error            { return p.err }

// pinOf makes a slot on a server.
func pinOf(t *testing.T, s *pgtest.Server) Pin {
	t.Helper()
	p := &slotPin{session: newSession(t, s), done: make(chan struct{})}
	p.slot = fmt.Sprintf("pin_%d", p.conn.PID())
	if _, err := p.Query(t.Context(), "SELECT pg_create_physical_replication_slot('"+p.slot+"', true, true)"); err != nil {
		t.Fatal(err)
	}
	return p
}

// notices are what a source tells.
type notices struct {
	mu  sync.Mutex
	all []string
}

func (n *notices) add(notice Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, notice.Severity+": "+notice.Message)
}

// addText adds what the server says.
func (n *notices) addText(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, strings.TrimSpace(strings.Replace(text, ":  ", ": ", 1)))
}

// backUp returns a source of a server, with a fast checkpoint and a pin, that is closed when
// the test ends.
func backUp(t *testing.T, s *pgtest.Server, o Options) *Source {
	t.Helper()
	o.DataDir, o.FastCheckpoint, o.NoWait = s.DataDir, true, true
	if o.Session == nil {
		o.Session = newSession(t, s)
	}
	if o.Pin == nil {
		o.Pin = pinOf(t, s)
	}
	src := New(o)
	t.Cleanup(func() {
		if err := src.Close(); err != nil && !t.Failed() {
			t.Logf("close: %v", err)
		}
	})
	return src
}

// taken is a member and what is in it.
type taken struct {
	m       backup.Member
	content string // of small files
	sum     [32]byte
}

// key names a member.
func (k taken) key() string { return fmt.Sprintf("%d:%s", k.m.Tablespace, k.m.Path) }

// take reads a whole source.
func take(t *testing.T, src backup.Source) (backup.Start, []taken, wal.Position) {
	t.Helper()
	start, err := src.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []taken
	for {
		m, r, err := src.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		k := taken{m: m}
		if r != nil && m.Kind != backup.Dir {
			hash := sha256.New()
			var keep strings.Builder
			n, err := io.Copy(io.MultiWriter(hash, &firstBytes{&keep}), r)
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind == backup.File && n != m.Size {
				t.Errorf("%s: %d bytes of %d", m.Path, n, m.Size)
			}
			k.content = keep.String()
			hash.Sum(k.sum[:0])
			if c, ok := r.(io.Closer); ok && m.Apart {
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		all = append(all, k)
	}
	end, err := src.End(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return start, all, end
}

// firstBytes keeps what is not too much.
type firstBytes struct{ b *strings.Builder }

func (f *firstBytes) Write(p []byte) (int, error) {
	if f.b.Len() < 1<<20 {
		f.b.Write(p)
	}
	return len(p), nil
}

// theirs takes a backup as the server itself sends it.
func theirs(t *testing.T, s *pgtest.Server, command protocol.BaseBackup, parent string, said *notices) (backup.Start, []taken, wal.Position) {
	t.Helper()
	return take(t, serverSource(t, s, command, parent, said))
}

// serverSource returns the server itself as a source.
func serverSource(t *testing.T, s *pgtest.Server, command protocol.BaseBackup, parent string, said *notices) backup.Source {
	t.Helper()
	params, err := conninfo.Parse(s.ConnString() + " replication=true")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := connect.Connect(t.Context(), connect.Options{Params: params})
	if err != nil {
		t.Fatal(err)
	}
	conn := client.NewConn(opened)
	conn.Notice = func(n *pgconn.Notice) { said.addText(connect.NoticeText(n.Severity, n.Message, n.Detail, n.Hint)) }
	command.FastCheckpoint, command.NoWait = true, true
	o := client.BaseBackupOptions{Command: command, Segment: wal.DefaultSegmentSize, Progress: new(backup.Progress)}
	if parent != "" {
		f, err := os.Open(parent)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		o.Manifest = f
	}
	src := client.NewBaseBackup(conn, o)
	t.Cleanup(func() { src.Close() })
	return src
}

// toDir copies a source to a new data directory.
func toDir(t *testing.T, src backup.Source, workers int) (dir string, err error) {
	t.Helper()
	work := pgtest.TempDir(t)
	dir = filepath.Join(work, "data")
	claim, err := localfs.ClaimDir(dir, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Close()
	moved := make(map[string]string)
	sink := plain.NewSink(plain.Options{Dir: claim, TablespaceMap: moved, Sync: localfs.Syncer{Off: true}})
	defer sink.Close()
	err = backup.Copy(t.Context(), sink, mapping{src, moved, work}, backup.Options{Workers: workers})
	pgtest.Own(t, work)
	return dir, err
}

// mapping is a source of which all tablespaces go to other places.
type mapping struct {
	backup.Source
	moved map[string]string
	to    string
}

func (m mapping) Begin(ctx context.Context) (backup.Start, error) {
	start, err := m.Source.Begin(ctx)
	for _, t := range start.Tablespaces {
		if filepath.IsAbs(t.Location) {
			m.moved[t.Location] = filepath.Join(m.to, fmt.Sprint("tablespace-", t.OID))
		}
	}
	return start, err
}

// openManifest opens a manifest.
func openManifest(t *testing.T, path string) *manifest.Catalog {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := manifest.NewCatalog(f, info.Size(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { catalog.Close(); f.Close() })
	return catalog
}

// tool runs a program of PostgreSQL, which is to succeed.
func tool(t *testing.T, major int, program string, args ...string) {
	t.Helper()
	if out, err := pgtest.Command(t, major, program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
}
