package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/repo"
)

// silent returns a report that is read by nobody.
func silent(t *testing.T) *report {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	return newReport("basin", null, func(string) (string, bool) { return "", false })
}

var errDown = errors.New("it does not answer")

// TestAskEach asks two repositories for a file of the log: that it is in none is only known if both have said so.
func TestAskEach(t *testing.T) {
	absent := fmt.Errorf("file: %w", fs.ErrNotExist)
	noCluster := fmt.Errorf("%w main: %w", errNoCluster, fs.ErrNotExist)
	for _, test := range []struct {
		reason string
		first  error // nil has it
		second error
		takes  time.Duration // that the first takes, and at most a second more the whole
		want   string
		known  bool // that it is in none
	}{
		{"the first has it", nil, errDown, 0, "first", false},
		{"the first has it after a while", nil, absent, time.Minute, "first", false},
		{"the second has it", absent, nil, 0, "second", false},
		{"the first is down", errDown, nil, 0, "second", false},
		{"the first hangs", errDown, nil, time.Hour, "second", false},
		{"it is in none", absent, absent, 0, "", true},
		{"the second may have it", absent, errDown, 0, "", false},
		{"the first may have it", errDown, absent, time.Minute, "", false},
		{"the second has nothing of the cluster yet", absent, noCluster, 0, "", true},
		{"none has anything of the cluster", noCluster, noCluster, 0, "", false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				all := []repositoryOptions{{Location: "first"}, {Location: "second"}}
				content, err := askEach(t.Context(), silent(t), all, func(ctx context.Context, one repositoryOptions) (string, error) {
					if one.Location == "second" {
						return "second", test.second
					}
					select {
					case <-time.After(test.takes):
					case <-ctx.Done():
						return "", context.Cause(ctx)
					}
					return "first", test.first
				})
				if (err == nil) != (test.want != "") || err == nil && content != test.want {
					t.Errorf("got %q, error %v", content, err)
				}
				if errors.Is(err, fs.ErrNotExist) != test.known {
					t.Errorf("got %v", err)
				}
				if took := time.Since(begun); took > max(nextTime, test.takes) || test.takes == time.Hour && took > nextTime {
					t.Errorf("it took %v", took)
				}
				synctest.Wait()
			})
		})
	}
}

// TestDoInAll writes to three repositories, and looks at what counts as success.
func TestDoInAll(t *testing.T) {
	conflict := &repo.OtherLogError{Name: "x", Have: make([]byte, 32), Refused: make([]byte, 32)}
	for _, test := range []struct {
		reason string
		need   int
		errs   [3]error // errLate never ends
		want   string   // what the error has; empty for none
	}{
		{"all", 3, [3]error{}, ""},
		{"one is down", 3, [3]error{nil, errDown, nil}, "it is in 2 of 3 repositories, and is to be in 3: repository 1: it does not answer"},
		{"two of three", 2, [3]error{nil, errDown, nil}, ""},
		{"one of two that are to", 2, [3]error{errDown, nil, errDown}, "it is in 1 of 3"},
		{"any", 1, [3]error{errDown, errDown, nil}, ""},
		{"none", 1, [3]error{errDown, errDown, errDown}, "it is in 0 of 3"},
		{"one hangs and is not needed", 2, [3]error{nil, errLate, nil}, ""},
		{"another content is an error in any case", 1, [3]error{nil, conflict, nil}, "with another content"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				var all []repositoryOptions
				for i := range test.errs {
					all = append(all, repositoryOptions{Location: fmt.Sprint(i)})
				}
				outcomes := doInAll(t.Context(), all, test.need, func(ctx context.Context, one repositoryOptions) error {
					err := test.errs[one.Location[0]-'0']
					if errors.Is(err, errLate) {
						<-ctx.Done()
					}
					return err
				})
				err := settle(silent(t), test.need, outcomes)
				if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(begun); took > lateTime {
					t.Errorf("it took %v", took)
				}
				synctest.Wait()
			})
		})
	}
}

// TestSeveralRepositories pushes files of the log into two repositories, of which one goes away.
func TestSeveralRepositories(t *testing.T) {
	clearEnvironment(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "basin.toml")
	configure := func(success string) {
		write(t, config, fmt.Sprintf("[repository.local]\nlocation = \"%[1]s/local\"\n[repository.offsite]\nlocation = \"%[1]s/offsite\"\n"+
			"[cluster.shop]\nrepositories = [\"local\", \"offsite\"]\n%[2]s\n", dir, success))
	}
	call := func(args ...string) int {
		t.Helper()
		_, err := callBasin(t, append(args, "--config="+config, "--system-id=42")...)
		return statusOf(err)
	}
	configure("")
	for _, name := range []string{"local", "offsite"} {
		if _, err := callBasin(t, "init", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	history := func(n int) string {
		path := filepath.Join(dir, fmt.Sprintf("%08X.history", n))
		write(t, path, "1\t0/3000000\tno recovery target specified\n")
		return path
	}
	got := filepath.Join(dir, "got")
	for _, step := range []struct {
		reason string
		do     func() int
		want   int
	}{
		{"into both", func() int { return call("wal", "push", history(2)) }, exitSuccess},
		{"and from the first", func() int { return call("wal", "get", "00000002.history", got) }, exitSuccess},
		{"it is in none", func() int { return call("wal", "get", "00000003.history", got) }, exitFailure},
		{"the second goes away", func() int { return statusOf(os.Rename(filepath.Join(dir, "offsite"), filepath.Join(dir, "away"))) }, exitSuccess},
		{"all are to have it", func() int { return call("wal", "push", history(3)) }, exitFailure},
		{"the first has it all the same", func() int { return call("wal", "get", "00000003.history", got) }, exitSuccess},
		{"the second may have it", func() int { return call("wal", "get", "00000004.history", got) }, exitUnknown},
		{"any is enough", func() int { configure(`success = "any"`); return call("wal", "push", history(4)) }, exitSuccess},
		{"one is enough", func() int { configure(`success = 1`); return call("wal", "push", history(5)) }, exitSuccess},
		{"there are no three", func() int { configure(`success = 3`); return call("wal", "push", history(5)) }, exitFailure},
		{"nor some", func() int { configure(`success = "some"`); return call("wal", "push", history(5)) }, exitFailure},
		{"the first goes away, and the second comes back", func() int {
			configure("")
			return statusOf(errors.Join(os.Rename(filepath.Join(dir, "local"), filepath.Join(dir, "gone")), os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "offsite"))))
		}, exitSuccess},
		{"from the second", func() int { return call("wal", "get", "00000002.history", got) }, exitSuccess},
		{"what only the first had is not known", func() int { return call("wal", "get", "00000003.history", got) }, exitUnknown},
		{"of which is the key", func() int { return call("wal", "push", history(2), "--key-file=/k") }, exitFailure},
		{"one that is named", func() int { return call("wal", "push", history(2), "--repository=offsite") }, exitSuccess},
	} {
		if status := step.do(); status != step.want {
			t.Fatalf("%s: status %d, want %d", step.reason, status, step.want)
		}
	}
}
