// Package s3test starts a server of S3 for a test: versitygw, which keeps objects
// in a temporary folder.
package s3test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"basin/internal/pgtest"
)

// version is that which build/tools.sh installs.
const version = "v1.8.0"

// The credentials of a server, and its region.
const (
	AccessKey = "basin-test"
	SecretKey = "basin-test-secret"
	Region    = "us-east-1"
)

// Server is a running server.
type Server struct {
	Endpoint string // URL
	Client   *s3.Client
	buckets  int
	mutex    sync.Mutex
}

// Start starts a server, which ends with the test, and puts its credentials into
// the environment of the test.
func Start(t *testing.T, args ...string) *Server {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", SecretKey)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	program := program()
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("versitygw is not installed: %v\nhint: run make servers", err)
	}
	data, versions := t.TempDir(), t.TempDir()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(pgtest.FreePort(t)))
	args = append([]string{"--quiet", "--port", address, "--region", Region}, args...)
	cmd := exec.Command(program, append(args, "posix", "--versioning-dir", versions, data)...)
	cmd.Env = []string{"ROOT_ACCESS_KEY_ID=" + AccessKey, "ROOT_SECRET_ACCESS_KEY=" + SecretKey, "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("versitygw: %s", output.Bytes())
		}
	})
	s := &Server{Endpoint: "http://" + address}
	s.Client = s3.New(s3.Options{
		BaseEndpoint: &s.Endpoint, Region: Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, ""),
	})
	for deadline := time.Now().Add(30 * time.Second); !accepts(address); {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("versitygw ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("versitygw does not answer after 30 s")
		}
	}
	return s
}

func accepts(address string) bool {
	connection, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	return connection.Close() == nil
}

// Bucket makes a bucket and returns its name.
func (s *Server) Bucket(t *testing.T) string {
	t.Helper()
	return s.bucket(t, &s3.CreateBucketInput{})
}

// LockedBucket makes a bucket whose objects can be kept from deletion.
func (s *Server) LockedBucket(t *testing.T) string {
	t.Helper()
	return s.bucket(t, &s3.CreateBucketInput{ObjectLockEnabledForBucket: aws.Bool(true)})
}

func (s *Server) bucket(t *testing.T, input *s3.CreateBucketInput) string {
	t.Helper()
	s.mutex.Lock()
	s.buckets++
	name := fmt.Sprintf("bucket-%d", s.buckets)
	s.mutex.Unlock()
	input.Bucket = &name
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := s.Client.CreateBucket(ctx, input); err != nil {
		t.Fatalf("create bucket: %v", err)
	}
	return name
}

// User makes a user without any rights, of the same secret as the server's. The server was started with --iam-dir.
func (s *Server) User(t *testing.T, name string) {
	t.Helper()
	cmd := exec.Command(program(), "admin", "--access", AccessKey, "--secret", SecretKey, "--region", Region, "--endpoint-url", s.Endpoint,
		"create-user", "--access", name, "--secret", SecretKey, "--role", "user")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("create user: %v: %s", err, output)
	}
}

// program returns where the server is installed.
func program() string { return filepath.Join(pgtest.CacheDir(), "tools", "versitygw-"+version) }
