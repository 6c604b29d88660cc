package live

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/pgtest"
	"basin/internal/protocol"
)

// odd makes files in a data directory that are no part of a usual one.
func odd(t *testing.T, s *pgtest.Server) {
	t.Helper()
	for name, content := range map[string]string{
		"users file":                  "kept",
		"base/pgsql_tmp/x":            "excluded",
		"pgsql_tmp_x":                 "excluded",
		".DS_Store":                   "excluded",
		"current_logfiles.tmp":        "excluded",
		"postgresql.auto.conf.tmp":    "excluded",
		"global/pg_internal.init":     "excluded from 11 on",
		"global/pg_internal.init.123": "excluded from 11 on",
		"base/1/t3_16450":             "excluded from 11 on",
		"base/1/t3_16450_fsm.1":       "excluded from 11 on",
		"base/1/t3x_16450":            "kept",
		"base/1/99999":                "excluded from 11 on",
		"base/1/99999_init":           "kept",
		"base/1/99999.2":              "excluded from 11 on",
		"base/1/99999_vm":             "excluded from 11 on",
		"folder/pg_notify/x":          "only the folder is kept",
		"folder/backup_label":         "excluded",
		"folder/tablespace_map":       "excluded",
		"folder/postmaster.pid":       "excluded",
		"folder/backup_manifest":      "excluded from 13 on",
		"folder/postgresql.conf":      "kept",
		"folder/global/pg_control":    "kept",
		"pg_replslot/x/state":         "only the folder is kept",
		"caf\xe9":                     "kept, and not UTF-8",
		"folder/quote\"\\\n":          "kept",
	} {
		path := filepath.Join(s.DataDir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(s.DataDir, "folder"), 0o750|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"a link": "users file", "pg_snapshots": "folder"} {
		path := filepath.Join(s.DataDir, name)
		os.Remove(path)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(s.DataDir, "a pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, s.DataDir)
}

// start makes a server with tablespaces and all kinds of tables.
func start(t *testing.T, major int, conf map[string]string) *pgtest.Server {
	t.Helper()
	c := pgtest.Config{Major: major, Checksums: true, GroupAccess: major == 16, Conf: map[string]string{"autovacuum": "off"}}
	if major >= 15 {
		c.Conf["allow_in_place_tablespaces"] = "on"
	}
	for name, value := range conf {
		c.Conf[name] = value
	}
	s := pgtest.Start(t, c)
	s.Tablespace(t, "outside")
	s.Tablespace(t, "empty")
	tablespaces := []string{"outside"}
	if major >= 15 {
		s.Exec(t, "CREATE TABLESPACE inside LOCATION ''")
		tablespaces = append(tablespaces, "inside")
	}
	pgtest.Fill(t, s, 1, tablespaces...)
	return s
}

func TestAsTheServerSendsIt(t *testing.T) {
	for _, major := range []int{10, 13, 15, 16, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := start(t, major, nil)
			odd(t, s)
			temporary := s.Connect(t, "")
			if _, err := temporary.Exec(t.Context(), "CREATE TEMPORARY TABLE passing AS SELECT generate_series(1, 1000)").ReadAll(); err != nil {
				t.Fatal(err)
			}
			s.Exec(t, "CHECKPOINT")
			command, o := protocol.BaseBackup{Label: "it's a label"}, Options{Label: "it's a label"}
			if major >= 13 {
				command.Manifest, o.Manifest = "yes", WithManifest
				command.ManifestChecksums, o.Algorithm = "SHA256", manifest.SHA256
			}
			theirs(t, s, command, "", new(notices)) // so that all hints are set
			for _, test := range []struct {
				reason string
				change func(*protocol.BaseBackup, *Options)
			}{
				{"as it is", func(*protocol.BaseBackup, *Options) {}},
				{"with a tablespace map", func(c *protocol.BaseBackup, o *Options) { c.TablespaceMap, o.TablespaceMap = true, true }},
				{"with the log", func(c *protocol.BaseBackup, o *Options) { c.WAL, o.WAL = true, true }},
				{"with a manifest of hexadecimal digits", func(c *protocol.BaseBackup, o *Options) {
					if major >= 13 {
						c.Manifest, o.Manifest, c.ManifestChecksums, o.Algorithm = "force-encode", ForceEncoding, "", manifest.CRC32C
					}
				}},
				{"without checksums, apart, with sizes", func(c *protocol.BaseBackup, o *Options) {
					o.Apart, c.Progress, o.EstimateSize = true, true, true
					if major >= 13 {
						c.ManifestChecksums, o.Algorithm = "NONE", manifest.NoChecksum
					}
				}},
			} {
				t.Run(test.reason, func(t *testing.T) {
					var wantSaid, said notices
					command, o := command, o
					o.Notice, o.Progress = said.add, new(backup.Progress)
					test.change(&command, &o)
					wantStart, want, _ := theirs(t, s, command, "", &wantSaid)
					src := backUp(t, s, o)
					gotStart, got, end := take(t, src)
					if err := src.Close(); err != nil {
						t.Error(err)
					}
					size := int64(0)
					for _, k := range got {
						if k.m.Kind != backup.Manifest {
							size += tarSize(k.m)
						}
					}
					if p := o.Progress; p.Done.Load() != size || p.Total.Load() != gotStart.Size || p.Tablespace.Load() != p.Count.Load() || int(p.Count.Load()) != len(gotStart.Tablespaces)+1 {
						t.Errorf("progress is %d of %d, %d of %d; %d came", p.Done.Load(), p.Total.Load(), p.Tablespace.Load(), p.Count.Load(), size)
					}
					kilobytes := cmp.Comparer(func(a, b int64) bool { return a>>10 == b>>10 }) // as the server tells them
					if diff := cmp.Diff(wantStart.Tablespaces, gotStart.Tablespaces, kilobytes); diff != "" {
						t.Errorf("tablespaces (-server +ours):\n%s", diff)
					}
					if d := wantStart.Size - gotStart.Size; d < -1<<16 || d > 1<<16 {
						t.Errorf("size is %d, and not %d", gotStart.Size, wantStart.Size)
					}
					if end.LSN <= gotStart.Position.LSN || end.Timeline != 1 {
						t.Errorf("%v to %v", gotStart.Position, end)
					}
					if major == 15 && command.TablespaceMap { // whose tablespaces within the directory are lost
						lost := func(k taken) bool { return strings.HasPrefix(k.m.Path, "pg_tblspc/") }
						if !slices.ContainsFunc(got, lost) || slices.ContainsFunc(want, lost) {
							t.Error("the tablespace within the data directory is not there")
						}
						got = slices.DeleteFunc(got, func(k taken) bool { return lost(k) || k.m.Kind == backup.Manifest })
						want = slices.DeleteFunc(want, func(k taken) bool { return k.m.Kind == backup.Manifest })
					}
					compare(t, want, got)
					checkOrder(t, got)
					if command.Progress { // when the server says it twice
						slices.Sort(wantSaid.all)
						wantSaid.all = slices.Compact(wantSaid.all)
					}
					if major < 17 { // which look into files that are not of relations
						wantSaid.all = slices.DeleteFunc(wantSaid.all, func(text string) bool {
							return strings.Contains(text, " verify checksum") && !strings.Contains(text, "99999")
						})
					}
					slices.Sort(wantSaid.all)
					slices.Sort(said.all)
					if diff := cmp.Diff(wantSaid.all, said.all); diff != "" {
						t.Errorf("notices (-want +got):\n%s", diff)
					}
				})
			}
		})
	}
}

// last says that a member comes at another place than the server has it.
func last(k taken) bool {
	return k.m.Tablespace == 0 && slices.Contains([]string{"backup_label", "tablespace_map", "global/pg_control"}, k.m.Path)
}

// compare compares what came with what the server sends.
func compare(t *testing.T, want, got []taken) {
	t.Helper()
	content := map[string]taken{}
	describe := func(all []taken, isOurs bool) (lines []string, moved map[string]bool) {
		moved = map[string]bool{}
		for _, k := range all {
			if last(k) {
				moved[k.m.Path] = true
				continue
			}
			if strings.HasPrefix(k.m.Path, "pg_wal/0") || strings.HasPrefix(k.m.Path, "pg_wal/archive_status/0") {
				k.m.Path = strings.NewReplacer("0", "?", "1", "?", "2", "?", "3", "?", "4", "?", "5", "?", "6", "?", "7", "?", "8", "?", "9", "?", "A", "?", "B", "?", "C", "?", "D", "?", "E", "?", "F", "?").Replace(k.m.Path)
				k.sum = [32]byte{}
			}
			line := fmt.Sprintf("%s %d %v %d %d %q", k.key(), k.m.Kind, k.m.Mode, k.m.UID, k.m.GID, k.m.Target)
			if k.m.Kind == backup.File {
				line += fmt.Sprint(" ", k.m.Size)
			}
			if k.m.Kind == backup.Manifest {
				line = fmt.Sprint(k.key(), " ", k.m.Kind)
			}
			lines = append(lines, line)
			if !isOurs {
				content[k.key()] = k
			} else if other, ok := content[k.key()]; ok && k.m.Kind == backup.Manifest {
				if diff := cmp.Diff(quietManifest(other.content), quietManifest(k.content)); diff != "" {
					t.Errorf("manifest (-server +ours):\n%s", diff)
				}
			} else if ok && other.sum != k.sum {
				t.Errorf("%s: content differs: %d and %d bytes", k.key(), other.m.Size, k.m.Size)
			} else if ok && k.m.Kind == backup.File && !changes(k.m.Path) && other.m.ModTime.Unix() != k.m.ModTime.Unix() {
				t.Errorf("%s: %v and %v", k.key(), other.m.ModTime, k.m.ModTime)
			}
		}
		return lines, moved
	}
	wantLines, wantMoved := describe(want, false)
	gotLines, gotMoved := describe(got, true)
	if diff := cmp.Diff(wantLines, gotLines); diff != "" {
		t.Errorf("members (-server +ours):\n%s", diff)
	}
	if diff := cmp.Diff(wantMoved, gotMoved); diff != "" {
		t.Errorf("last members (-server +ours):\n%s", diff)
	}
}

// changes says that a file is another one with each checkpoint.
func changes(path string) bool {
	return strings.HasPrefix(path, "pg_wal/") || path == "pg_logical/replorigin_checkpoint"
}

// quietManifest returns the lines of a manifest that are the same at a quiet moment.
func quietManifest(content string) (lines []string) {
	for line := range strings.Lines(content) {
		hidden := false
		for _, path := range []string{"backup_label", "tablespace_map", "global/pg_control", "pg_wal/archive_status/", "pg_logical/replorigin_checkpoint", "Manifest-Checksum", "Start-LSN"} {
			hidden = hidden || strings.Contains(line, "\""+path) || strings.Contains(line, fmt.Sprintf("\"%x", path))
		}
		if !hidden {
			lines = append(lines, line)
		}
	}
	return lines
}

// checkOrder sees that there is nothing a server could start from before the backup label.
func checkOrder(t *testing.T, got []taken) {
	t.Helper()
	var order []string
	for _, k := range got {
		if last(k) || k.m.Kind == backup.Manifest {
			order = append(order, k.m.Path)
		} else if len(order) > 0 && !strings.HasPrefix(k.m.Path, "pg_wal/") {
			t.Errorf("%s comes after %v", k.m.Path, order)
		}
	}
	want := []string{"backup_label", "tablespace_map", "global/pg_control", "backup_manifest"}
	want = slices.DeleteFunc(want, func(path string) bool { return !slices.Contains(order, path) })
	if diff := cmp.Diff(want, order); diff != "" || order[0] != "backup_label" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}
