package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/pgtest"
)

// scriptedServer answers on a port as a server of some version does, with a
// backup that is written here. It returns the connection string.
//
// After the last message it says nothing more, and waits for the client to go;
// a message of nil ends the connection.
func scriptedServer(t *testing.T, version string, backup []pgproto3.BackendMessage) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = serveScript(conn, version, backup) // the client may go when it likes
			}()
		}
	}()
	return fmt.Sprintf("host=127.0.0.1 port=%d user=tester", listener.Addr().(*net.TCPAddr).Port)
}

// errScriptEnds is the end of a connection that a script wants.
var errScriptEnds = errors.New("end of the script")

func serveScript(conn net.Conn, version string, backup []pgproto3.BackendMessage) error {
	b := pgproto3.NewBackend(conn, conn)
	for {
		first, err := b.ReceiveStartupMessage()
		if err != nil {
			return err
		}
		if _, ok := first.(*pgproto3.StartupMessage); ok {
			break
		}
		if _, err := conn.Write([]byte("N")); err != nil { // no encryption here
			return err
		}
	}
	b.Send(&pgproto3.AuthenticationOk{})
	for name, value := range map[string]string{"server_version": version, "integer_datetimes": "on", "client_encoding": "UTF8"} {
		b.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	b.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := b.Flush(); err != nil {
		return err
	}
	for {
		m, err := b.Receive()
		if err != nil {
			return err
		}
		query, ok := m.(*pgproto3.Query)
		if !ok {
			return nil // Terminate
		}
		for _, answer := range scriptedAnswer(query.String, backup) {
			if answer == nil {
				return errors.Join(b.Flush(), errScriptEnds)
			}
			b.Send(answer)
		}
		if err := b.Flush(); err != nil {
			return err
		}
	}
}

func scriptedAnswer(query string, backup []pgproto3.BackendMessage) []pgproto3.BackendMessage {
	ready := &pgproto3.ReadyForQuery{TxStatus: 'I'}
	word, rest, _ := strings.Cut(query, " ")
	switch {
	case word == "BASE_BACKUP":
		return backup
	case word == "IDENTIFY_SYSTEM":
		return append(rows([]any{"7000000000000000001", "1", "0/3000000", nil}), ready)
	case rest == "data_directory_mode":
		return append(rows([]any{"0700"}), ready)
	case rest == "wal_segment_size":
		return append(rows([]any{"16MB"}), ready)
	}
	return []pgproto3.BackendMessage{&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "unscripted: " + query}, ready}
}

// rows is a result with one row for each argument; nil is NULL.
func rows(values ...[]any) []pgproto3.BackendMessage {
	head := &pgproto3.RowDescription{}
	for range values[0] {
		head.Fields = append(head.Fields, pgproto3.FieldDescription{Name: []byte("c"), DataTypeOID: 25})
	}
	list := []pgproto3.BackendMessage{head}
	for _, row := range values {
		data := &pgproto3.DataRow{}
		for _, value := range row {
			if text, ok := value.(string); ok {
				data.Values = append(data.Values, []byte(text))
			} else {
				data.Values = append(data.Values, nil)
			}
		}
		list = append(list, data)
	}
	return append(list, &pgproto3.CommandComplete{CommandTag: []byte("SELECT")})
}

// scriptedBackup is what answers BASE_BACKUP: the beginning as it should be, the
// payloads as CopyData, and the end.
func scriptedBackup(payloads []string, end ...pgproto3.BackendMessage) []pgproto3.BackendMessage {
	list := rows([]any{"0/3000028", "1"})
	list = append(list, rows([]any{nil, nil, "10"})...)
	list = append(list, &pgproto3.CopyOutResponse{})
	for _, payload := range payloads {
		list = append(list, &pgproto3.CopyData{Data: []byte(payload)})
	}
	return append(list, end...)
}

