package pgdata

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// TestControlState compares with what pg_controldata shows.
func TestControlState(t *testing.T) {
	for _, major := range []int{15, 17, 18} { // of each form of the file since 13
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major, Conf: map[string]string{"max_connections": "33", "max_wal_senders": "7", "max_prepared_transactions": "5"}})
			s.Stop(t, pgtest.Fast)
			content, err := os.ReadFile(filepath.Join(s.DataDir, ControlPath))
			if err != nil {
				t.Fatal(err)
			}
			c, err := ParseControlState(content)
			if err != nil {
				t.Fatal(err)
			}
			out, err := pgtest.Command(t, major, "pg_controldata", s.DataDir).Output()
			if err != nil {
				t.Fatal(err)
			}
			shown := make(map[string]string)
			for line := range strings.Lines(string(out)) {
				name, value, _ := strings.Cut(line, ":")
				shown[name] = strings.TrimSpace(value)
			}
			for name, value := range map[string]any{
				"Database cluster state": c.State, "Latest checkpoint location": c.Checkpoint, "Latest checkpoint's TimeLineID": c.Timeline,
				"Minimum recovery ending location": c.MinRecovery, "Backup start location": c.BackupStart, "max_connections setting": c.MaxConnections,
				"max_worker_processes setting": c.MaxWorkerProcesses, "max_wal_senders setting": c.MaxWALSenders,
				"max_prepared_xacts setting": c.MaxPreparedTransactions, "max_locks_per_xact setting": c.MaxLocksPerTransaction,
			} {
				if got := fmt.Sprint(value); got != shown[name] {
					t.Errorf("%s is %s, and shown is %q", name, got, shown[name])
				}
			}
		})
	}
}

func TestControlStateThatIsNone(t *testing.T) {
	if _, err := ParseControlState(controlFile(1100, 280)); !errors.Is(err, ErrControlVersion) {
		t.Error(err)
	}
	if _, err := ParseControlState(nil); !errors.Is(err, ErrControlChecksum) {
		t.Error(err)
	}
}
