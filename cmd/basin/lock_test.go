package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"basin/internal/backup"
	"basin/internal/checkup"
	"basin/internal/object/s3"
	"basin/internal/object/s3/s3test"
	"basin/internal/pgtest"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// TestLockFor reads what is set.
func TestLockFor(t *testing.T) {
	for _, c := range []struct {
		reason, location, mode, age string
		want                        time.Duration
		hint                        string // of the error; empty if there is none
	}{
		{"nothing is set", "s3://b", "", "", 0, ""},
		{"days", "s3://b", "governance", "30d", 30 * 24 * time.Hour, ""},
		{"weeks", "s3://b", "compliance", "2w", 14 * 24 * time.Hour, ""},
		{"a folder has no locks", "/srv/backups", "compliance", "2w", 0, ""},
		{"a folder, and another mode", "/srv/backups", "governence", "2w", 0, "nobody can"},
		{"a folder, and no time", "/srv/backups", "governance", "", 0, "Say both"},
		{"no time", "s3://b", "governance", "", 0, "Say both"},
		{"no mode", "s3://b", "", "30d", 0, "Say both"},
		{"another mode", "s3://b", "GOVERNANCE", "30d", 0, "nobody can"},
		{"no unit", "s3://b", "governance", "30", 0, "hours, days or weeks"},
	} {
		p := place{repositorySettings: repositorySettings{Location: c.location, S3LockMode: c.mode, S3LockFor: c.age}}
		got, err := p.lockFor()
		if got != c.want || (err != nil) != (c.hint != "") || !strings.Contains(usererr.Hint(err), c.hint) {
			t.Errorf("%s: %v, %v (hint: %s)", c.reason, got, err, usererr.Hint(err))
		}
	}
}

// TestDirectoryLocksNothing has backups be locked in a directory, or kept until a time that has passed: who asks for that relies on it.
func TestDirectoryLocksNothing(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	dir := filepath.Join(pgtest.TempDir(t), "repository")
	basin.run(t, nil, "init", "--s3-lock-mode=governance", "--s3-lock-for=30d", dir).says(t, exitFailure, "a directory cannot lock them", "Object lock is of S3")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
	basin.run(t, nil, "init", dir).says(t, exitSuccess)
	basin.run(t, nil, "pin", "--repository", dir, "--until=2020-01-01 00:00Z", "a backup").says(t, exitFailure, "has passed: such a pin keeps nothing")
}

// TestLockItem has what is asked for and what the bucket does go together, or not.
func TestLockItem(t *testing.T) {
	none, can := s3.BucketLock{}, s3.BucketLock{Enabled: true}
	always := s3.BucketLock{Enabled: true, Mode: "COMPLIANCE", Days: 7}
	for _, c := range []struct {
		bucket s3.BucketLock
		mode   string
		level  checkup.Level
		text   string
	}{
		{none, "", checkup.OK, "off: "},
		{none, "governance", checkup.Error, "locks nothing"},
		{can, "", checkup.Warning, "nothing is locked"},
		{can, "governance", checkup.OK, "governance mode, 30d"},
		{always, "", checkup.Warning, "in compliance mode for 7 days from when it was made"},
		{always, "governance", checkup.Warning, "leases"},
	} {
		p := place{repositorySettings: repositorySettings{S3LockMode: c.mode, S3LockFor: "30d"}}
		got := p.lockItem(c.bucket)
		if got.Level != c.level || !strings.Contains(got.Text, c.text) || (got.Advice == "") != (c.level == checkup.OK) {
			t.Errorf("%+v with %q: %+v", c.bucket, c.mode, got)
		}
	}
}

// takeNow takes a backup of now.
func takeNow(t *testing.T, location string, parent *repo.Commit) repo.Commit {
	t.Helper()
	_, c, err := openClusterOf(t.Context(), repositoryOptions{Location: location, Cluster: "shop"}, 7)
	if err != nil {
		t.Fatal(err)
	}
	// Without its log none of them would count for anything.
	segment := wal.Segment{Timeline: 3, Number: 1}
	history := []byte("1\t0/800000\tno recovery target specified\n2\t0/900000\tno recovery target specified\n")
	err = errors.Join(c.PushLog(t.Context(), wal.HistoryName(3), history, 0),
		c.PushLog(t.Context(), segment.Name(wal.DefaultSegmentSize), forgedSegment(7, segment, "log"), 0))
	if err != nil {
		t.Fatal(err)
	}
	sink := c.NewSink(repo.SinkOptions{Parent: parent})
	err = backup.Copy(t.Context(), sink, &smallSource{at: wal.LSN(0x1000028), text: fmt.Sprint("control ", parent == nil)}, backup.Options{})
	if err := errors.Join(err, sink.Close()); err != nil {
		t.Fatal(err)
	}
	return *sink.Written()
}

