package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/backup"
	"basin/internal/connect"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// tarOf returns an archive of the given members and their contents, without an end.
func tarOf(t testing.TB, members ...any) string {
	var out []byte
	for i := 0; i < len(members); i += 2 {
		m, content := members[i].(backup.Member), members[i+1].(string)
		m.Size = int64(len(content))
		var err error
		if out, err = backup.AppendTarHeader(out, m); err != nil {
			t.Fatal(err)
		}
		out = append(out, content...)
		out = append(out, make([]byte, backup.TarPadding(m.Size))...)
	}
	return string(out)
}

var noon = time.Unix(1_800_000_000, 0)

func file(path string) backup.Member {
	return backup.Member{Path: path, Kind: backup.File, Mode: 0o600, UID: 26, GID: 26, ModTime: noon}
}

var tarEnd = strings.Repeat("\x00", backup.TarEnd)

// got is a member and its content as a source yielded them.
type got struct {
	Tablespace uint32
	Path       string
	Kind       backup.Kind
	Content    string
}

// readAll takes all members of a source.
func readAll(ctx context.Context, src backup.Source) (all []got, err error) {
	if _, err := src.Begin(ctx); err != nil {
		return nil, err
	}
	for {
		m, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		g := got{m.Tablespace, m.Path, m.Kind, ""}
		if m.Kind != backup.Dir && m.Kind != backup.Symlink {
			content, err := io.ReadAll(r)
			if err != nil {
				return all, err
			}
			g.Content = string(content)
		}
		all = append(all, g)
	}
}

// begun is what a server says before the data.
func begun() []byte {
	return joined(
		answer([]any{"0/2000028", "1"}),
		answer([]any{"16384", "/tbs", "8"}, []any{nil, nil, "100"}),
	)
}

// everything is what begun promises, empty, and a manifest.
var everything = joined(copyData('n', "16384.tar\x00/tbs\x00"), copyData('d', tarEnd), copyData('n', "base.tar\x00\x00"), copyData('d', tarEnd), copyData('m', ""))

func ended() []byte {
	return joined(answer([]any{"0/2000120", "1"}), complete("BASE_BACKUP"), ready)
}

func source(t testing.TB, version int, said io.Reader) *BaseBackup {
	return NewBaseBackup(replay(t, version, said), BaseBackupOptions{
		Command: protocol.BaseBackup{Label: "x", Manifest: "yes"}, Segment: wal.DefaultSegmentSize,
		Progress: new(backup.Progress),
	})
}

func TestBaseBackup(t *testing.T) {
	tbs := tarOf(t, backup.Member{Path: "PG_18", Kind: backup.Dir, Mode: fs.ModeDir | 0o700, ModTime: noon}, "", file("PG_18/1"), "one")
	base := tarOf(t, file("backup_label"), "START", file("empty"), "", file("global/pg_control"), strings.Repeat("c", 8192))
	want := []got{
		{16384, "PG_18", backup.Dir, ""},
		{16384, "PG_18/1", backup.File, "one"},
		{0, "backup_label", backup.File, "START"},
		{0, "empty", backup.File, ""},
		{0, "global/pg_control", backup.File, strings.Repeat("c", 8192)},
		{0, "backup_manifest", backup.Manifest, "{}"},
	}
	one := joined(begun(), copyOut,
		copyData('n', "16384.tar\x00/tbs\x00"), copyData('d', tbs[:700]), copyData('p', "\x00\x00\x00\x00\x00\x00\x01\x00"),
		copyData('d', tbs[700:]), copyData('d', tarEnd),
		copyData('n', "base.tar\x00\x00"), copyData('d', base), copyData('d', tarEnd), copyData('p', "\x00\x00\x00\x00\x00\x00\x02\x00"),
		copyData('m', ""), copyData('d', "{"), copyData('d', "}"), copyDone, ended())
	many := joined(begun(),
		copyOut, message('d', []byte(tbs)...), copyDone,
		copyOut, message('d', []byte(base[:513])...), message('d', []byte(base[513:])...), copyDone,
		copyOut, message('d', []byte("{}")...), copyDone, ended())
	for _, c := range []struct {
		name    string
		version int
		said    []byte
	}{
		{"one COPY for everything", 180006, one},
		{"one COPY for each archive", 140023, many},
	} {
		for form, said := range map[string]io.Reader{
			"whole":         bytes.NewReader(c.said),
			"byte by byte":  iotest.OneByteReader(bytes.NewReader(c.said)),
			"with the end":  iotest.DataErrReader(bytes.NewReader(c.said)),
			"in odd halves": iotest.HalfReader(bytes.NewReader(c.said)),
		} {
			t.Run(c.name+", "+form, func(t *testing.T) {
				src := source(t, c.version, said)
				all, err := readAll(t.Context(), src)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, all); diff != "" {
					t.Error(diff)
				}
				end, err := src.End(t.Context())
				if end != (wal.Position{LSN: 0x2000120, Timeline: 1}) || err != nil {
					t.Errorf("End: %v, %v", end, err)
				}
				if n := src.o.Progress.Tablespace.Load(); n != 2 {
					t.Errorf("%d archives counted, want 2", n)
				}
			})
		}
	}
}

