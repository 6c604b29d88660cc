package waldir

import (
	"io"
	"io/fs"
	"strings"
	"testing"

	"basin/internal/backup"
	"basin/internal/backup/sinktest"
	"basin/internal/seal"
	"basin/internal/wal"
	"basin/internal/wal/keepertest"
)

// keeper is a Directory that is told, as the suite does, whether its log is whole.
type keeper struct {
	*Directory
	committed bool
}

func (k *keeper) Commit() error {
	if k.committed || k.closed {
		return fs.ErrClosed
	}
	k.committed = true
	return nil
}

func (k *keeper) Begin(name string, size int64) (wal.SegmentWriter, error) {
	if k.committed {
		return nil, fs.ErrClosed
	}
	return k.Directory.Begin(name, size)
}

func (k *keeper) HasHistory(name string) (bool, error) {
	for method := seal.None; method <= seal.Zstd; method++ {
		if _, err := k.disk.stat(name + seal.Suffix(method)); err == nil {
			return true, nil
		}
	}
	return false, nil
}

func (k *keeper) History(name string, content []byte) error {
	if k.committed {
		return fs.ErrClosed
	}
	return k.Directory.History(name, content)
}

func TestDirectoryKeepsItsPromises(t *testing.T) {
	for _, c := range []struct {
		name    string
		options Options
	}{
		{"as it comes", Options{}},
		{"not synced", Options{NoSync: true}},
		{"flushed quickly", Options{QuickFlush: true}},
		{"gzip", Options{Compression: seal.Spec{Algorithm: seal.Gzip}}},
		{"lz4", Options{Compression: seal.Spec{Algorithm: seal.LZ4}}},
		{"zstd", Options{Compression: seal.Spec{Algorithm: seal.Zstd}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			keepertest.Suite{Open: func(t *testing.T, dir string) keepertest.Subject {
				o := c.options
				o.Path, o.SegmentSize = dir, wal.MinSegmentSize
				o.Warn = func(err error) { t.Errorf("warned: %v", err) }
				d, err := Open(o)
				if err != nil {
					t.Fatal(err)
				}
				return keepertest.Subject{Keeper: &keeper{Directory: d}, Read: func(t *testing.T) map[string]string {
					return readKept(t, dir, o.Compression.Algorithm)
				}}
			}}.Run(t)
		})
	}
}

// readKept returns the files of a directory, decompressed, under the names that the
// suite has for them: a partial segment has its final name, a complete one a mark
// beside it.
func readKept(t *testing.T, dir string, method seal.Algorithm) map[string]string {
	t.Helper()
	files := map[string]string{}
	for key, e := range sinktest.ReadTree(t, 0, dir) {
		if e.Kind != backup.File || e.Mode != 0o600 {
			t.Errorf("%s has kind %d and mode %o", key.Path, e.Kind, e.Mode)
		}
		name, partial := strings.CutSuffix(key.Path, ".partial")
		name, ok := strings.CutSuffix(name, seal.Suffix(method))
		if !ok {
			t.Errorf("%s is not compressed with %v", key.Path, method)
		}
		files[name] = unpacked(t, e.Content, method)
		if !partial {
			files["archive_status/"+name+".done"] = ""
		}
	}
	return files
}

func unpacked(t *testing.T, content string, method seal.Algorithm) string {
	t.Helper()
	r, err := seal.NewReader(strings.NewReader(content), method)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := new(strings.Builder)
	if _, err := io.Copy(b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