// goodEnd is how a backup ends.
func goodEnd() []pgproto3.BackendMessage {
	list := []pgproto3.BackendMessage{&pgproto3.CopyDone{}}
	list = append(list, rows([]any{"0/3000100", "1"})...)
	return append(list, &pgproto3.CommandComplete{CommandTag: []byte("SELECT")}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
}

// tarOf returns a tar archive as the server makes them.
func tarOf(t *testing.T, members ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		m.Format, m.Mode = tar.FormatUSTAR, 0o600
		if m.PAXRecords != nil {
			m.Format = tar.FormatPAX
		}
		if m.Typeflag == tar.TypeReg {
			m.Size = 600
		}
		if m.Typeflag == tar.TypeDir {
			m.Mode = 0o700
		}
		if err := w.WriteHeader(&m); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, endless('x'), m.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// endless reads as one byte again and again.
type endless byte

// Read fills p.
func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestMalformedBackup(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	outside := pgtest.TempDir(t)
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	link := func(name, target string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
	}
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	good := tarOf(t, file("backup_label"), dir("global/"), file("global/pg_control"))
	broken := []byte(good)
	broken[100] ^= 1
	base := "nbase.tar\x00\x00"
	serverError := &pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX000", Message: "the disk fell off"}
	for _, test := range []struct {
		reason   string
		payloads []string
		end      []pgproto3.BackendMessage
		said     string // empty: it succeeds
		inTar    bool   // also if archives are kept as they are
	}{
		{"intact", []string{base, "d" + good, "m", "d{}"}, goodEnd(), "", true},
		{"intact, in pieces", slices.Concat([]string{base}, pieces(good, 7), []string{"m", "d{", "d}"}), goodEnd(), "", true},
		{"without a manifest", []string{base, "d" + good}, goodEnd(), "server ended the backup without the manifest", true},
		{"header damaged", []string{base, "d" + string(broken)}, goodEnd(), "input file does not appear to be a valid tar archive", true},
		{"cut in a header", []string{base, "d" + good[:100]}, goodEnd(), "COPY stream ended before last file was finished", true},
		{"cut in a file", []string{base, "d" + good[:700]}, goodEnd(), "COPY stream ended before last file was finished", true},
		{"member above", []string{base, "d" + tarOf(t, file("../evil"))}, goodEnd(), `tar member has unsafe path name: "../evil"`, true},
		{"member above, hidden", []string{base, "d" + tarOf(t, file("global/../../evil"))}, goodEnd(), `tar member has unsafe path name: "`, true},
		{"member at the root", []string{base, "d" + tarOf(t, file("/"+outside+"/evil"))}, goodEnd(), `tar member has unsafe path name: "/`, true},
		{"member through a link", []string{base, "d" + tarOf(t, link("way", outside), file("way/evil")), "m", "d{}"}, goodEnd(), "could not ", false},
		{"pax", []string{base, "d" + tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"BASIN.x": "1"}})}, goodEnd(), "pax extensions to tar format are not supported", true},
		{"empty message", []string{base, "d" + good, ""}, goodEnd(), "empty COPY message", true},
		{"unknown message", []string{base, "d" + good, "q!"}, goodEnd(), "malformed COPY message of type 113, length 2", true},
		{"short progress", []string{base, "p\x00\x00"}, goodEnd(), "malformed COPY message of type 112, length 3", true},
		{"data without an archive", []string{"d" + good}, goodEnd(), "unexpected payload data", true},
		{"archive after the manifest", []string{base, "d" + good, "m", "d{}", base}, goodEnd(), "archives must precede manifest", true},
		{"archive above", []string{"n../base.tar\x00\x00", "d" + good}, goodEnd(), `invalid archive name: "../base.tar"`, true},
		{"archive without a name", []string{"n\x00\x00", "d" + good}, goodEnd(), `invalid archive name: ""`, true},
		{"archive of another kind", []string{"nbase.zip\x00\x00", "d" + good}, goodEnd(), `cannot parse archive "base.zip"`, true},
		{"archive name without an end", []string{"nbase.tar", "d" + good}, goodEnd(), "malformed COPY message of type 110", true},
		{"archive of a tablespace that was not announced", []string{base, "d" + good, "n16400.tar\x00/space\x00", "d" + good}, goodEnd(), "16400", true},
		{"server gives up", []string{base, "d" + good[:700]}, []pgproto3.BackendMessage{serverError, &pgproto3.ReadyForQuery{TxStatus: 'I'}}, "ERROR:  the disk fell off", true},
		{"server gives up at the end", []string{base, "d" + good}, []pgproto3.BackendMessage{&pgproto3.CopyDone{}, serverError, &pgproto3.ReadyForQuery{TxStatus: 'I'}}, "ERROR:  the disk fell off", true},
		{"connection ends", []string{base, "d" + good}, []pgproto3.BackendMessage{nil}, "server closed the connection unexpectedly", true},
		{"connection ends between", []string{base, "d" + good}, []pgproto3.BackendMessage{&pgproto3.CopyDone{}, nil}, "server closed the connection unexpectedly", true},
		{"no end position", []string{base, "d" + good}, []pgproto3.BackendMessage{&pgproto3.CopyDone{}, &pgproto3.CommandComplete{CommandTag: []byte("SELECT")}, &pgproto3.ReadyForQuery{TxStatus: 'I'}}, "error: ", true},
	} {
		for _, format := range []string{"plain", "tar"} {
			t.Run(test.reason+", "+format, func(t *testing.T) {
				t.Parallel()
				server := scriptedServer(t, "18.6", scriptedBackup(test.payloads, test.end...))
				work := pgtest.TempDir(t)
				e := basin.run(t, nil, "-D", filepath.Join(work, "backup"), "-F", format, "-X", "fetch", "-d", server)
				if test.said == "" || format == "tar" && !test.inTar {
					e.succeeded(t)
					return
				}
				e.failed(t, "pg_basebackup: error: ", test.said)
				if got := entries(t, work); len(got) > 0 {
					t.Errorf("left behind: %q", got)
				}
				if got := entries(t, outside); len(got) > 0 {
					t.Errorf("written elsewhere: %q", got)
				}
				absent(t, filepath.Join(filepath.Dir(work), "evil"))
			})
		}
	}
}

