package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/klauspost/compress/zstd"

	"basin/internal/backup"
	"basin/internal/pgtest"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// scene is one thing that a client asks of a server. Recorded once with a real
// server, it is played here again and again.
type scene struct {
	name    string
	about   string
	major   int
	setting setting
	command protocol.BaseBackup // the zero value asks for no backup, but for the log alone
	beside  bool                // the log is streamed on a second connection
	earlier []byte              // manifest to upload; nil lets the recording decide
	want    string              // the error that it ends in; empty for none
	noticed string              // in what the server says beside its answers
}

// setting is what a cluster is before the scene.
type setting int

const (
	bonesOnly     setting = iota // without the larger files of its databases
	brokenPages                  // bonesOnly, and two pages have a wrong checksum
	changedBlocks                // changed after a full backup
	newTimeline                  // promoted to timeline 2
)

// asked is the command that the scenes have in common.
func asked(change func(*protocol.BaseBackup)) protocol.BaseBackup {
	b := protocol.BaseBackup{Label: "it's recorded", Progress: true, FastCheckpoint: true, NoWait: true, Manifest: "yes"}
	change(&b)
	return b
}

var scenes = []scene{
	{name: "plain-13", major: 13, about: "a COPY for each tablespace, and the log beside them", beside: true,
		command: asked(func(*protocol.BaseBackup) {})},
	{name: "plain-18", major: 18, about: "one COPY for all, and the log beside it", beside: true,
		command: asked(func(*protocol.BaseBackup) {})},
	{name: "lz4-15", major: 15, about: "compressed by the server, with the log and a tablespace_map inside",
		command: asked(func(b *protocol.BaseBackup) { b.Compression, b.WAL, b.TablespaceMap = "lz4", true, true })},
	{name: "zstd-18", major: 18, about: "compressed by the server, at most 1 MB a second", beside: true,
		command: asked(func(b *protocol.BaseBackup) {
			b.Compression, b.CompressionDetail, b.MaxRate = "zstd", new("level=19"), 1024
		})},
	{name: "incremental-17", major: 17, about: "changed blocks since a manifest that is uploaded", setting: changedBlocks, beside: true,
		command: asked(func(b *protocol.BaseBackup) { b.Incremental = true })},
	{name: "timelines-18", major: 18, about: "the log alone, across the end of a timeline", setting: newTimeline},
	{name: "checksums-13", major: 13, about: "pages with wrong checksums", setting: brokenPages,
		command: asked(func(*protocol.BaseBackup) {}), want: "checksum error occurred", noticed: "checksum verification failed in file"},
	{name: "checksums-18", major: 18, about: "pages with wrong checksums", setting: brokenPages,
		command: asked(func(*protocol.BaseBackup) {}), want: "checksum error occurred", noticed: "checksum verification failed in file"},
	{name: "manifest-option-13", major: 13, about: "a manifest that there is not",
		command: asked(func(b *protocol.BaseBackup) { b.Manifest = "perhaps" }),
		want:    `could not initiate base backup: ERROR:  unrecognized manifest option: "perhaps"`},
	{name: "compression-18", major: 18, about: "a compression level that there is not",
		command: asked(func(b *protocol.BaseBackup) { b.Compression, b.CompressionDetail = "zstd", new("level=99") }),
		want:    "could not initiate base backup: ERROR:  invalid compression specification: compression algorithm \"zstd\" expects a compression level between -131072 and 22 (default at 3)"},
	{name: "no-summaries-17", major: 17, about: "an incremental backup where no summaries are kept",
		command: asked(func(b *protocol.BaseBackup) { b.Incremental = true }),
		want:    "could not initiate base backup: ERROR:  incremental backups cannot be taken unless WAL summarization is enabled"},
	{name: "bad-manifest-17", major: 17, about: "an incremental backup against a manifest cut short", earlier: []byte("{\"PostgreSQL-Backup-Manifest-Version\": 2,\n"),
		command: asked(func(b *protocol.BaseBackup) { b.Incremental = true }),
		want:    "could not upload manifest: ERROR:  could not parse backup manifest: The input string ended unexpectedly."},
}

// session is what the connections of one scene said, with a real server at the
// far end. In its file a line of JSON stands before the bytes, which are
// compressed with zstd. They begin where a Conn takes over.
type session struct {
	Server  string // server_version
	Version int    // server_version_num
	About   string // for whoever looks at the file
	Start   wal.Position
	Stop    wal.Position // of a scene that is a stream of the log alone
	Talks   []*talk      // one for each connection
}

// talk is what was said on one connection.
type talk struct {
	Steps    []step
	Uploaded int // bytes of the manifest that the client sent
	Said     int // bytes that the server sent

	uploaded, said []byte
}