// TestLockedBucket keeps backups in a bucket that locks: what has to last is locked, and what has not is not; forget and prune tell of
// it, and do the rest.
func TestLockedBucket(t *testing.T) {
	clearEnvironment(t)
	server := s3test.Start(t)
	t.Setenv("BASIN_CONFIG", os.DevNull)
	t.Setenv("BASIN_S3_ENDPOINT", server.Endpoint)
	t.Setenv("BASIN_S3_PATH_STYLE", "true")
	plain, bucket := server.Bucket(t), server.LockedBucket(t)
	location := "s3://" + bucket + "/below"
	if said, err := callBasin(t, "init", "s3://"+bucket+"/other"); err != nil || !strings.Contains(said, "nothing is locked") {
		t.Errorf("where locks are not asked for: %v: %s", err, said)
	}
	t.Setenv("BASIN_S3_LOCK_MODE", "governance")
	t.Setenv("BASIN_S3_LOCK_FOR", "8d")
	if _, err := callBasin(t, "init", "s3://"+plain); err == nil || !strings.Contains(err.Error(), "locks nothing") {
		t.Errorf("where there are no locks: %v", err)
	}
	if left, err := server.Client.ListObjectsV2(t.Context(), &awss3.ListObjectsV2Input{Bucket: &plain}); err != nil || len(left.Contents) > 0 {
		t.Errorf("something was made all the same: %v", err)
	}
	if said, err := callBasin(t, "init", location); err != nil || strings.Contains(said, "warning") {
		t.Fatalf("%v: %s", err, said)
	}
	first := takeNow(t, location, nil)
	second := takeNow(t, location, &first)
	shortest := retentions(t, server, bucket, "below/shop/7/backups/")
	for name, left := range retentions(t, server, bucket, "below/") {
		isCommit := strings.HasSuffix(name, "/commit")
		if want := 10 * 24 * time.Hour; !isCommit && (left > want+time.Hour || left < want-time.Minute) || isCommit && (left > 8*24*time.Hour || left < 8*24*time.Hour-time.Minute) {
			t.Errorf("%s is locked for %v", name, left)
		}
		for commit, until := range shortest {
			if left < until && !isCommit {
				t.Errorf("%s is locked for %v, and %s for %v", name, left, commit, until)
			}
		}
	}
	untilTime := regexp.MustCompile(`locked until 20\d\d-\d\d-\d\d \d\d:\d\d UTC`)
	said, err := callBasin(t, "forget", "--repository="+location, "--keep-last=1")
	if err != nil || !strings.Contains(said, "keep  "+first.ID+"  no rule keeps it, but it is locked until") || !untilTime.MatchString(said) {
		t.Errorf("forget by a rule: %v: %s", err, said)
	}
	if _, err := callBasin(t, "forget", "--repository="+location, first.ID); err == nil || !untilTime.MatchString(err.Error()) {
		t.Errorf("forget by name: %v", err)
	}
	said, err = callBasin(t, "check", "--repository="+location, "--repository-only")
	if !strings.Contains(said, "governance mode, 8d") || !untilTime.MatchString(said) {
		t.Errorf("check: %v: %s", err, said)
	}
	// Somebody who has the right to removes the commit.
	key := "below/shop/7/backups/" + first.ID + "/commit"
	head, err := server.Client.HeadObject(t.Context(), &awss3.HeadObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client.DeleteObject(t.Context(), &awss3.DeleteObjectInput{
		Bucket: &bucket, Key: &key, VersionId: head.VersionId, BypassGovernanceRetention: aws.Bool(true),
	}); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []string{"--dry-run", "--keep-log=1h"} {
		said, err = callBasin(t, "prune", "--repository="+location, dry)
		if err != nil || !strings.Contains(said, "would go too: the last is locked until") || !strings.Contains(said, "of 1 backup: 0 packs and 0 parts of index, 0 B, ") {
			t.Errorf("prune %s: %v: %s", dry, err, said)
		}
	}
	if said, err := callBasin(t, "list", "--repository="+location); err != nil || !strings.Contains(said, second.ID) || strings.Contains(said, first.ID) {
		t.Errorf("list: %v: %s", err, said)
	}
}

// retentions returns for how long the objects below a prefix are locked yet. One that is not must be of what is replaced soon.
func retentions(t *testing.T, server *s3test.Server, bucket, prefix string) map[string]time.Duration {
	t.Helper()
	all, err := server.Client.ListObjectVersions(t.Context(), &awss3.ListObjectVersionsInput{Bucket: &bucket, Prefix: &prefix})
	if err != nil {
		t.Fatal(err)
	}
	if len(all.DeleteMarkers) > 0 {
		t.Errorf("%s is marked as deleted", aws.ToString(all.DeleteMarkers[0].Key))
	}
	locked := make(map[string]time.Duration)
	for _, v := range all.Versions {
		name := aws.ToString(v.Key)
		got, err := server.Client.GetObjectRetention(t.Context(), &awss3.GetObjectRetentionInput{Bucket: &bucket, Key: v.Key, VersionId: v.VersionId})
		if err != nil {
			t.Errorf("%s is not locked: %v", name, err)
			continue
		}
		if got.Retention.Mode != types.ObjectLockRetentionModeGovernance {
			t.Errorf("%s is locked in %s mode", name, got.Retention.Mode)
		}
		locked[name] = time.Until(aws.ToTime(got.Retention.RetainUntilDate))
	}
	return locked
}
