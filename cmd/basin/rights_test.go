package main

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"basin/internal/object"
	"basin/internal/object/s3/s3test"
)

// statement is one of a policy, as S3 reads it.
type statement struct {
	Effect    string
	Principal map[string][]string
	Action    any
	Resource  string
}

// documentedRights returns the statements of the first policy in docs/repository.md, for a bucket and a user. Its condition
// is Amazon's.
func documentedRights(t *testing.T, bucket, user string) (all []statement) {
	t.Helper()
	text, err := os.ReadFile("../../docs/repository.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```json\n{\"Version\"")
	block, _, ok := strings.Cut(rest, "```")
	var policy struct{ Statement []statement }
	if err := json.Unmarshal([]byte("{\"Version\""+block), &policy); err != nil || !ok {
		t.Fatal(err)
	}
	for _, s := range policy.Statement {
		s.Principal = map[string][]string{"AWS": {user}}
		s.Resource = strings.Replace(s.Resource, ":::backups", ":::"+bucket, 1)
		all = append(all, s)
	}
	return all
}

// TestRights has hosts with the rights that docs/repository.md says, and no others, do their work in a bucket that locks.
func TestRights(t *testing.T) {
	clearEnvironment(t)
	server := s3test.Start(t, "--iam-dir", t.TempDir())
	bucket := server.LockedBucket(t)
	below := "arn:aws:s3:::" + bucket + "/prod/*"
	allow := func(user string, actions []string, resource string) statement {
		return statement{"Allow", map[string][]string{"AWS": {user}}, actions, resource}
	}
	policy := struct {
		Version   string
		Statement []statement
	}{Version: "2012-10-17"}
	for _, user := range []string{"writer", "pruner", "reader"} {
		server.User(t, user)
		if user != "reader" {
			policy.Statement = append(policy.Statement, documentedRights(t, bucket, user)...)
			policy.Statement = append(policy.Statement, allow(user, []string{"s3:PutObjectRetention", "s3:GetObjectRetention"}, below),
				allow(user, []string{"s3:GetBucketObjectLockConfiguration"}, "arn:aws:s3:::"+bucket))
		}
	}
	policy.Statement = append(policy.Statement,
		allow("pruner", []string{"s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetObjectLegalHold"}, below),
		allow("reader", []string{"s3:ListBucket"}, "arn:aws:s3:::"+bucket), allow("reader", []string{"s3:GetObject"}, below))
	text, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client.PutBucketPolicy(t.Context(), &awss3.PutBucketPolicyInput{Bucket: &bucket, Policy: aws.String(string(text))}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BASIN_CONFIG", os.DevNull)
	t.Setenv("BASIN_S3_ENDPOINT", server.Endpoint)
	t.Setenv("BASIN_S3_PATH_STYLE", "true")
	t.Setenv("BASIN_S3_LOCK_MODE", "compliance")
	t.Setenv("BASIN_S3_LOCK_FOR", "1h")
	location := "s3://" + bucket + "/prod"
	as := func(user string, args ...string) (string, error) {
		t.Helper()
		t.Setenv("AWS_ACCESS_KEY_ID", user)
		return callBasin(t, append([]string{args[0], "--repository=" + location}, args[1:]...)...)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "writer")
	if said, err := callBasin(t, "init", location); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	first := takeNow(t, location, nil)
	takeNow(t, location, &first)
	if said, err := as("writer", "check", "--repository-only"); !strings.Contains(said, "locked until") || !strings.Contains(said, "refuses to overwrite") {
		t.Errorf("the writer checks: %v: %s", err, said)
	}
	if said, err := as("writer", "pin", first.ID); err != nil {
		t.Errorf("the writer pins: %v: %s", err, said)
	}
	if said, err := as("reader", "list"); err != nil || !strings.Contains(said, first.ID) {
		t.Errorf("the reader lists: %v: %s", err, said)
	}
	if _, err := as("reader", "pin", first.ID); !errors.Is(err, object.ErrRefused) {
		t.Errorf("the reader pins: %v", err)
	}
	if said, err := as("pruner", "pin", "--remove", first.ID); err != nil {
		t.Errorf("the pruner unpins: %v: %s", err, said)
	}
	if said, err := as("pruner", "forget", "--keep-last=1"); err != nil || !strings.Contains(said, "it is locked until") {
		t.Errorf("the pruner forgets: %v: %s", err, said)
	}
	if said, err := as("pruner", "prune"); err != nil {
		t.Errorf("the pruner prunes: %v: %s", err, said)
	}
	// What is not locked the pruner removes, and the writer does not.
	t.Setenv("BASIN_S3_LOCK_MODE", "")
	t.Setenv("BASIN_S3_LOCK_FOR", "")
	t.Setenv("AWS_ACCESS_KEY_ID", "writer")
	second := takeNow(t, location, nil)
	third := takeNow(t, location, nil)
	if _, err := as("writer", "forget", third.ID); !errors.Is(err, object.ErrRefused) {
		t.Errorf("the writer forgets: %v", err)
	}
	if said, err := as("pruner", "forget", second.ID); err != nil || !strings.Contains(said, "1 backup forgotten") {
		t.Errorf("the pruner forgets: %v: %s", err, said)
	}
	if said, err := as("pruner", "prune"); err != nil {
		t.Errorf("the pruner prunes: %v: %s", err, said)
	}
}
