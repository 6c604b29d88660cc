package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/wal"
)

// fileCluster is a cluster whose files are in memory.
type fileCluster struct {
	*fakeCluster
	content map[string]string
	endless bool // the list of files has no end
}

// counted is an open file that is counted.
type counted struct {
	*strings.Reader
	cluster *fakeCluster
}

func (f counted) Close() error { f.cluster.count(-1); return nil }

func (c *fileCluster) Files(context.Context) (Files, error) { return c, nil }

func (c *fileCluster) Open(path string) (File, error) {
	content, ok := c.content[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	c.count(1)
	return counted{strings.NewReader(content), c.fakeCluster}, nil
}

func (c *fileCluster) All(context.Context) iter.Seq2[FileEntry, error] {
	return func(yield func(FileEntry, error) bool) {
		c.count(1)
		defer c.count(-1)
		for ok := yield(FileEntry{Path: "base", Size: 4096, IsDirectory: true}, nil); ok && c.endless; {
			ok = yield(FileEntry{Path: strings.Repeat("x", 1000)}, nil)
		}
	}
}

func (c *fileCluster) InsertLSN(context.Context) (wal.LSN, error) { return 16*mib + 40, nil }

func (c *fileCluster) FullPageWrites(context.Context) (bool, error) { return true, nil }

// fields returns numbers and strings as messages have them.
func fields(values ...any) string {
	var b bytes.Buffer
	for _, v := range values {
		if s, ok := v.(string); ok {
			b.WriteString(s + "\x00")
			continue
		}
		_ = binary.Write(&b, binary.BigEndian, v)
	}
	return b.String()
}

func parseMessage(name, text string) []byte { return message('P', fields(name, text, int16(0))) }

func executeMessage(portal string) []byte { return message('E', fields(portal, int32(0))) }

// bindMessage binds text parameters to the unnamed portal; the results are binary.
func bindMessage(name string, parameters ...string) []byte {
	body := fields("", name, int16(0), int16(len(parameters)))
	for _, p := range parameters {
		body += fields(int32(len(p))) + p
	}
	return message('B', body+fields(int16(1), int16(1)))
}

// messages puts messages behind each other.
func messages(all ...[]byte) []byte { return bytes.Join(all, nil) }

var syncMessage = message('S', "")

// words puts a message of the server in words.
func words(m pgproto3.BackendMessage) string {
	switch m := m.(type) {
	case *pgproto3.ErrorResponse:
		return m.Code
	case *pgproto3.DataRow:
		return fmt.Sprintf("%q", m.Values)
	case *pgproto3.CommandComplete:
		return string(m.CommandTag)
	case *pgproto3.ReadyForQuery:
		return "ready"
	}
	name := fmt.Sprintf("%T", m)
	return name[strings.LastIndexByte(name, '.')+1:]
}

func TestStatementsOfRewind(t *testing.T) {
	read := "SELECT pg_read_binary_file($1)"
	bound := func(parameters ...string) []byte {
		return messages(parseMessage("f", fetchChunks), bindMessage("f", parameters...), executeMessage(""), syncMessage)
	}
	file := func(path string) []byte {
		return messages(parseMessage("", read), bindMessage("", path), message('D', "P\x00"), executeMessage(""), syncMessage)
	}
	const refused = "0A000 ready"
	for _, c := range []struct {
		name string
		said []byte
		want string // all that is heard
	}{
		{"whole pages", query("SHOW full_page_writes"), `RowDescription ["on"] SHOW ready`},
		{"the end of the log", query("SELECT pg_current_wal_insert_lsn()"), `RowDescription ["0/1000028"] SELECT 1 ready`},
		{"all files", query(listFiles), `RowDescription ["base" "4096" "t" ""] SELECT 1 ready`},
		{"a setting", query("SET statement_timeout = 0"), "SET ready"},
		{"blanks do not count", query("SELECT\n\tpg_current_wal_insert_lsn()  ;\n"), `RowDescription ["0/1000028"] SELECT 1 ready`},
		{"nothing", query(";"), "EmptyQueryResponse ready"},

		{"more than is known", query("SELECT pg_current_wal_insert_lsn(), 1"), refused},
		{"with something behind it", query("SELECT pg_current_wal_insert_lsn(); SELECT 1"), refused},
		{"in a comment", query("SELECT pg_current_wal_insert_lsn() -- x"), refused},
		{"a file by its name", query("SELECT pg_read_binary_file('PG_VERSION')"), refused},
		{"another function", query("SELECT pg_read_file($1)"), refused},
		{"other files", query(strings.Replace(listFiles, "'.'", "'/etc'", 1)), refused},
		{"another setting", query("SHOW data_directory"), "42601 ready"},
		{"a replication command", query("IDENTIFY_SYSTEM"), "42601 ready"},
		{"a parameter in a simple query", query(read), "42P02 ready"},
		{"another statement to prepare", messages(parseMessage("", "SELECT pg_read_file($1)"), syncMessage), refused},

		{"a file", file("PG_VERSION"), `ParseComplete BindComplete RowDescription ["18\n"] SELECT 1 ready`},
		{"an empty file", file("empty"), `ParseComplete BindComplete RowDescription [""] SELECT 1 ready`},
		{"a file that is gone", file("gone"), "ParseComplete BindComplete RowDescription 58P01 ready"},
		{"a file that is too large", file("large"), "ParseComplete BindComplete RowDescription 54000 ready"},
		{"a control file that is torn, for good", file("global/pg_control"), `ParseComplete BindComplete RowDescription ["torn"] SELECT 1 ready`},
		{"pieces", bound("{PG_VERSION,PG_VERSION,gone,PG_VERSION}", "{0,1,0,9}", "{2,9,9,9}"),
			`ParseComplete BindComplete ["PG_VERSION" "\x00\x00\x00\x00\x00\x00\x00\x00" "18"] ["PG_VERSION" "\x00\x00\x00\x00\x00\x00\x00\x01" "8\n"]` +
				` ["gone" "\x00\x00\x00\x00\x00\x00\x00\x00" ""] ["PG_VERSION" "\x00\x00\x00\x00\x00\x00\x00\t" ""] SELECT 4 ready`},
		{"no pieces", bound("{}", "{}", "{}"), "ParseComplete BindComplete SELECT 0 ready"},
		{"pieces that are none", bound("{a}", "{}", "{}"), "ParseComplete BindComplete 22023 ready"},
		{"described", messages(parseMessage("f", fetchChunks), message('D', "Sf\x00"), syncMessage), "ParseComplete ParameterDescription RowDescription ready"},
		{"without rows", messages(parseMessage("", "SET a = 0"), bindMessage(""), message('D', "P\x00"), executeMessage(""), syncMessage), "ParseComplete BindComplete NoData SET ready"},
		{"a statement that lasts", messages(parseMessage("f", read), syncMessage, bindMessage("f", "PG_VERSION"), executeMessage(""), syncMessage),
			`ParseComplete ready BindComplete ["18\n"] SELECT 1 ready`},

		{"skipped to Sync", messages(parseMessage("", "x"), bindMessage(""), executeMessage(""), query("SELECT 1"), syncMessage, query("SELECT 1")),
			`0A000 ready RowDescription ["1"] SELECT 1 ready`},
		{"a portal does not outlast Sync", messages(parseMessage("", read), bindMessage("", "PG_VERSION"), syncMessage, executeMessage(""), syncMessage), "ParseComplete BindComplete ready 34000 ready"},
		{"a portal is executed once", messages(parseMessage("", "SELECT 1"), bindMessage(""), executeMessage(""), executeMessage(""), syncMessage),
			`ParseComplete BindComplete ["\x00\x00\x00\x01"] SELECT 1 34000 ready`},
		{"no such statement", messages(bindMessage("g", "x"), syncMessage), "26000 ready"},
		{"nor one to describe", messages(message('D', "Sg\x00"), syncMessage), "26000 ready"},
		{"no such portal", messages(message('D', "Pg\x00"), syncMessage), "34000 ready"},
		{"closed", messages(parseMessage("f", read), message('C', "Sf\x00"), message('C', "Pf\x00"), bindMessage("f", "x"), syncMessage), "ParseComplete CloseComplete CloseComplete 26000 ready"},
		{"a name that is taken", messages(parseMessage("f", read), parseMessage("f", read), syncMessage), "ParseComplete 42P05 ready"},
		{"too few parameters", messages(parseMessage("", read), bindMessage(""), syncMessage), "ParseComplete 08P01 ready"},
		{"a parameter of another type", messages(message('P', fields("", read, int16(1), int32(17))), syncMessage), refused},
		{"more types than parameters", messages(message('P', fields("", read, int16(2), int32(0), int32(0))), syncMessage), "08P01 ready"},
		{"a parameter that is null", messages(parseMessage("", read), message('B', fields("", "", int16(0), int16(1), int32(-1), int16(0))), syncMessage), "ParseComplete 22004 ready"},
		{"an array in binary", messages(parseMessage("", fetchChunks),
			message('B', fields("", "", int16(1), int16(1), int16(3), int32(0), int32(0), int32(0), int16(0))), syncMessage), "ParseComplete 0A000 ready"},
		{"a format that there is not", messages(parseMessage("", "SELECT 1"), message('B', fields("", "", int16(0), int16(0), int16(1), int16(2))), syncMessage), "ParseComplete 22023 ready"},
		{"more formats than columns", messages(parseMessage("", "SELECT 1"), message('B', fields("", "", int16(0), int16(0), int16(2), int16(0), int16(0))), syncMessage), "ParseComplete 08P01 ready"},
		{"a part of the rows", messages(parseMessage("", "SELECT 1"), bindMessage(""), message('E', fields("", int32(1))), syncMessage), "ParseComplete BindComplete 0A000 ready"},
		{"messages that are none", messages(message('P', "x"), syncMessage, message('B', "x"), syncMessage, message('D', ""), syncMessage, message('E', "x"), syncMessage, message('C', "X\x00"), syncMessage),
			"08P01 ready 08P01 ready 08P01 ready 08P01 ready 08P01 ready"},
		{"a function call", message('F', "\x00\x00\x00\x01"), "08P01 ready"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := trusting(t, nil)
			synctest.Test(t, func(t *testing.T) {
				if got := talk(t, o, c.said, "database", "postgres"); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			})
		})
	}
	for _, c := range []struct {
		name       string
		parameters []string
		said       []byte
		want       string
	}{
		{"on a physical connection", []string{"replication", "true"}, query("SELECT pg_current_wal_insert_lsn()"), refused},
		{"on one of a database", []string{"replication", "database", "database", "postgres"}, query("SELECT pg_current_wal_insert_lsn()"), refused},
		{"checks on one of a database", []string{"replication", "database", "database", "postgres"}, query("SELECT 1"), `RowDescription ["1"] SELECT 1 ready`},
		{"prepared on one of a database", []string{"replication", "database", "database", "postgres"}, messages(parseMessage("", "SELECT 1"), syncMessage), "08P01 ready"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := trusting(t, nil)
			synctest.Test(t, func(t *testing.T) {
				if got := talk(t, o, c.said, c.parameters...); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			})
		})
	}
	t.Run("of a cluster without files", func(t *testing.T) {
		o := trusting(t, newFakeCluster())
		synctest.Test(t, func(t *testing.T) {
			if got := talk(t, o, query("SELECT pg_current_wal_insert_lsn()"), "database", "postgres"); got != refused {
				t.Error(got)
			}
		})
	})
}

