package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"basin/internal/pgtest"
	"basin/internal/wal"
)

// compressions are the ways in which a receiver can keep the log.
var compressions = []string{"none", "gzip", "lz4", "zstd"}

// decompressors are the programs that read files with an ending. Ours does not
// judge itself.
var decompressors = map[string]string{"gz": "gzip", "lz4": "lz4", "zst": "zstd"}

// segmentSize is that of the servers whose log is received here, in bytes: small,
// so that there are many segments.
const segmentSize = wal.MinSegmentSize

// receivedLog is the directory of a receiver, judged by what the servers have.
type receivedLog struct {
	path      string
	originals []string        // folders with the servers' own segments; archives first, for only those keep them
	first     wal.Segment     // where the receiver began; zero before it did
	sound     map[string]bool // files that were complete and as they should be when they were looked at
}

// newReceivedLog returns an empty directory that the log of a server is to be
// received into. archive is where the server archives to.
func newReceivedLog(t testing.TB, s *pgtest.Server, archive string) *receivedLog {
	t.Helper()
	return &receivedLog{
		path:      pgtest.TempDir(t),
		originals: []string{archive, filepath.Join(s.DataDir, "pg_wal")},
		sound:     make(map[string]bool),
	}
}

// logFile is a file that has some of the log.
type logFile struct {
	name    string
	segment wal.Segment
	partial bool
	ending  string // of its compression, without a dot
}

// String returns the name.
func (f logFile) String() string { return f.name }

// parseLogFile reads the name of a file in a receiver's directory. It knows the
// names of the log's files only: whatever else is there does not count.
func parseLogFile(name string) (f logFile, ok bool) {
	parts := strings.Split(name, ".")
	segment, err := wal.ParseSegment(parts[0], segmentSize)
	if err != nil {
		return f, false
	}
	f = logFile{name: name, segment: segment}
	for _, part := range parts[1:] {
		switch {
		case part == "partial":
			f.partial = true
		case decompressors[part] != "":
			f.ending = part
		default:
			return f, false
		}
	}
	return f, true
}

// files returns what the directory has of each segment.
func (l *receivedLog) files(t testing.TB) map[wal.Segment][]logFile {
	t.Helper()
	files := make(map[wal.Segment][]logFile)
	for _, name := range entries(t, l.path) {
		f, ok := parseLogFile(name)
		if !ok {
			continue
		}
		files[f.segment] = append(files[f.segment], f)
		if l.first == (wal.Segment{}) { // entries come sorted
			l.first = f.segment
		}
	}
	return files
}

// read returns what can be read of a file; whole is false if its compressed
// stream does not end in good order.
func (l *receivedLog) read(t testing.TB, f logFile) (content []byte, whole bool) {
	t.Helper()
	path := filepath.Join(l.path, f.name)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false // a receiver at work has renamed it
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if f.ending == "" {
		content, err := os.ReadFile(path)
		return content, err == nil
	}
	c := exec.Command(decompressors[f.ending], "-dc")
	c.Stdin = file
	content, err = c.Output()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return content, err == nil
}

