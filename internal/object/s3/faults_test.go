package s3_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"basin/internal/object"
	"basin/internal/object/s3"
	"basin/internal/object/s3/s3test"
)

// TestFaults has requests have each fault once: none is taken for an answer, and only the caller hears of it.
func TestFaults(t *testing.T) {
	server := s3test.Start(t)
	fault := s3test.None
	proxy := server.Proxy(t, func(*http.Request) s3test.Fault { return fault })
	said, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	stderr := os.Stderr
	os.Stderr = said
	defer func() { os.Stderr = stderr }()
	bucket := server.Bucket(t)
	s := open(t, s3.Options{Bucket: bucket, Endpoint: proxy.Endpoint, PathStyle: true, Timeout: time.Minute})
	data := make([]byte, 1<<20)
	if err := s.Create(t.Context(), "there", data); err != nil {
		t.Fatal(err)
	}
	hasty := open(t, s3.Options{Bucket: bucket, Endpoint: proxy.Endpoint, PathStyle: true, Timeout: 100 * time.Millisecond})
	for _, fault = range s3test.Faults() {
		store := s
		if fault == s3test.LateAnswer || fault == s3test.LateRequest {
			store = hasty
		}
		_, got := store.Get(t.Context(), "there", 0, -1)
		if got == nil || object.IsAnswer(got) {
			t.Errorf("fault %d, get: %v", fault, got)
		}
		made := store.Create(t.Context(), fmt.Sprint("new", fault), data[:100])
		if fault != s3test.HalfAnswer && (made == nil || object.IsAnswer(made)) { // which has no content to be halved
			t.Errorf("fault %d, create: %v", fault, made)
		}
		for _, listed := range store.List(t.Context(), "", "") {
			if listed == nil || object.IsAnswer(listed) {
				t.Errorf("fault %d, list: %v", fault, listed)
			}
		}
	}
	if content, err := os.ReadFile(said.Name()); err != nil || len(content) > 0 {
		t.Errorf("somebody else said: %s (%v)", content, err)
	}
}
