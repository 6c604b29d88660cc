package client

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sockets returns both ends of a connection, one of them taken over.
func sockets(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours = newSocket(dialed)
	if ours == dialed {
		t.Fatal("not taken over")
	}
	_ = theirs.SetDeadline(time.Now().Add(20 * time.Second))
	_ = ours.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() {
		_ = ours.Close()
		_ = theirs.Close()
	})
	return ours, theirs
}

// eventually waits until something holds, for as long as the connections of a test last.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// awaitReader waits until a socket is being read.
func awaitReader(t *testing.T, conn net.Conn) {
	t.Helper()
	s := conn.(*socket)
	eventually(t, "it is read", func() bool {
		if s.using.TryLock() {
			s.using.Unlock()
			return false
		}
		return true
	})
}

// queued returns how many bytes of a connection the system has, below TLS if there is any.
func queued(t *testing.T, conn net.Conn) (n int) {
	t.Helper()
	if s, ok := conn.(*socket); ok {
		n, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	raw, err := conn.(layered).NetConn().(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	controlErr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	if err := errors.Join(controlErr, err); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSocketCarriesMoreThanItHolds(t *testing.T) {
	ours, theirs := sockets(t)
	want := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18)
	for _, pair := range [][2]net.Conn{{ours, theirs}, {theirs, ours}} {
		from, to := pair[0], pair[1]
		written := make(chan error)
		go func() {
			_, err := from.Write(want)
			written <- err
		}()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(to, got); err != nil {
			t.Fatal(err)
		}
		if err := <-written; err != nil || !bytes.Equal(got, want) {
			t.Fatalf("not what was written: %v", err)
		}
	}
	_ = theirs.Close()
	if n, err := ours.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if _, err := ours.Write(want); err == nil {
		t.Error("written to a connection that has ended")
	}
}

func TestSocketKeepsDeadlines(t *testing.T) {
	ours, theirs := sockets(t)
	read := func() error {
		_, err := ours.Read(make([]byte, 10))
		return err
	}
	begun := time.Now()
	_ = ours.SetReadDeadline(begun.Add(50 * time.Millisecond))
	if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) < 50*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
	// What comes later goes through.
	_ = ours.SetReadDeadline(time.Time{})
	if _, err := theirs.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Error(err)
	}
	ended := make(chan error)
	go func() { ended <- read() }()
	awaitReader(t, ours)
	_ = ours.SetReadDeadline(longAgo)
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("interrupted: %v", err)
	}
	_ = ours.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := ours.Write(make([]byte, 16<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 {
		t.Errorf("nobody reads: %d, %v", n, err)
	}
}

func TestSocketEndsWhatWaits(t *testing.T) {
	ours, _ := sockets(t)
	_ = ours.SetDeadline(time.Time{})
	ended := make(chan error)
	go func() {
		_, err := ours.Read(make([]byte, 10))
		ended <- err
	}()
	awaitReader(t, ours)
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := ours.Write([]byte("a")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if err := ours.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	_ = ours.SetReadDeadline(longAgo) // touches no file that has the number now
}

// overTLS returns both ends of a connection with TLS, ours and the server's.
func overTLS(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client := tls.Client(dialed, &tls.Config{InsecureSkipVerify: true})
	server := tls.Server(accepted, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: private}}})
	done := make(chan error)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	return client, server
}

// TestReadBringsAllThatIsThere is what one flush for many commits depends on: with TLS
// each message is a record, and a plain read brings one of them.
func TestReadBringsAllThatIsThere(t *testing.T) {
	const messages, size = 100, 300
	connections := map[string]func(*testing.T) (net.Conn, net.Conn){"socket": sockets, "TLS": overTLS}
	for name, connected := range connections {
		t.Run(name, func(t *testing.T) {
			ours, theirs := connected(t)
			v := vigil{
				conn: newConn(ours), progress: new(ReceiveProgress), interval: time.Second,
				asked: func() error { return nil }, report: func(bool) error { return nil },
			}
			defer v.begin(t.Context())()
			for round := range 2 { // what was read with a deadline that is past goes on afterwards
				for range messages {
					if _, err := theirs.Write(make([]byte, size)); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, "all of it has come", func() bool { return queued(t, v.conn.conn) >= messages*size })
				if b, err := v.read(t.Context()); err != nil || b.err != nil || len(b.p) != messages*size {
					t.Fatalf("round %d: %d bytes, %v, %v", round, len(b.p), err, b.err)
				}
			}
			_ = theirs.Close()
			if b, err := v.read(t.Context()); err != nil || b.err != io.EOF {
				t.Errorf("at the end: %d bytes, %v, %v", len(b.p), err, b.err)
			}
		})
	}
}
