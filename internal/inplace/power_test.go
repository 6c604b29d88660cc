package inplace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"basin/internal/backup"
	"basin/internal/pgdata"
)

// powerVariable, if it is set, is the folder in which this process restores, and nothing else.
const powerVariable = "BASIN_POWER_OF"

func TestMain(m *testing.M) {
	if dir := os.Getenv(powerVariable); dir != "" {
		if err := powerProcess(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// powerSource is a backup without tablespaces.
type powerSource struct{ *source }

func (s powerSource) Begin(context.Context) (backup.Start, error) {
	return backup.Start{ServerVersion: 180000}, nil
}

// has says what the source has.
func (s powerSource) has(_ context.Context, _ uint32, path string) (backup.Kind, bool, error) {
	if _, ok := s.texts[path]; ok {
		return backup.File, true, nil
	}
	return backup.Dir, path == "global" || path == "base" || strings.HasPrefix(path, "base/"), nil
}

// powerTexts are what is in files of two backups, one after the other.
var powerTexts = []map[string]string{
	{"PG_VERSION": "18\n", "base/1/10": strings.Repeat("first ", 3000), "base/1/11": "gone in the second", "base/2/12": "and its folder", "global/pg_control": "control 0"},
	{"PG_VERSION": "18\n", "base/1/10": strings.Repeat("second ", 2000), "base/1/13": "not in the first", "backup_label": "second", "global/pg_control": "control 1"},
}

// newPowerSource returns a backup.
func newPowerSource(n int) powerSource {
	s := powerSource{&source{texts: powerTexts[n]}}
	dirs := make(map[string]bool)
	files := slices.Sorted(maps.Keys(s.texts))
	for _, name := range files {
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			dirs[dir] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		s.members = append(s.members, backup.Member{Path: dir, Kind: backup.Dir})
	}
	for _, name := range files {
		if name != pgdata.ControlPath {
			s.members = append(s.members, backup.Member{Path: name, Kind: backup.File})
		}
	}
	s.members = append(s.members, backup.Member{Path: pgdata.ControlPath, Kind: backup.File})
	return s
}

// powerRestore restores a backup.
func powerRestore(ctx context.Context, dir string, n int) error {
	d, err := Look(filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	src := newPowerSource(n)
	s := NewSink(Options{Directory: d, Marker: Marker{Cluster: "main", SystemID: 7}, Has: src.has})
	err = backup.Copy(ctx, s, src, backup.Options{})
	return errors.Join(err, s.Close())
}

// powerProcess restores a backup into a directory that is not there, and another one in its place.
func powerProcess(ctx context.Context, dir string) error {
	for n := range powerTexts {
		fmt.Println("begun", n)
		if err := powerRestore(ctx, dir, n); err != nil {
			return err
		}
		fmt.Println("restored", n)
	}
	return nil
}

// powerCheck says whether a directory is as it has to be after a power loss: with a control file it is all of the backup that
// this is of, what was said to be restored is, and another restore ends as ever.
func powerCheck(ctx context.Context, dir string, said []string) error {
	last := ""
	if len(said) > 0 {
		last = said[len(said)-1]
	}
	have, err := powerFiles(filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	_, isMarked := have[MarkerName]
	delete(have, MarkerName)
	whole := -1
	for n, want := range powerTexts {
		if have[pgdata.ControlPath] != want[pgdata.ControlPath] {
			continue
		}
		for name := range have {
			if strings.HasSuffix(name, ".tmp") { // of the marker or the control file
				delete(have, name)
			}
		}
		if whole = n; !maps.Equal(have, want) {
			return fmt.Errorf("there is the control file of backup %d, and %v", n, slices.Sorted(maps.Keys(have)))
		}
	}
	if what, number, _ := strings.Cut(last, " "); what == "restored" && (fmt.Sprint(whole) != number || isMarked) {
		return fmt.Errorf("%s, and there is %d, marked %t", last, whole, isMarked)
	}
	if err := powerRestore(ctx, dir, 1); err != nil {
		return fmt.Errorf("restored afterwards: %w", err)
	}
	have, err = powerFiles(filepath.Join(dir, "data"))
	if err == nil && !maps.Equal(have, powerTexts[1]) {
		err = fmt.Errorf("restored afterwards, and there is %v", slices.Sorted(maps.Keys(have)))
	}
	return err
}

// powerFiles returns what is in the files of a directory, by their paths.
func powerFiles(dir string) (map[string]string, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		relative, _ := filepath.Rel(dir, path) // it is below
		files[relative] = string(content)
		return err
	})
	return files, err
}
