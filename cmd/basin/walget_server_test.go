package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"basin/internal/object/s3/s3test"
	"basin/internal/pgtest"
)

// storeFault is what happens to one call of a store.
type storeFault string

// The faults of a call that may be tried again, or is answered wrongly.
const (
	faultNone    storeFault = "none"
	faultDown    storeFault = "down"      // no answer, once
	faultRefused storeFault = "refused"   // as after somebody changed the permissions
	faultSlow    storeFault = "slow"      // it takes 200 ms more
	faultCut     storeFault = "cut"       // the connection ends in the middle of the answer
	faultShort   storeFault = "truncated" // the object has only its first half
	faultDamaged storeFault = "damaged"   // a bit of the object was flipped
	faultSpliced storeFault = "spliced"   // the object is that of a copy of the cluster
)

// The places in a bucket of a repository, and of a copy of it that a copy of the cluster writes to.
const originalPrefix, clonePrefix = "original", "clone"

// faultyBucket stands before a server of S3.
type faultyBucket struct {
	*s3test.Server

	mu    sync.Mutex
	calls int
	at    int // the number of the call with the fault, from 1 on
	every int // or that of each so many
	fault storeFault
}

// begin forgets the calls so far, and says what happens to one of those that come, or to one in so many.
func (b *faultyBucket) begin(at, every int, fault storeFault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls, b.at, b.every, b.fault = 0, at, every, fault
}

// count returns how many calls there were.
func (b *faultyBucket) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

// of returns what happens to a call.
func (b *faultyBucket) of(r *http.Request) storeFault {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	isObject := !r.URL.Query().Has("list-type")
	switch {
	case b.calls != b.at && (b.every == 0 || b.calls%b.every != 0):
		return faultNone
	case (b.fault == faultDamaged || b.fault == faultShort) && !isObject, // which tells what there is, and nothing checks that
		b.fault == faultSpliced && !strings.Contains(r.URL.Path, "/wal/"):
		return faultRefused
	}
	return b.fault
}

// start returns the URL of a proxy before the server.
func (b *faultyBucket) start(t *testing.T) string {
	t.Helper()
	target, err := url.Parse(b.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fault := b.of(r)
		switch fault {
		case faultDown:
			panic(http.ErrAbortHandler)
		case faultRefused:
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code></Error>")
			return
		case faultSlow:
			<-time.After(200 * time.Millisecond) // which is what the fault is
		case faultSpliced:
			if err := b.splice(w, r); err != nil {
				t.Error(err)
			}
			return
		}
		back := httputil.ReverseProxy{
			Rewrite: func(p *httputil.ProxyRequest) {
				p.SetURL(target)
				p.Out.Host = r.Host // which is signed
			},
			ModifyResponse: fault.apply,
			ErrorLog:       log.New(io.Discard, "", 0),
		}
		back.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL
}

// splice answers with the object of the copy.
func (b *faultyBucket) splice(w http.ResponseWriter, r *http.Request) error {
	bucket, key, _ := strings.Cut(r.URL.Path[1:], "/")
	input := &s3.GetObjectInput{Bucket: &bucket, Key: aws.String(clonePrefix + strings.TrimPrefix(key, originalPrefix))}
	if within := r.Header.Get("Range"); within != "" {
		input.Range = &within
	}
	object, err := b.Client.GetObject(r.Context(), input)
	if err != nil { // which both do not have
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<Error><Code>NoSuchKey</Code></Error>")
		return nil
	}
	defer object.Body.Close()
	if object.ContentRange != nil {
		w.Header().Set("Content-Range", *object.ContentRange)
		w.WriteHeader(http.StatusPartialContent)
	}
	_, err = io.Copy(w, object.Body)
	return err
}

// apply changes an answer on its way.
func (f storeFault) apply(answer *http.Response) error {
	if f != faultCut && f != faultShort && f != faultDamaged || answer.StatusCode >= 300 {
		return nil
	}
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	for name := range answer.Header {
		if strings.HasPrefix(name, "X-Amz-Checksum") { // it has to be found without
			answer.Header.Del(name)
		}
	}
	half := content[:len(content)/2]
	switch f {
	case faultDamaged:
		content[len(content)/2] ^= 1
		answer.Body = io.NopCloser(bytes.NewReader(content))
	case faultShort:
		answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(half)), int64(len(half))
		answer.Header.Set("Content-Length", strconv.Itoa(len(half)))
	case faultCut:
		answer.Body = io.NopCloser(io.MultiReader(bytes.NewReader(half), iotest.ErrReader(io.ErrUnexpectedEOF)))
	}
	return nil
}