func TestBaseBackupRefusals(t *testing.T) {
	base := tarOf(t, file("a"), "abc")
	for _, c := range []struct {
		name    string
		version int
		said    []byte
		want    string
	}{
		{"refused", 180006, joined(errorSaid("42601", "syntax error"), ready),
			"could not initiate base backup: ERROR:  syntax error"},
		{"two rows", 180006, answer([]any{"0/1", "1"}, []any{"0/2", "1"}),
			"server returned unexpected response to BASE_BACKUP command; got 2 rows and 2 fields, expected 1 rows and 2 fields"},
		{"no tablespaces", 180006, joined(answer([]any{"0/1", "1"}), answer()), "no data returned from server"},
		{"no LSN", 180006, answer([]any{"x", "1"}), `server returned unexpected response to BASE_BACKUP command: invalid LSN "x"`},
		{"server gone", 180006, nil, "could not initiate base backup: server closed the connection unexpectedly"},
		{"empty COPY message", 180006, joined(begun(), copyOut, message('d')), "empty COPY message"},
		{"payload before archive", 180006, joined(begun(), copyOut, copyData('d', "x")), "unexpected payload data"},
		{"unknown kind", 180006, joined(begun(), copyOut, copyData('?', "x")), "malformed COPY message of type 63, length 2"},
		{"archive without end of name", 180006, joined(begun(), copyOut, copyData('n', "base.tar")), "malformed COPY message of type 110, length 9"},
		{"archive outside", 180006, joined(begun(), copyOut, copyData('n', "../x.tar\x00\x00")), `invalid archive name: "../x.tar"`},
		{"archive of no tablespace", 180006, joined(begun(), copyOut, copyData('n', "16385.tar\x00\x00")),
			`cannot parse archive "16385.tar": it belongs to no tablespace that the server listed`},
		{"archive after manifest", 180006, joined(begun(), copyOut, copyData('m', ""), copyData('n', "base.tar\x00\x00")), "archives must precede manifest"},
		{"progress too short", 180006, joined(begun(), copyOut, copyData('p', "x")), "malformed COPY message of type 112, length 2"},
		{"not a tar", 180006, joined(begun(), copyOut, copyData('n', "base.tar\x00\x00"), copyData('d', strings.Repeat("x", 512))),
			"input file does not appear to be a valid tar archive"},
		{"cut in a file", 180006, joined(begun(), copyOut, copyData('n', "base.tar\x00\x00"), copyData('d', base[:514]), copyDone),
			"COPY stream ended before last file was finished"},
		{"error inside COPY is shown", 180006, joined(begun(), copyOut, copyData('n', "base.tar\x00\x00"), copyData('d', base[:514]), errorSaid("58030", "could not read")),
			"backup failed: ERROR:  could not read"},
		{"error after data", 180006, joined(begun(), copyOut, copyDone, errorSaid("55000", "the standby was promoted during online backup")),
			"backup failed: ERROR:  the standby was promoted during online backup"},
		{"error at the very end", 180006, joined(begun(), copyOut, copyDone, answer([]any{"0/3", "1"}), errorSaid("55000", "late")),
			"final receive failed: ERROR:  late"},
		{"a tablespace does not come", 180006, joined(begun(), copyOut, copyData('n', "base.tar\x00\x00"), copyData('m', ""), copyDone, ended()),
			`server ended the backup without archive "16384.tar"`},
		{"the main directory does not come", 180006, joined(begun(), copyOut, copyData('n', "16384.tar\x00\x00"), copyDone, ended()),
			`server ended the backup without archive "base.tar"`},
		{"the manifest does not come", 180006, joined(begun(), copyOut, copyData('n', "16384.tar\x00\x00"), copyData('n', "base.tar\x00\x00"), copyDone, ended()),
			"server ended the backup without the manifest"},
		{"an archive comes twice", 180006, joined(begun(), copyOut, everything[:len(everything)-len(copyData('m', ""))], copyData('n', "base.tar\x00\x00"), copyDone, ended()),
			`server sent archive "base.tar" twice`},
		{"no COPY", 140023, joined(begun(), answer()), "could not get COPY data stream: unexpected message of type \"T\" from server"},
		{"length below zero", 180006, []byte{'T', 0, 0, 0, 1}, "could not initiate base backup: invalid message length from server: type \"T\", length 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readAll(t.Context(), source(t, c.version, bytes.NewReader(c.said)))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestPageChecksumsAreToldAtTheEnd(t *testing.T) {
	src := source(t, 180006, bytes.NewReader(joined(begun(), copyOut, everything, copyDone, answer([]any{"0/3", "1"}), errorSaid("XX001", "checksum verification failure during base backup"), ready)))
	if _, err := readAll(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	if end, err := src.End(t.Context()); !errors.Is(err, backup.ErrPageChecksums) || end.LSN != 3 {
		t.Errorf("End: %v, %v", end, err)
	}
}

func TestNoticesArePassedOn(t *testing.T) {
	c := replay(t, 180006, bytes.NewReader(joined(
		message('N', []byte("SWARNING\x00VWARNING\x00C01000\x00Mchecksum verification failed\x00Dd\x00Hh\x00\x00")...),
		message('S', []byte("a\x00b\x00")...), answer([]any{"on"}), ready)))
	var heard []string
	c.Notice = func(n *pgconn.Notice) {
		heard = append(heard, connect.NoticeText(n.Severity, n.Message, n.Detail, n.Hint))
	}
	if v, err := c.Show(t.Context(), "x"); v != "on" || err != nil {
		t.Fatal(v, err)
	}
	want := []string{"WARNING:  checksum verification failed\nDETAIL:  d\nHINT:  h"}
	if diff := cmp.Diff(want, heard); diff != "" {
		t.Error(diff)
	}
}

func TestConnectionServesAfterAnError(t *testing.T) {
	c := replay(t, 180006, bytes.NewReader(joined(errorSaid("42704", "unrecognized"), ready, answer([]any{"16MB"}), ready)))
	if _, err := c.Show(t.Context(), "x"); sqlState(err) != "42704" {
		t.Fatal(err)
	}
	if n, err := c.SegmentSize(t.Context()); n != 16<<20 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func FuzzBaseBackup(f *testing.F) {
	base := tarOf(f, file("a"), "abc")
	f.Add(true, joined(begun(), copyOut, copyData('n', "base.tar\x00\x00"), copyData('d', base), copyData('m', ""), copyData('d', "{}"), copyDone, ended()))
	f.Add(false, joined(begun(), copyOut, message('d', []byte(base)...), copyDone, copyOut, copyDone, ended()))
	f.Add(true, errorSaid("42601", "no"))
	f.Fuzz(func(t *testing.T, framed bool, said []byte) {
		version := 140023
		if framed {
			version = 180006
		}
		src := source(t, version, bytes.NewReader(said))
		all, err := readAll(t.Context(), src)
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
		for _, g := range all {
			if !backup.LocalPath(g.Path) {
				t.Errorf("path %q leads out", g.Path)
			}
		}
	})
}

func ExampleConn_Show() {
	c := newConn(silent{Reader: bytes.NewReader(joined(errorSaid("28P01", "password authentication failed"), ready))})
	_, err := c.Show(context.Background(), "x")
	fmt.Println(err)
	// Output: could not send replication command "SHOW x": ERROR:  password authentication failed
}
