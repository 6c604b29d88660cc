package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"basin/internal/pgtest"
)

// TestAcknowledgedCommitsSurvive loses the primary, with its disk, and the receiver
// that its commits wait for, in the same moment. The receiver's directory and a
// base backup are all that is left. Only processes die: what the system was given
// is written, so that remote_write must hold as well.
func TestAcknowledgedCommitsSurvive(t *testing.T) {
	t.Parallel()
	basin, backups := newProgram(t, "pg_receivewal"), newProgram(t, "pg_basebackup")
	for _, compression := range compressions {
		for level, last := range map[string]moment{"remote_write": onItsWay, "on": fetchingAgain} {
			t.Run(compression+", "+level, func(t *testing.T) {
				t.Parallel()
				s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: segmentSize >> 20, Conf: map[string]string{"max_wal_size": "64MB"}})
				r := newLogReceiver(t, basin, s, newReceivedLog(t, s, s.DataDir), "only_standby", "--synchronous", "-Z", compression)
				r.startsSlowly(t, s, "only_standby")
				p := r.start(t)
				backup := logBackup(t, backups, s)
				s.Set(t, "synchronous_standby_names", "only_standby")
				load := pgtest.StartLoad(t.Context(), t, s, 4, "options=-csynchronous_commit="+level)
				for _, m := range []moment{onItsWay, anyMoment, fetchingAgain, onItsWay, last} {
					p.kill(t)
					before := load.Committed()
					p = r.startUntil(t, m, func() bool { return load.Committed() > before+50 })
				}
				p.signal(t, syscall.SIGKILL)
				s.Kill(t)
				p.wait(t)
				committed := load.Stop(t)
				if err := os.RemoveAll(s.DataDir); err != nil {
					t.Fatal(err)
				}
				restored := restore(t, s.Major, backup, r.log.path)
				checkCommitted(t, restored, committed)
			})
		}
	}
}

// checkCommitted fails the test unless a server has each commit that a client was
// told of, and at most one more of each client.
func checkCommitted(t *testing.T, s *pgtest.Server, committed []int64) {
	t.Helper()
	for client, told := range committed {
		answer := s.Query(t, fmt.Sprintf("SELECT count(*), coalesce(max(n), 0) FROM load_log WHERE client = %d", client))
		var count, last int64
		if _, err := fmt.Sscan(strings.ReplaceAll(answer, "|", " "), &count, &last); err != nil {
			t.Fatalf("%q: %v", answer, err)
		}
		if count != last || last < told || last > told+1 {
			t.Errorf("client %d was told of %d commits; there are %d, the last is %d", client, told, count, last)
		}
	}
}

// logBackup takes a base backup without any log.
func logBackup(t *testing.T, backups *program, s *pgtest.Server) (dir string) {
	t.Helper()
	dir = filepath.Join(pgtest.TempDir(t), "backup")
	e := backups.run(t, nil, "-D", dir, "-d", s.ConnString(), "-c", "fast", "-X", "none")
	if e.status != exitSuccess { // it may say that there has to be an archive
		t.Fatalf("%s", e)
	}
	return dir
}

// restoreScript is a restore_command: $1 is the receiver's directory, $2 the file
// that is wanted, $3 its place. Of a segment that was never complete it takes what
// there is, in the newest form.
const restoreScript = `#!/bin/sh
unpack() {
	case "$1" in
	*.gz*) gzip -dc ;;
	*.lz4*) lz4 -dc ;;
	*.zst*) zstd -dc ;;
	*) cat ;;
	esac <"$1" 2>/dev/null
}
for ending in "" .gz .lz4 .zst; do
	if [ -f "$1/$2$ending" ]; then
		unpack "$1/$2$ending" >"$3"
		exit
	fi
done
newest=$(ls -t "$1/$2".*partial "$1/$2".partial 2>/dev/null | head -n 1)
[ -n "$newest" ] || exit 1
unpack "$newest" >"$3"
truncate -s 1M "$3"
`

// restore starts a server on a backup, which has no log, with what a receiver's
// directory has of it, and waits until that has been replayed.
func restore(t *testing.T, major int, backup, log string) *pgtest.Server {
	t.Helper()
	script := filepath.Join(pgtest.TempDir(t), "restore.sh")
	if err := os.WriteFile(script, []byte(restoreScript), 0o755); err != nil {
		t.Fatal(err)
	}
	pgtest.SetRecovery(t, major, backup, pgtest.Recovery{Settings: map[string]string{
		"restore_command":          fmt.Sprintf("sh '%s' '%s' %%f %%p", script, log),
		"recovery_target_timeline": "latest",
	}})
	s := pgtest.StartDir(t, major, backup, map[string]string{"archive_mode": "off", "synchronous_standby_names": ""})
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	return s
}