// recovering is a restored cluster that is to recover to the end of the log.
type recovering struct {
	major    int
	template string // its data directory, as it was restored
	bucket   *faultyBucket
	dir      string // that of the server
	port     int
}

// run starts a server, which reaches the end of recovery or dies. It returns what is in the table of the source then,
// or an empty text, and what the server said.
func (r *recovering) run(t *testing.T) (rows, log string) {
	t.Helper()
	c := pgtest.Command(t, r.major, "postgres", "-D", r.dir, "-p", strconv.Itoa(r.port), "-k", filepath.Dir(r.dir),
		"-c", "hot_standby=off", "-c", "logging_collector=off", "-c", "fsync=off", "-c", "listen_addresses=", "-c", "archive_mode=off")
	server := startCommand(t, c)
	const open = "database system is ready to accept connections"
	eventually(t, "the server opens, or dies", func() bool {
		select {
		case <-server.done:
			return true
		default:
			return strings.Contains(server.stderr.String(), open)
		}
	})
	if !strings.Contains(server.stderr.String(), open) {
		return "", server.stderr.String()
	}
	out, err := pgtest.Command(t, r.major, "psql", "-h", filepath.Dir(r.dir), "-p", strconv.Itoa(r.port), "-U", "postgres", "-Atc", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM written", "postgres").CombinedOutput()
	server.signal(t, syscall.SIGQUIT)
	<-server.done
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out)), server.stderr.String()
}

// renew gives the server a data directory in which nothing was recovered.
func (r *recovering) renew(t *testing.T) {
	t.Helper()
	r.dir = filepath.Join(pgtest.TempDir(t), "data")
	copyTree(t, r.template, r.dir)
}