// TestMalformedOldBackup has what servers before 15 send: a COPY for each archive,
// which does not say where it ends, and one for the manifest.
func TestMalformedOldBackup(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	good := strings.TrimRight(tarOf(t, tar.Header{Name: "backup_label", Typeflag: tar.TypeReg}), "\x00")
	padding := strings.Repeat("\x00", 512-len(good)%512)
	for _, test := range []struct {
		reason string
		copies []string
		said   string // empty: it succeeds
	}{
		{"intact", []string{good + padding, "{}"}, ""},
		{"without the manifest", []string{good + padding}, "could not get COPY data stream"},
		{"cut in a file", []string{good[:600], "{}"}, "COPY stream ended before last file was finished"},
		{"cut in the padding", []string{good, "{}"}, "COPY stream ended before last file was finished"},
		{"not tar", []string{strings.Repeat("x", 512), "{}"}, "input file does not appear to be a valid tar archive"},
	} {
		for _, format := range []string{"plain", "tar"} {
			t.Run(test.reason+", "+format, func(t *testing.T) {
				t.Parallel()
				backup := append(rows([]any{"0/3000028", "1"}), rows([]any{nil, nil, "10"})...)
				for _, data := range test.copies {
					backup = append(backup, &pgproto3.CopyOutResponse{}, &pgproto3.CopyData{Data: []byte(data)}, &pgproto3.CopyDone{})
				}
				backup = append(backup, goodEnd()[1:]...)
				work := pgtest.TempDir(t)
				e := basin.run(t, nil, "-D", filepath.Join(work, "backup"), "-F", format, "-X", "fetch", "-d", scriptedServer(t, "14.23", backup))
				if test.said == "" {
					e.succeeded(t)
					return
				}
				e.failed(t, "pg_basebackup: error: ", test.said)
				if got := entries(t, work); len(got) > 0 {
					t.Errorf("left behind: %q", got)
				}
			})
		}
	}
}

// pieces cuts an archive into messages.
func pieces(archive string, size int) (messages []string) {
	for len(archive) > 0 {
		n := min(size, len(archive))
		messages = append(messages, "d"+archive[:n])
		archive = archive[n:]
	}
	return messages
}

func TestServersOfOtherTimes(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, test := range []struct {
		version string
		args    []string
		said    []string
	}{
		{"9.0.23", nil, []string{"9.0.23"}},
		{"9.6.24", nil, []string{"9.6.24"}},
		{"19.1", nil, []string{"incompatible server version 19.1"}},
		{"19devel", []string{"-X", "fetch"}, []string{"incompatible server version 19devel"}},
		{"16.9", []string{"-i", os.DevNull}, []string{"server does not support incremental backup"}},
		{"14.23 (Debian 14.23-1)", []string{"-Z", "server-gzip"}, []string{"server does not support server-side compression", "hint: "}},
	} {
		t.Run(test.version, func(t *testing.T) {
			t.Parallel()
			work := pgtest.TempDir(t)
			args := append([]string{"-D", filepath.Join(work, "backup"), "-d", scriptedServer(t, test.version, nil)}, test.args...)
			basin.run(t, nil, args...).failed(t, test.said...)
			if got := entries(t, work); len(got) > 0 {
				t.Errorf("left behind: %q", got)
			}
		})
	}
}
