package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/wal"
)

// listSource yields members, then err, or io.EOF if that is nil.
type listSource struct {
	t       *testing.T
	members []scripted
	err     error
	ended   bool
}

func (s *listSource) Begin(context.Context) (Start, error) { return begins, nil }

func (s *listSource) Next(context.Context) (Member, io.Reader, error) {
	if s.ended {
		s.t.Error("a member is asked for after the end")
	}
	if len(s.members) == 0 {
		if s.ended = true; s.err != nil {
			return Member{}, nil, s.err
		}
		return Member{}, nil, io.EOF
	}
	f := s.members[0]
	s.members = s.members[1:]
	if f.content == "" {
		return f.m, nil, nil
	}
	return f.m, strings.NewReader(f.content), nil
}

func (s *listSource) End(context.Context) (wal.Position, error) { return ends, nil }

func (s *listSource) Close() error { return nil }

// read returns what a source yields. It reads at most limit bytes of each member.
func read(t *testing.T, src Source, limit int64) ([]scripted, error) {
	var all []scripted
	for {
		m, r, err := src.Next(t.Context())
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return all, err
		}
		var content []byte
		if r != nil {
			if content, err = io.ReadAll(io.LimitReader(r, limit)); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, scripted{m, string(content)})
	}
}

func elsewhere(f scripted) scripted {
	f.m.Tablespace = 16384
	return f
}

func manifest() scripted {
	return scripted{Member{Path: "backup_manifest", Kind: Manifest, Size: -1, Mode: 0o600}, "{}"}
}

const settings = "primary_conninfo = 'host=a'\n"

// added is a file that the source did not send.
func added(name, content string) scripted {
	return scripted{Member{Path: name, Kind: File, Size: int64(len(content)), Mode: 0o640, UID: 2048, GID: 1024, ModTime: time.Now()}, content}
}

// continued is a file with more at its end, made now.
func continued(name, content string) scripted {
	f := file(name, content)
	f.m.ModTime = time.Now()
	return f
}

func TestWithRecovery(t *testing.T) {
	control := file("global/pg_control", "control")
	// The functions run inside the bubble, where time is fake.
	for _, c := range []struct {
		name   string
		signal bool // from 12 on
		in     func() []scripted
		want   func() []scripted
	}{
		{"settings there", true,
			func() []scripted {
				return []scripted{file("postgresql.auto.conf", "# comment\n"), dir("global"), control, manifest()}
			},
			func() []scripted {
				return []scripted{continued("postgresql.auto.conf", "# comment\n"+settings), dir("global"), added("standby.signal", ""), control, manifest()}
			}},
		{"settings absent", true,
			func() []scripted { return []scripted{dir("global"), control, manifest()} },
			func() []scripted {
				return []scripted{dir("global"), added("postgresql.auto.conf", settings), added("standby.signal", ""), control, manifest()}
			}},
		{"settings empty", true,
			func() []scripted { return []scripted{file("postgresql.auto.conf", ""), control} },
			func() []scripted {
				return []scripted{continued("postgresql.auto.conf", settings), added("standby.signal", ""), control}
			}},
		{"source is a standby itself", true,
			func() []scripted {
				return []scripted{file("standby.signal", "theirs"), file("postgresql.auto.conf", "a = 1\n"), control}
			},
			func() []scripted {
				return []scripted{continued("postgresql.auto.conf", "a = 1\n"+settings), added("standby.signal", ""), control}
			}},
		{"paths with a dot before them", true,
			func() []scripted {
				return []scripted{file("./standby.signal", ""), file("./postgresql.auto.conf", "a = 1\n"), file("./global/pg_control", "control")}
			},
			func() []scripted {
				return []scripted{continued("./postgresql.auto.conf", "a = 1\n"+settings), added("standby.signal", ""), file("./global/pg_control", "control")}
			}},
		{"tablespace with the same names", true,
			func() []scripted {
				return []scripted{
					elsewhere(file("global/pg_control", "x")), elsewhere(file("standby.signal", "y")), elsewhere(file("postgresql.auto.conf", "z")),
					file("postgresql.auto.conf", "a = 1\n"), control, manifest(),
				}
			},
			func() []scripted {
				return []scripted{
					elsewhere(file("global/pg_control", "x")), elsewhere(file("standby.signal", "y")), elsewhere(file("postgresql.auto.conf", "z")),
					continued("postgresql.auto.conf", "a = 1\n"+settings), added("standby.signal", ""), control, manifest(),
				}
			}},
		{"same names deeper", true,
			func() []scripted {
				return []scripted{file("base/standby.signal", "x"), file("base/postgresql.auto.conf", "y"), control}
			},
			func() []scripted {
				return []scripted{file("base/standby.signal", "x"), file("base/postgresql.auto.conf", "y"),
					added("postgresql.auto.conf", settings), added("standby.signal", ""), control}
			}},
		{"names that only begin so", true,
			func() []scripted {
				return []scripted{file("standby.signal.bak", "x"), file("postgresql.auto.conf.bak", "y"), file("recovery.conf", "z"), control}
			},
			func() []scripted {
				return []scripted{file("standby.signal.bak", "x"), file("postgresql.auto.conf.bak", "y"), file("recovery.conf", "z"),
					added("postgresql.auto.conf", settings), added("standby.signal", ""), control}
			}},
		{"log after the control file", true,
			func() []scripted {
				return []scripted{control, file("pg_wal/000000010000000000000002", "log"), manifest()}
			},
			func() []scripted {
				return []scripted{added("postgresql.auto.conf", settings), added("standby.signal", ""), control, file("pg_wal/000000010000000000000002", "log"), manifest()}
			}},
		{"no control file", true,
			func() []scripted { return []scripted{dir("global"), manifest()} },
			func() []scripted {
				return []scripted{dir("global"), added("postgresql.auto.conf", settings), added("standby.signal", ""), manifest()}
			}},
		{"no control file, no manifest", true,
			func() []scripted { return []scripted{dir("global")} },
			func() []scripted {
				return []scripted{dir("global"), added("postgresql.auto.conf", settings), added("standby.signal", "")}
			}},
		{"nothing", true,
			func() []scripted { return nil },
			func() []scripted {
				return []scripted{added("postgresql.auto.conf", settings), added("standby.signal", "")}
			}},

		{"before 12", false,
			func() []scripted {
				return []scripted{file("postgresql.auto.conf", "a = 1\n"), control}
			},
			func() []scripted {
				return []scripted{file("postgresql.auto.conf", "a = 1\n"), added("recovery.conf", settings), control}
			}},
		{"before 12, source is a standby itself", false,
			func() []scripted {
				return []scripted{file("recovery.conf", "standby_mode = on\n"), file("standby.signal", "not ours"), control, manifest()}
			},
			func() []scripted {
				return []scripted{file("standby.signal", "not ours"), added("recovery.conf", settings), control, manifest()}
			}},
		{"before 12, tablespace with the same name", false,
			func() []scripted { return []scripted{elsewhere(file("recovery.conf", "x")), control} },
			func() []scripted {
				return []scripted{elsewhere(file("recovery.conf", "x")), added("recovery.conf", settings), control}
			}},
		{"before 12, no control file, no manifest", false,
			func() []scripted { return []scripted{dir("global")} },
			func() []scripted { return []scripted{dir("global"), added("recovery.conf", settings)} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := WithRecovery(&listSource{t: t, members: c.in()}, RecoveryOptions{Settings: settings, Mode: 0o640, Signal: c.signal})
				got, err := read(t, src, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want(), got, compareScripted); diff != "" {
					t.Errorf("members differ (-want +got):\n%s", diff)
				}
				for _, g := range got {
					if g.m.Kind == File && g.m.Size != int64(len(g.content)) {
						t.Errorf("%s: %d bytes of %d", g.m.Path, len(g.content), g.m.Size)
					}
				}
			})
		})
	}
}