// copyTree copies a data directory, as root does it for the servers' user.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// writeRows writes rows into a cluster, one in each segment, and waits until all are archived.
func writeRows(t *testing.T, s *pgtest.Server, rows ...int) {
	t.Helper()
	for _, n := range rows {
		s.Exec(t, fmt.Sprintf("INSERT INTO written VALUES (%d)", n))
		last := s.Query(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
		s.Exec(t, "SELECT pg_switch_wal()")
		s.WaitFor(t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver", "t")
	}
}

// TestNeverOpensShort recovers a cluster to the end of its log from a store in which one call goes wrong, whichever. The
// server has all, or does not open. It has no target: there nothing but the exit status of wal get keeps it from opening.
func TestNeverOpensShort(t *testing.T) {
	majors := []int{pgtest.Newest}
	if isFull() {
		majors = slices.DeleteFunc(pgtest.Majors(), func(m int) bool { return m < 13 })
	}
	for _, major := range majors {
		t.Run(strconv.Itoa(major), func(t *testing.T) { testNeverOpensShort(t, major) })
	}
}

func testNeverOpensShort(t *testing.T, major int) {
	b := &faultyBucket{Server: s3test.Start(t)}
	t.Setenv("BASIN_CONFIG", os.DevNull)
	t.Setenv("BASIN_S3_PATH_STYLE", "true")
	t.Setenv("BASIN_S3_ENDPOINT", b.Endpoint)
	bucket := b.Bucket(t)
	location := "s3://" + bucket + "/" + originalPrefix
	basin := newProgram(t, "basin")
	run := func(args ...string) {
		t.Helper()
		if e := basin.run(t, os.Environ(), args...); e.status != exitSuccess {
			t.Fatal(e)
		}
	}
	run("init", location)
	var environment string // which servers do not hand on from the test
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "BASIN_CONFIG", "BASIN_S3_PATH_STYLE", "BASIN_S3_ENDPOINT"} {
		environment += name + "=" + os.Getenv(name) + " "
	}
	settings := func(location string) map[string]string {
		return map[string]string{
			"archive_mode": "on", "archive_command": environment + basin.path + " wal push --repository " + location + " %p",
			"wal_level": "replica", "max_wal_senders": "4", "autovacuum": "off",
		}
	}
	source := pgtest.Start(t, pgtest.Config{Major: major, Conf: settings(location)})
	source.Exec(t, "CREATE TABLE written (n int)")
	run("backup", "--repository", location, "-d", source.ConnString(), "-c", "fast")
	writeRows(t, source, 1)
	source.Stop(t, pgtest.Fast)

	// A copy of the machine, which goes on by itself.
	for info := range listBucket(t, b, bucket, originalPrefix) {
		_, err := b.Client.CopyObject(t.Context(), &s3.CopyObjectInput{
			Bucket: &bucket, CopySource: aws.String(bucket + "/" + info), Key: aws.String(clonePrefix + strings.TrimPrefix(info, originalPrefix)),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(pgtest.TempDir(t), "data")
	copyTree(t, source.DataDir, copied)
	clone := pgtest.StartDir(t, major, copied, settings("s3://"+bucket+"/"+clonePrefix))
	writeRows(t, clone, 12, 13)
	clone.Stop(t, pgtest.Fast)
	source.Start(t)
	writeRows(t, source, 2, 3)
	source.Stop(t, pgtest.Fast)

	r := &recovering{major: major, template: filepath.Join(pgtest.TempDir(t), "data"), bucket: b, port: pgtest.FreePort(t)}
	run("restore", "--repository", location, "-D", r.template, "--no-sync")
	pgtest.SetRecovery(t, major, r.template, pgtest.Recovery{Settings: map[string]string{
		"restore_command": guarded(fmt.Sprintf("%s%s wal get --repository=%s --s3-endpoint=%s %%f %%p", environment, basin.path, location, b.start(t))),
		"recovery_target": "", "recovery_target_lsn": "", "recovery_target_timeline": "latest",
	}})
	pgtest.Own(t, r.template)

	r.renew(t)
	b.begin(0, 0, faultNone)
	const all = "1 2 3"
	if rows, log := r.run(t); rows != all {
		t.Fatalf("without a fault it has %q\n%s", rows, log)
	}
	calls := b.count()
	opened, died := 0, 0
	try := func(at, every int, fault storeFault) {
		t.Helper()
		b.begin(at, every, fault)
		rows, log := r.run(t)
		switch {
		case rows == "": // and goes on from where it was
			died++
			return
		case rows == all:
			opened++
		default:
			t.Errorf("call %d of %d %s: it opened with %q\n%s", at, calls, fault, rows, log)
		}
		r.renew(t)
	}
	r.renew(t)
	passing := []storeFault{faultCut, faultDown, faultSlow} // which it gets over
	for _, fault := range passing {
		before := opened
		if try(0, 4, fault); opened == before {
			t.Errorf("%s: it did not open", fault)
		}
	}
	lasting := []storeFault{faultSpliced, faultRefused, faultDamaged, faultShort}
	if isFull() {
		lasting = append(lasting, passing...)
	}
	for _, fault := range lasting {
		for k := 1; k <= calls; k++ {
			if isFull() || k%6 == 0 && k/6%len(lasting) == slices.Index(lasting, fault) {
				try(k, 0, fault)
			}
		}
	}
	t.Logf("%d calls: opened %d times with all, died %d times", calls, opened, died)
	if opened == 0 || died == 0 {
		t.Error("either never happened")
	}
}

// isFull says whether all is to be tried, however long it takes.
func isFull() bool { return os.Getenv("BASIN_MATRIX") == "full" }

// listBucket yields the names of the objects below a prefix.
func listBucket(t *testing.T, b *faultyBucket, bucket, prefix string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		pages := s3.NewListObjectsV2Paginator(b.Client, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: &prefix})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, object := range page.Contents {
				if !yield(*object.Key) {
					return
				}
			}
		}
	}
}
