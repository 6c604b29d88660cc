package cluster

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/server"
)

// dataDir makes a data directory with a pg_wal and a tablespace that are elsewhere, and one
// tablespace that is in its place.
func dataDir(t *testing.T) (dir, outside string) {
	t.Helper()
	dir, outside = t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		dir + "/PG_VERSION":                       "18\n",
		dir + "/base/1/1259":                      "pages",
		dir + "/pg_tblspc/17/PG_18_1/1/2":         "in its place",
		outside + "/wal/000000010000000000000001": "log",
		outside + "/space/PG_18_1/1/3":            "apart",
		outside + "/secret":                       "secret",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link(t, outside+"/wal", dir+"/pg_wal")
	link(t, outside+"/space", dir+"/pg_tblspc/16")
	return dir, outside
}

func link(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

func TestFileIsOpened(t *testing.T) {
	dir, outside := dataDir(t)
	link(t, outside+"/secret", dir+"/link")
	link(t, outside, dir+"/base/out")
	link(t, "../../../"+filepath.Base(outside), dir+"/pg_tblspc/18")
	link(t, outside+"/secret", outside+"/wal/link")
	link(t, outside, dir+"/pg_tblspc/name")
	if err := syscall.Mkfifo(dir+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	c := &files{Cluster: &Cluster{o: Options{DataDir: dir}}}
	const missing = "missing"
	for _, test := range []struct{ name, want string }{
		{"PG_VERSION", "18\n"},
		{"base/1/1259", "pages"},
		{"pg_wal/000000010000000000000001", "log"},
		{"pg_tblspc/16/PG_18_1/1/3", "apart"},
		{"pg_tblspc/17/PG_18_1/1/2", "in its place"},
		{"gone", missing},
		{"gone/gone", missing},
		{"PG_VERSION/below", missing},
		{"pg_tblspc/19/gone", missing},
		{"pg_wal/00000002.history", missing},

		{"", "42501"},
		{".", "42501"},
		{"..", "42501"},
		{"/etc/passwd", "42501"},
		{dir + "/PG_VERSION", "42501"},
		{"../" + filepath.Base(outside) + "/secret", "42501"},
		{"base/../PG_VERSION", "42501"},
		{"./PG_VERSION", "42501"},
		{"base//1/1259", "42501"},
		{"pg_wal/../secret", "42501"},
		{"PG_VERSION\x00", "42501"},

		{"base", "42809"},
		{"pg_wal", "42809"},
		{"pg_tblspc/16", "42809"},
		{"pipe", "42809"},
		{"link", "42809"},
		{"pg_wal/link", "42809"},
		{"base/out/secret", "58030"},
		{"pg_tblspc/name/secret", "58030"},
	} {
		t.Run(strings.ReplaceAll(test.name, "/", " "), func(t *testing.T) {
			f, err := c.Open(test.name)
			got := ""
			e := (*server.Error)(nil)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				got = missing
			case errors.As(err, &e):
				got = e.Code
				if strings.Contains(e.Message, dir) && !strings.Contains(test.name, dir) {
					t.Errorf("the client is told where the data directory is: %s", e.Message)
				}
			case err != nil:
				t.Fatal(err)
			default:
				content, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
				if err != nil {
					t.Fatal(err)
				}
				got = string(content)
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if got != test.want {
				t.Errorf("got %q (%v), want %q", got, err, test.want)
			}
		})
	}
}

// listed returns the paths of all files; those of directories end in a slash.
func listed(t *testing.T, dir string) (all []string, err error) {
	t.Helper()
	c := &files{Cluster: &Cluster{o: Options{DataDir: dir}}}
	c.fixed.Version = 180000
	for f, err := range c.All(t.Context()) {
		if err != nil {
			return nil, err
		}
		if f.IsDirectory {
			f.Path += "/"
		}
		if f.LinkTarget != "" {
			f.Path += " -> " + f.LinkTarget
		}
		all = append(all, f.Path)
	}
	slices.Sort(all)
	return all, nil
}

func TestFilesAreListed(t *testing.T) {
	dir, outside := dataDir(t)
	if err := syscall.Mkfifo(dir+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := listed(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		"PG_VERSION", "base/", "base/1/", "base/1/1259",
		"pg_tblspc/", "pg_tblspc/16/ -> " + outside + "/space", "pg_tblspc/16/PG_18_1/", "pg_tblspc/16/PG_18_1/1/", "pg_tblspc/16/PG_18_1/1/3",
		"pg_tblspc/17/ -> pg_tblspc/17", "pg_tblspc/17/PG_18_1/", "pg_tblspc/17/PG_18_1/1/", "pg_tblspc/17/PG_18_1/1/2",
		"pg_wal/", "pg_wal/000000010000000000000001",
	}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFilesThatAreLinks(t *testing.T) {
	for _, name := range []string{"postgresql.conf", "base/1/link", "pg_tblspc/name", "pg_tblspc/16/PG_18_1/link", "pg_wal/link", "base/1/loop", "dangling", "pg_tblspc/99"} {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			dir, outside := dataDir(t)
			to := outside + "/secret"
			switch path.Base(name) {
			case "loop":
				to = ".."
			case "dangling", "99":
				to = outside + "/gone"
			}
			link(t, to, filepath.Join(dir, name))
			if _, err := listed(t, dir); err == nil || !strings.Contains(err.Error(), `"`+name+`"`) {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := listed(t, filepath.Join(t.TempDir(), "gone")); err == nil {
		t.Error("there is no data directory")
	}
}

func TestFilesCanBeLeft(t *testing.T) {
	dir, _ := dataDir(t)
	c := &files{Cluster: &Cluster{o: Options{DataDir: dir}}}
	for range c.All(t.Context()) {
		break
	}
}

func TestCheckPlace(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	if err := os.WriteFile(other+"/postmaster.pid", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const started, port = "1790000000", "5432"
	for _, c := range []struct {
		name, theirs, content string
		ok                    bool
	}{
		{"the same", dir, "1\n" + dir + "\n1790000000\n5432\n/tmp\n", true},
		{"a server that starts slowly", dir, "1\n" + dir + "\n1789999970\n5432\n/tmp\n", true},
		{"in a container", "/gone", "1\n/gone\n1790000000\n5432\n/tmp\n", true},
		{"a copy", other, "1\n" + other + "\n1790000000\n5432\n/tmp\n", false},
		{"another directory", other, "1\n" + dir + "\n1790000000\n5432\n/tmp\n", false},
		{"another port", dir, "1\n" + dir + "\n1790000000\n5433\n/tmp\n", false},
		{"of an earlier start", dir, "1\n" + dir + "\n1780000000\n5432\n/tmp\n", false},
		{"of a later start", dir, "1\n" + dir + "\n1790000100\n5432\n/tmp\n", false},
		{"cut short", dir, "1\n" + dir + "\n", false},
		{"garbage", dir, "\n\n\n\n\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(dir+"/postmaster.pid", []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			cluster := &Cluster{o: Options{DataDir: dir}}
			if err := cluster.checkPlace(started, c.theirs, port); (err == nil) != c.ok {
				t.Error(err)
			}
		})
	}
}