// newFileCluster returns a cluster with some files.
func newFileCluster() *fileCluster {
	return &fileCluster{fakeCluster: newFakeCluster(), content: map[string]string{
		"PG_VERSION": "18\n", "empty": "", "large": strings.Repeat("x", maxChunkSize+1), "global/pg_control": "torn",
	}}
}

// talk says something to a server, and returns what is heard of it in words.
func talk(t *testing.T, o Options, said []byte, parameters ...string) string {
	t.Helper()
	if o.Cluster == Cluster(nil) {
		o.Cluster = newFileCluster()
	}
	r := run(t, o)
	g := enter(t, r.dial(), parameters...)
	go func() { _, _ = g.Write(append(said, message('X', "")...)) }()
	var heard []string
	for {
		m, err := g.front.Receive()
		if err != nil {
			break
		}
		heard = append(heard, words(m))
	}
	g.Close()
	synctest.Wait()
	if c, ok := o.Cluster.(*fileCluster); ok && c.left() != 0 {
		t.Errorf("%d things of the cluster's are left", c.left())
	}
	r.end()
	return strings.Join(heard, " ")
}

func TestPreparedStatementsAreBounded(t *testing.T) {
	o := trusting(t, nil)
	synctest.Test(t, func(t *testing.T) {
		var said []byte
		for i := range maxPrepared + 1 {
			said = append(said, parseMessage(fmt.Sprint("s", i), "SELECT 1")...)
		}
		want := strings.Repeat("ParseComplete ", maxPrepared) + "54000 ready"
		if got := talk(t, o, append(said, syncMessage...), "database", "postgres"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// A list of files that nobody reads, or wants any more, ends.
func TestListOfFilesIsLeft(t *testing.T) {
	for _, end := range []string{"the client goes", "it is canceled", "the server ends"} {
		for _, extended := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, extended %t", end, extended), func(t *testing.T) {
				o := trusting(t, nil)
				synctest.Test(t, func(t *testing.T) {
					c := newFileCluster()
					c.endless = true
					o := o
					o.Cluster = c
					r := run(t, o)
					g := enter(t, r.dial(), "database", "postgres")
					said := query(listFiles)
					if extended {
						said = messages(parseMessage("", listFiles), bindMessage(""), executeMessage(""), syncMessage)
					}
					g.say(t, said)
					synctest.Wait()
					switch end {
					case "the client goes":
						g.Close()
					case "it is canceled":
						p, err := (&pgproto3.CancelRequest{ProcessID: g.key.ProcessID, SecretKey: g.key.SecretKey}).Encode(nil)
						if err != nil {
							t.Fatal(err)
						}
						conn := r.dial()
						if _, err := conn.Write(p); err != nil {
							t.Fatal(err)
						}
						conn.Close()
						heard := ""
						for heard != codeCanceled {
							m, err := g.front.Receive()
							if err != nil {
								t.Fatal(err)
							}
							heard = words(m)
						}
						g.Close()
					}
					r.end()
					if n := c.left(); n != 0 {
						t.Errorf("%d things of the cluster's are left", n)
					}
					g.Close()
				})
			})
		}
	}
}