// original returns what the servers have of a segment, or nil if they have none of it.
func (l *receivedLog) original(t testing.TB, s wal.Segment) []byte {
	t.Helper()
	for _, folder := range l.originals {
		content, err := os.ReadFile(filepath.Join(folder, s.Name(segmentSize)))
		if err == nil {
			return content
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return nil
}

// isSound tells whether a file with a final name is a whole segment, equal to the
// servers'. What is not sound fails the test.
func (l *receivedLog) isSound(t testing.TB, f logFile) bool {
	t.Helper()
	if l.sound[f.name] {
		return true
	}
	content, whole := l.read(t, f)
	original := l.original(t, f.segment)
	switch {
	case !whole:
		t.Errorf("%s: cannot be read to its end", f.name)
	case len(content) != segmentSize:
		t.Errorf("%s: has %d bytes of a segment", f.name, len(content))
	case original == nil:
		t.Errorf("%s: no server has it", f.name)
	case !bytes.Equal(content, original):
		t.Errorf("%s: differs from the server's from byte %d on", f.name, equalBytes(content, original))
	default:
		l.sound[f.name] = true
	}
	return l.sound[f.name]
}

// checkComplete looks at every file with a final name.
func (l *receivedLog) checkComplete(t testing.TB) {
	t.Helper()
	for _, files := range l.files(t) {
		for _, f := range files {
			if !f.partial {
				l.isSound(t, f)
			}
		}
	}
}

// has fails the test unless the directory has every byte of the log from its
// beginning up to a position, as the servers have it, in files of whatever form.
func (l *receivedLog) has(t testing.TB, what string, end wal.LSN) {
	t.Helper()
	files := l.files(t)
	if l.first == (wal.Segment{}) || end <= l.first.Start(segmentSize) {
		return
	}
	for s := l.first; s.Start(segmentSize) < end; s.Number++ {
		need := int(min(segmentSize, end-s.Start(segmentSize)))
		got := 0
		for _, f := range files[s] {
			if !f.partial && l.isSound(t, f) {
				got = segmentSize
				continue
			}
			got = max(got, l.readable(t, f))
		}
		if got < need {
			t.Errorf("%s up to %v, but of %s only %d of %d bytes can be read, in %v",
				what, end, s.Name(segmentSize), got, need, files[s])
		}
	}
}

// readable returns how many bytes of an incomplete segment are as in the
// servers'. Anything but zeros after those fails the test.
func (l *receivedLog) readable(t testing.TB, f logFile) int {
	t.Helper()
	content, _ := l.read(t, f)
	original := l.original(t, f.segment)
	same := equalBytes(content, original)
	if rest := bytes.Trim(content[same:], "\x00"); len(rest) > 0 && original != nil {
		t.Errorf("%s: differs from the server's from byte %d on", f.name, same)
	}
	return same
}

// equalBytes returns how many bytes are the same at the beginning.
func equalBytes(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// isWhole fails the test unless the directory has each segment of a timeline, from
// the first on up to a position, complete and equal to the archive's. It returns
// how many those are.
func (l *receivedLog) isWhole(t testing.TB, from wal.Segment, end wal.LSN) (segments int) {
	t.Helper()
	files := l.files(t)
	l.sound = make(map[string]bool) // once more, whatever was seen on the way
	for s := from; s.Start(segmentSize) < end; s.Number++ {
		complete := slices.DeleteFunc(slices.Clone(files[s]), func(f logFile) bool { return f.partial })
		if len(complete) != 1 {
			t.Errorf("segment %s: there are %v", s.Name(segmentSize), files[s])
			continue
		}
		if l.isSound(t, complete[0]) {
			segments++
		}
	}
	return segments
}

// arrives waits until the segment before a position is complete while a receiver
// is at work, and the archive has it too.
func (l *receivedLog) arrives(t testing.TB, p *process, timeline wal.Timeline, end wal.LSN) {
	t.Helper()
	s := wal.SegmentAt(wal.Position{LSN: end - 1, Timeline: timeline}, segmentSize)
	eventually(t, "segment "+s.Name(segmentSize)+" received", func() bool {
		select {
		case <-p.done:
			t.Fatalf("%s", p.wait(t))
		default:
		}
		return slices.ContainsFunc(l.files(t)[s], func(f logFile) bool { return !f.partial })
	})
	eventually(t, "segment "+s.Name(segmentSize)+" archived", func() bool {
		_, err := os.Stat(filepath.Join(l.originals[0], s.Name(segmentSize)))
		return err == nil
	})
}

// look returns what can be seen of the directory without reading its files.
func (l *receivedLog) look(t testing.TB) string {
	t.Helper()
	var seen strings.Builder
	for _, name := range entries(t, l.path) {
		info, err := os.Lstat(filepath.Join(l.path, name))
		if err != nil {
			continue // it has just been renamed
		}
		fmt.Fprintln(&seen, name, info.Size(), info.ModTime().UnixNano())
	}
	return seen.String()
}

// changes waits until a receiver has begun to write.
func (l *receivedLog) changes(t testing.TB, was string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for l.look(t) == was {
		if time.Now().After(deadline) {
			t.Fatalf("%s: nothing was written within %v", l.path, patience)
		}
		pause(500 * time.Microsecond)
	}
}

// lsn returns a position that a statement gives.
func lsn(t testing.TB, s *pgtest.Server, statement string) wal.LSN {
	t.Helper()
	answer := s.Query(t, statement)
	at, err := wal.ParseLSN(answer)
	if err != nil {
		t.Fatalf("%s: %q", statement, answer)
	}
	return at
}

// archivingConfig is a cluster of small segments that archives to a folder.
func archivingConfig(archive string) pgtest.Config {
	conf := pgtest.Archiving(archive)
	conf["max_wal_size"] = "64MB"                 // segments are removed, and used again, as on a busy server
	conf["wal_retrieve_retry_interval"] = "100ms" // for which a promotion waits
	return pgtest.Config{WALSegmentSizeMB: segmentSize >> 20, Conf: conf}
}

// pause waits for a moment of a test that is to happen whenever it happens.
func pause(d time.Duration) { <-time.After(d) }

// kill ends a program that is to be running still.
func (p *process) kill(t testing.TB) {
	t.Helper()
	select {
	case <-p.done:
		t.Fatalf("it has ended by itself: %s", p.wait(t))
	default:
	}
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
}

// ends fails the test unless a signal ends a receiver in good order.
func (p *process) ends(t testing.TB, s syscall.Signal) ending {
	t.Helper()
	p.signal(t, s)
	e := p.wait(t)
	if e.status != exitSuccess || e.signal != 0 {
		t.Errorf("%s", e)
	}
	return e
}

// hasNoComplaint fails the test if a program said more than what it does.
func (e ending) hasNoComplaint(t testing.TB) {
	t.Helper()
	for _, word := range []string{"error:", "warning:", "goroutine "} {
		if strings.Contains(e.stderr, word) {
			t.Errorf("%s", e)
		}
	}
}

// logReceiver is how a receiver of a server's log is started, time and again.
type logReceiver struct {
	program *program
	args    []string
	log     *receivedLog
}

// newLogReceiver returns a receiver whose slot, which it makes, and whose
// application_name are name.
func newLogReceiver(t testing.TB, program *program, s *pgtest.Server, log *receivedLog, name string, args ...string) *logReceiver {
	t.Helper()
	s.Exec(t, "SELECT pg_create_physical_replication_slot('"+name+"', true)")
	return &logReceiver{program: program, log: log, args: append([]string{
		"-D", log.path, "-d", s.ConnString() + " application_name=" + name, "-S", name,
	}, args...)}
}

// start starts the receiver.
func (r *logReceiver) start(t testing.TB) *process {
	t.Helper()
	return r.program.start(t, nil, r.args...)
}

// finish lets the receiver catch up with a server that goes on writing, and
// compares all that it has with the archive.
func (r *logReceiver) finish(t testing.TB, s *pgtest.Server) (segments int) {
	t.Helper()
	p := r.start(t)
	end := lsn(t, s, "SELECT pg_switch_wal()")
	r.log.arrives(t, p, 1, end)
	p.ends(t, syscall.SIGTERM)
	r.log.checkComplete(t)
	for _, name := range entries(t, r.log.path) {
		if _, ok := parseLogFile(name); !ok {
			t.Errorf("left behind: %s", name)
		}
	}
	return r.log.isWhole(t, r.log.first, end)
}