// TestWithRecoveryPasses says that the rest of the source is as it was.
func TestWithRecoveryPasses(t *testing.T) {
	for _, cause := range []error{errSource, fmt.Errorf("could not read COPY data: %w", io.EOF), io.ErrUnexpectedEOF} {
		src := WithRecovery(&listSource{t: t, members: []scripted{dir("global")}, err: cause}, RecoveryOptions{Signal: true})
		if got, err := read(t, src, 0); err != cause || len(got) != 1 {
			t.Errorf("%d members, %v, want %v after one", len(got), err, cause)
		}
	}
	src := WithRecovery(&listSource{t: t}, RecoveryOptions{})
	if start, err := src.Begin(t.Context()); err != nil || start.Position != begins.Position {
		t.Errorf("begins at %v, %v", start.Position, err)
	}
	if end, err := src.End(t.Context()); err != nil || end != ends {
		t.Errorf("ends at %v, %v", end, err)
	}
}

// TestWithRecoveryOverTar leaves members unread, as a sink may that has failed,
// and lets the standard library read the result.
func TestWithRecoveryOverTar(t *testing.T) {
	in := []scripted{file("postgresql.auto.conf", strings.Repeat("x", 600)), dir("global"), file("standby.signal", "theirs"), file("global/pg_control", "control")}
	source := func() Source {
		raw := archive(t, in...)
		return WithRecovery(tarSource{&listSource{}, NewTarReader(&pieces{t: t, data: raw, size: 100}, 0)}, RecoveryOptions{Settings: settings, Signal: true})
	}
	want := []string{"postgresql.auto.conf", "global", "standby.signal", "global/pg_control"}
	for _, limit := range []int64{0, 1, 600, 601, 1 << 20} {
		got, err := read(t, source(), limit)
		if err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, g := range got {
			paths = append(paths, g.m.Path)
		}
		if diff := cmp.Diff(want, paths); diff != "" {
			t.Errorf("%d bytes of each (-want +got):\n%s", limit, diff)
		}
	}

	got, err := read(t, source(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(archive(t, got...)))
	sizes := map[string]int64{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		sizes[h.Name] = h.Size
	}
	if diff := cmp.Diff(map[string]int64{"postgresql.auto.conf": 600 + int64(len(settings)), "global/": 0, "standby.signal": 0, "global/pg_control": 7}, sizes); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
}

// tarSource yields the members of one archive, with one reader for all.
type tarSource struct {
	*listSource
	r *TarReader
}

func (s tarSource) Next(context.Context) (Member, io.Reader, error) {
	m, err := s.r.Next()
	return m, s.r, err
}