// step is a command of the client, or copyEnd, and how many bytes the server
// said between it and the next one. The client's statuses are no steps: when
// they come is a matter of time.
type step struct {
	Sent   string
	Answer int
}

const copyEnd = "CopyDone"

func sessionFile(name string) string { return filepath.Join("testdata", "sessions", name+".zst") }
func listingFile(name string) string { return filepath.Join("testdata", "sessions", name+".members") }

// loadSession reads a recording. That it is damaged is an error.
func loadSession(name string) (*session, error) {
	data, err := os.ReadFile(sessionFile(name))
	if err != nil {
		return nil, err
	}
	head, packed, _ := bytes.Cut(data, []byte("\n"))
	s := new(session)
	if err := json.Unmarshal(head, s); err != nil {
		return nil, err
	}
	unpacker, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer unpacker.Close()
	rest, err := unpacker.DecodeAll(packed, nil)
	if err != nil {
		return nil, err
	}
	for _, k := range s.Talks {
		if len(rest) < k.Uploaded+k.Said {
			return nil, io.ErrUnexpectedEOF
		}
		k.uploaded, rest = rest[:k.Uploaded:k.Uploaded], rest[k.Uploaded:]
		k.said, rest = rest[:k.Said:k.Said], rest[k.Said:]
		answered := 0
		for _, step := range k.Steps {
			answered += step.Answer
		}
		if answered != k.Said {
			return nil, fmt.Errorf("%d bytes said, but %d in answers", k.Said, answered)
		}
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes too many", len(rest))
	}
	return s, nil
}

func (s *session) save(name string) error {
	var said []byte
	for _, k := range s.Talks {
		k.Uploaded, k.Said = len(k.uploaded), len(k.said)
		said = append(append(said, k.uploaded...), k.said...)
	}
	head, err := json.Marshal(s)
	if err != nil {
		return err
	}
	packer, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	return os.WriteFile(sessionFile(name), packer.EncodeAll(said, append(head, '\n')), 0o644)
}

// ear cuts what a client sends into messages. The client is authenticated: each
// message has a type.
type ear struct{ partial []byte }

func (e *ear) hear(p []byte, message func(kind byte, body []byte)) {
	e.partial = append(e.partial, p...)
	for len(e.partial) >= 5 {
		end := 1 + int(binary.BigEndian.Uint32(e.partial[1:]))
		if len(e.partial) < end {
			return
		}
		message(e.partial[0], e.partial[5:end])
		e.partial = e.partial[end:]
	}
}

