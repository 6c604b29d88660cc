package s3_test

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basin/internal/object"
	"basin/internal/object/objecttest"
	"basin/internal/object/s3"
	"basin/internal/object/s3/s3test"
	"basin/internal/usererr"
)

func open(t *testing.T, o s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// setCredentials lets nobody's settings be found.
func setCredentials(t *testing.T) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		t.Setenv(name, value)
	}
}

func TestStore(t *testing.T) {
	server := s3test.Start(t)
	objecttest.Run(t, func(t *testing.T) object.Store {
		// versitygw has folders, and at times answers 409 to who creates while one is emptied.
		return object.Retry(open(t, s3.Options{Bucket: server.Bucket(t), Endpoint: server.Endpoint, PathStyle: true}),
			object.RetryOptions{Wait: 10 * time.Millisecond})
	})
}

// TestPrefix runs the suite below a prefix, in buckets that keep versions, as those with locks do.
func TestPrefix(t *testing.T) {
	server := s3test.Start(t)
	var buckets []string
	objecttest.Run(t, func(t *testing.T) object.Store {
		bucket := server.LockedBucket(t)
		buckets = append(buckets, bucket)
		other := open(t, s3.Options{Bucket: bucket, Endpoint: server.Endpoint, PathStyle: true})
		for _, name := range []string{"some/pre", "some/prefix0/x", "some/x"} { // which are not seen
			if err := other.Create(t.Context(), name, nil); err != nil {
				t.Fatal(err)
			}
		}
		return object.Retry(open(t, s3.Options{
			Bucket: bucket, Prefix: "/some/prefix/", Endpoint: server.Endpoint, PathStyle: true, ChecksumWhenRequired: true,
		}), object.RetryOptions{Wait: 10 * time.Millisecond})
	})
	for _, bucket := range buckets {
		checkVersions(t, server, bucket)
	}
}

func TestRefused(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket(t)
	o := s3.Options{Bucket: bucket, Endpoint: server.Endpoint, PathStyle: true}
	absent := o
	absent.Bucket = "absent"
	check := func(what string, s *s3.Store) {
		t.Helper()
		_, got := s.Get(t.Context(), "a", 0, -1)
		var listed error
		for _, err := range s.List(t.Context(), "", "") {
			listed = err
		}
		for call, err := range map[string]error{"create": s.Create(t.Context(), "a", nil), "get": got, "list": listed} {
			if !errors.Is(err, object.ErrRefused) || usererr.Hint(err) == "" {
				t.Errorf("%s, %s: %v (hint: %s)", what, call, err, usererr.Hint(err))
			}
		}
	}
	check("no such bucket", open(t, absent))
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	check("wrong secret", open(t, o))
	t.Setenv("AWS_ACCESS_KEY_ID", "nobody")
	check("wrong key", open(t, o))
}

// What is set goes into the request; versitygw has no storage classes or keys.
func TestRequest(t *testing.T) {
	setCredentials(t)
	requests := make(chan *http.Request, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- r }))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, s3.Options{
		Bucket: "bucket", Prefix: "p", Endpoint: server.URL, PathStyle: true, Region: "eu-central-1", CAFile: file,
		StorageClass: "STANDARD_IA", Encryption: "aws:kms", KeyID: "key",
	})
	if err := s.Create(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	r := <-requests
	if r.Method != http.MethodPut || r.URL.Path != "/bucket/p/a/b" {
		t.Errorf("%s %s", r.Method, r.URL.Path)
	}
	for name, want := range map[string]string{
		"If-None-Match":                               "*",
		"X-Amz-Storage-Class":                         "STANDARD_IA",
		"X-Amz-Server-Side-Encryption":                "aws:kms",
		"X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "key",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if a := r.Header.Get("Authorization"); !strings.Contains(a, "/eu-central-1/s3/") {
		t.Errorf("signed as %s", a)
	}
	if err := open(t, s3.Options{Bucket: "bucket", Endpoint: server.URL, PathStyle: true}).Create(t.Context(), "a", nil); err == nil {
		t.Error("a certificate of an unknown authority is trusted")
	}
}

// A request is sent once, and is given up in time.
func TestOnce(t *testing.T) {
	setCredentials(t)
	requests := 0
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		if r.URL.Path == "/bucket/slow" {
			<-release
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	defer close(release)
	s := open(t, s3.Options{Bucket: "bucket", Endpoint: server.URL, PathStyle: true, Timeout: 200 * time.Millisecond})
	for i, name := range []string{"busy", "slow"} {
		if err := s.Create(t.Context(), name, nil); err == nil || object.IsAnswer(err) {
			t.Errorf("%s: %v", name, err)
		}
		if requests != i+1 {
			t.Errorf("%s: %d requests, want %d", name, requests, i+1)
		}
	}
}

func TestOpen(t *testing.T) {
	setCredentials(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reason  string
		options s3.Options
		want    bool
	}{
		{"in order", s3.Options{Bucket: "b"}, true},
		{"all", s3.Options{Bucket: "b", Prefix: "a/b/", Encryption: "aws:kms", KeyID: "k", LockMode: "GOVERNANCE", LockFor: forHour}, true},
		{"no bucket", s3.Options{}, false},
		{"prefix", s3.Options{Bucket: "b", Prefix: "a b"}, false},
		{"dots", s3.Options{Bucket: "b", Prefix: "a/../b"}, false},
		{"key without encryption", s3.Options{Bucket: "b", KeyID: "k"}, false},
		{"key with AES256", s3.Options{Bucket: "b", Encryption: "AES256", KeyID: "k"}, false},
		{"lock without time", s3.Options{Bucket: "b", LockMode: "GOVERNANCE"}, false},
		{"lock without mode", s3.Options{Bucket: "b", LockFor: forHour}, false},
		{"unknown lock", s3.Options{Bucket: "b", LockMode: "FOREVER", LockFor: forHour}, false},
		{"no authorities", s3.Options{Bucket: "b", CAFile: "absent"}, false},
		{"empty authorities", s3.Options{Bucket: "b", CAFile: empty}, false},
	} {
		if _, err := s3.Open(t.Context(), test.options); (err == nil) != test.want {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
}