// recorder is a connection that writes down what is said on it.
type recorder struct {
	net.Conn
	mu sync.Mutex
	ear
	talk talk
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.talk.said = append(r.talk.said, p[:n]...)
	if n > 0 {
		r.talk.Steps[len(r.talk.Steps)-1].Answer += n
	}
	return n, err
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.hear(p, func(kind byte, body []byte) {
		switch kind {
		case 'Q':
			r.talk.Steps = append(r.talk.Steps, step{Sent: strings.TrimSuffix(string(body), "\x00")})
		case 'c':
			r.talk.Steps = append(r.talk.Steps, step{Sent: copyEnd})
		case 'd':
			if r.talk.Steps[len(r.talk.Steps)-1].Sent == "UPLOAD_MANIFEST" {
				r.talk.uploaded = append(r.talk.uploaded, body...)
			}
		}
	})
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// connectRecorded returns a connection to a real server and what writes it down.
func connectRecorded(t *testing.T, s *pgtest.Server) (*Conn, *recorder) {
	t.Helper()
	pg, err := pgconn.Connect(t.Context(), s.ConnString()+" replication=true")
	if err != nil {
		t.Fatal(err)
	}
	h, err := pg.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{Conn: h.Conn}
	c := newConn(r)
	c.ServerVersion = h.ParameterStatuses["server_version"]
	t.Cleanup(func() { _ = c.Close() })
	var major, minor int
	if _, err := fmt.Sscanf(c.ServerVersion, "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	c.Version = major*10000 + minor
	return c, r
}

// record has a real server play the scene, and writes down what it says.
func (s scene) record(t *testing.T) {
	server := pgtest.Start(t, pgtest.Config{
		Major: s.major, WALSegmentSizeMB: 1, Checksums: true,
		Conf: map[string]string{"autovacuum": "off", "wal_keep_size": "64MB"},
	})
	k := s.prepare(t, server)
	main, mainSaid := connectRecorded(t, server)
	beside, besideSaid := connectRecorded(t, server)
	var earlier []byte
	if len(k.Talks) > 0 {
		earlier, k.Talks = k.Talks[0].uploaded, nil
	}
	got, err := s.play(t.Context(), k, main, beside, earlier)
	if text := errorText(err); text != s.want {
		t.Fatalf("got  %s\nwant %s", text, s.want)
	}
	_ = main.Close()
	_ = beside.Close()
	k.Server, k.Version, k.About = main.ServerVersion, main.Version, s.about
	for _, r := range []*recorder{mainSaid, besideSaid} {
		r.mu.Lock() // a last read may be under way
		said := r.talk
		r.mu.Unlock()
		if len(said.Steps) > 0 {
			k.Talks = append(k.Talks, &said)
		}
	}
	if err := k.save(s.name); err != nil {
		t.Fatal(err)
	}
	if got.manifest == nil {
		return
	}
	lines := strings.Join(listing(t, server, s.command, got), "\n") + "\n"
	if err := os.WriteFile(listingFile(s.name), []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
}

// prepare makes the server's cluster what the scene wants it to be. Where the
// scene needs more than the server, the session returned tells it.
func (s scene) prepare(t *testing.T, server *pgtest.Server) *session {
	t.Helper()
	server.Tablespace(t, "far")
	server.Exec(t,
		"ALTER DATABASE template0 IS_TEMPLATE false", "DROP DATABASE template0",
		"ALTER DATABASE template1 IS_TEMPLATE false", "DROP DATABASE template1",
		"CREATE TABLE near (id int PRIMARY KEY, what text)",
		"INSERT INTO near SELECT g, 'row ' || g FROM generate_series(1, 2000) g",
		"CREATE TABLE distant (id int, what text) TABLESPACE far",
		"INSERT INTO distant SELECT g, 'row ' || g FROM generate_series(1, 500) g",
		"CREATE UNLOGGED TABLE passing (id int)",
		"INSERT INTO passing VALUES (1)",
		"CHECKPOINT")
	k := new(session)
	switch s.setting {
	case changedBlocks:
		server.Exec(t, "ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()")
		server.WaitFor(t, "SELECT setting FROM pg_settings WHERE name = 'summarize_wal'", "on")
		main, _ := connectRecorded(t, server)
		full := scene{command: s.command}
		full.command.Incremental = false
		got, err := full.play(t.Context(), k, main, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		server.Exec(t,
			"UPDATE near SET what = 'changed' WHERE id = 1000",
			"TRUNCATE distant", "INSERT INTO distant VALUES (1, 'new')", "CREATE TABLE late (id int)")
		k.Talks = []*talk{{uploaded: got.manifest}}
	case newTimeline:
		lsn := func(query string) wal.LSN {
			l, err := wal.ParseLSN(server.Query(t, query))
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		server.Exec(t, "SELECT pg_switch_wal()", "CHECKPOINT")
		k.Start = wal.Position{LSN: lsn("SELECT redo_lsn FROM pg_control_checkpoint()"), Timeline: 1}
		server.Exec(t, "INSERT INTO near SELECT g, repeat('long ', 20) FROM generate_series(2001, 12000) g")
		server.Stop(t, pgtest.Fast)
		pgtest.SetRecovery(t, s.major, server.DataDir, pgtest.Recovery{Settings: map[string]string{"restore_command": "false"}})
		server.Start(t)
		server.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		server.Exec(t, "INSERT INTO near SELECT g, 'later' FROM generate_series(12001, 14000) g")
		k.Stop = wal.Position{LSN: lsn("SELECT pg_logical_emit_message(false, '', 'the end')"), Timeline: 2}
		server.Exec(t, "SELECT pg_switch_wal()")
	case bonesOnly, brokenPages:
		table := server.Query(t, "SELECT pg_relation_filepath('near')")
		server.Stop(t, pgtest.Fast)
		cutToTheBone(t, server.DataDir, table)
		if s.setting == brokenPages {
			breakPages(t, filepath.Join(server.DataDir, table))
		}
		server.Start(t)
	}
	return k
}

// cutToTheBone removes the larger files of databases, but for one. A server
// sends base backups without looking into any; it is no good for SQL any more.
func cutToTheBone(t *testing.T, dataDir, keep string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dataDir, "base", "*", "[1-9]*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 16<<10 && !strings.HasSuffix(name, keep) {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// breakPages changes a byte in the last two pages of a table.
func breakPages(t *testing.T, name string) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-100]++
	content[len(content)-8192-100]++
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// manifestText is as much of a manifest as is needed here. It is read without
// the code that reads manifests elsewhere, which could be wrong in the same way.
type manifestText struct {
	Files []struct {
		Path              string
		Size              int64
		ChecksumAlgorithm string `json:"Checksum-Algorithm"`
		Checksum          string
	}
	Ranges []struct {
		Timeline wal.Timeline
		Start    string `json:"Start-LSN"`
		End      string `json:"End-LSN"`
	} `json:"WAL-Ranges"`
	Checksum string `json:"Manifest-Checksum"`
}

func parseManifest(t testing.TB, text []byte) (m manifestText) {
	t.Helper()
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatalf("manifest: %v", err)
	}
	signed := text[:bytes.LastIndex(text, []byte("\"Manifest-Checksum\""))]
	if sum := sha256.Sum256(signed); hex.EncodeToString(sum[:]) != m.Checksum {
		t.Error("the manifest is not what its checksum is of")
	}
	return m
}

// castagnoli is the polynomial of CRC-32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// manifestSum returns a CRC-32C in a manifest's form: the bytes of the number as
// they lie in the memory of a little-endian machine.
func manifestSum(crc uint32) string {
	return hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, crc))
}

// listing returns what a backup of the server must consist of, sorted. It is
// found without the client's help: names, sizes and checksums of files are the
// manifest's, directories, links and modes are those on disk.
func listing(t *testing.T, s *pgtest.Server, command protocol.BaseBackup, got *taken) (lines []string) {
	t.Helper()
	inside := func(name string) bool { // says of a file in pg_wal whether the backup needs it
		segment, err := wal.ParseSegment(name, got.segment)
		return err == nil && segment.Start(got.segment)+wal.LSN(got.segment) > got.start.Position.LSN &&
			segment.Start(got.segment) < got.end.LSN
	}
	mode := make(map[string]fs.FileMode)
	walk := func(root, under string) {
		t.Helper()
		if err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || name == root {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			rel := filepath.Join(under, strings.TrimPrefix(name, root+"/"))
			mode[rel] = info.Mode().Perm()
			switch {
			case strings.HasPrefix(entry.Name(), "pgsql_tmp"): // PG_TEMP_FILE_PREFIX
				return fs.SkipDir
			case entry.IsDir():
				lines = append(lines, memberLine(rel, backup.Dir, mode[rel], 0, 0, ""))
				if slices.Contains(emptied, path.Base(rel)) {
					return fs.SkipDir
				}
			case entry.Type() == fs.ModeSymlink && !command.TablespaceMap:
				target, err := os.Readlink(name)
				if err != nil {
					return err
				}
				lines = append(lines, memberLine(rel, backup.Symlink, mode[rel], 0, 0, target))
			case command.WAL && path.Dir(rel) == "pg_wal" && inside(path.Base(rel)):
				content, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				lines = append(lines, memberLine(rel, backup.File, mode[rel], info.Size(), crc32.Checksum(content, castagnoli), ""))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	walk(s.DataDir, "")
	links, err := filepath.Glob(filepath.Join(s.DataDir, "pg_tblspc", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			t.Fatal(err)
		}
		walk(target, filepath.Join("pg_tblspc", filepath.Base(link)))
	}
	for _, f := range parseManifest(t, got.manifest).Files {
		sum, err := hex.DecodeString(f.Checksum)
		if err != nil || len(sum) != 4 || f.ChecksumAlgorithm != "CRC32C" {
			t.Fatalf("manifest: %+v: %v", f, err)
		}
		m, ok := mode[strings.Replace(f.Path, "INCREMENTAL.", "", 1)]
		if !ok { // backup_label and what else is made for the backup
			m = 0o600
		}
		lines = append(lines, memberLine(f.Path, backup.File, m, f.Size, binary.LittleEndian.Uint32(sum), ""))
	}
	slices.Sort(lines)
	return lines
}

// emptied are the directories that a backup has without what is in them.
//
// Source: excludeDirContents in src/backend/backup/basebackup.c, PostgreSQL 18.
var emptied = []string{
	"pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans",
}

// memberLine is one line of a listing.
func memberLine(name string, kind backup.Kind, mode fs.FileMode, size int64, crc uint32, target string) string {
	switch kind {
	case backup.Dir:
		return fmt.Sprintf("%s/ %04o", name, mode.Perm())
	case backup.Symlink:
		return fmt.Sprintf("%s %04o -> %s", name, mode.Perm(), target)
	}
	return fmt.Sprintf("%s %04o %d %08x", name, mode.Perm(), size, crc)
}

// TestSessionsAreComplete reads every recording. With BASIN_RECORD=1 they are
// made anew first, by real servers.
func TestSessionsAreComplete(t *testing.T) {
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			if os.Getenv("BASIN_RECORD") == "1" {
				s.record(t)
			}
			k, err := loadSession(s.name)
			if err != nil {
				t.Fatal(err)
			}
			if k.Version/10000 != s.major || k.About != s.about {
				t.Errorf("recorded with %s: %s", k.Server, k.About)
			}
			for _, talk := range k.Talks {
				for rest := talk.said; len(rest) > 0; { // whole messages
					if len(rest) < 5 || len(rest) < 1+int(binary.BigEndian.Uint32(rest[1:])) {
						t.Fatalf("%d bytes are no message", len(rest))
					}
					rest = rest[1+binary.BigEndian.Uint32(rest[1:]):]
				}
			}
		})
	}
}
