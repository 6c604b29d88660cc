package s3_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"basin/internal/object"
	"basin/internal/object/objecttest"
	"basin/internal/object/s3"
	"basin/internal/object/s3/s3test"
)

// forHour locks all for an hour, but for what is called free.
func forHour(name string) time.Duration {
	if strings.HasPrefix(name, "free") {
		return 0
	}
	return time.Hour
}

// checkVersions sees that a bucket has nothing of what was removed.
func checkVersions(t *testing.T, server *s3test.Server, bucket string) {
	t.Helper()
	all, err := server.Client.ListObjectVersions(t.Context(), &awss3.ListObjectVersionsInput{Bucket: &bucket})
	if err != nil {
		t.Fatal(err)
	}
	if len(all.DeleteMarkers) > 0 {
		t.Errorf("%s: markers are left: %v", bucket, aws.ToString(all.DeleteMarkers[0].Key))
	}
	for _, v := range all.Versions {
		if !aws.ToBool(v.IsLatest) {
			t.Errorf("%s: an older version is left of %s", bucket, aws.ToString(v.Key))
		}
	}
}

// TestLock has objects be kept, in both modes: nobody removes them by mistake, and that is told; to keep them longer is
// possible, and shorter is not.
func TestLock(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.LockedBucket(t)
	retention := func(key string) (types.ObjectLockRetentionMode, time.Duration) {
		t.Helper()
		got, err := server.Client.GetObjectRetention(t.Context(), &awss3.GetObjectRetentionInput{Bucket: &bucket, Key: &key})
		if err != nil {
			t.Fatal(err)
		}
		return got.Retention.Mode, time.Until(aws.ToTime(got.Retention.RetainUntilDate))
	}
	for i, mode := range []string{"GOVERNANCE", "COMPLIANCE", "COMPLIANCE"} {
		s := open(t, s3.Options{
			Bucket: bucket, Endpoint: server.Endpoint, PathStyle: true,
			LockMode: mode, LockFor: forHour, ChecksumWhenRequired: i == 2,
		})
		name := fmt.Sprint("kept", i)
		for _, made := range []string{name, "free"} {
			if err := s.Create(t.Context(), made, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		if is, left := retention(name); string(is) != mode || left < 59*time.Minute || left > time.Hour {
			t.Errorf("%s is kept for %v, and was to be in %s for an hour", is, left, mode)
		}
		if err := errors.Join(s.CheckDelete(t.Context(), "free"), s.Delete(t.Context(), "free"), s.CheckDelete(t.Context(), "free")); err != nil {
			t.Errorf("what is not locked: %v", err)
		}
		for what, err := range map[string]error{"checked": s.CheckDelete(t.Context(), name), "deleted": s.Delete(t.Context(), name)} {
			var locked *object.LockedError
			if !errors.As(err, &locked) || !object.IsAnswer(err) || time.Until(locked.Until) < 59*time.Minute {
				t.Errorf("%s while it is locked: %v", what, err)
			}
		}
		if err := s.Lock(t.Context(), name, time.Now().Add(3*time.Hour)); err != nil {
			t.Error(err)
		}
		if err := s.Lock(t.Context(), name, time.Now().Add(2*time.Hour)); err != nil {
			t.Errorf("it is kept longer, which is in order: %v", err)
		}
		if is, left := retention(name); string(is) != mode || left < 179*time.Minute {
			t.Errorf("%s is kept for %v, and was to be for three hours", is, left)
		}
		if err := s.Lock(t.Context(), "absent", time.Now().Add(time.Hour)); err == nil {
			t.Error("what is absent was locked")
		}
	}
	// What is locked in the other mode stays in it.
	strict := open(t, s3.Options{Bucket: bucket, Endpoint: server.Endpoint, PathStyle: true, LockMode: "COMPLIANCE", LockFor: forHour})
	if err := strict.Lock(t.Context(), "kept0", time.Now().Add(5*time.Hour)); err != nil {
		t.Error(err)
	}
	if is, left := retention("kept0"); is != "GOVERNANCE" || left < 299*time.Minute {
		t.Errorf("%s is kept for %v", is, left)
	}
}

// TestLockEnds has an object be removed once its lock has ended, with all that is in its place.
func TestLockEnds(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.LockedBucket(t)
	soon := func(string) time.Duration { return 1500 * time.Millisecond }
	s := open(t, s3.Options{Bucket: bucket, Endpoint: server.Endpoint, PathStyle: true, LockMode: "COMPLIANCE", LockFor: soon})
	if err := s.Create(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "a"); err == nil {
		t.Error("it was removed at once")
	}
	for deadline := time.Now().Add(30 * time.Second); s.Delete(t.Context(), "a") != nil; {
		if time.Now().After(deadline) {
			t.Fatal("it is never removed")
		}
	}
	if names := objecttest.Names(t, s, "", ""); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
	checkVersions(t, server, bucket)
}

// TestBucketLock asks buckets what they do.
func TestBucketLock(t *testing.T) {
	server := s3test.Start(t)
	always := server.LockedBucket(t)
	if _, err := server.Client.PutObjectLockConfiguration(t.Context(), &awss3.PutObjectLockConfigurationInput{
		Bucket: &always, ObjectLockConfiguration: &types.ObjectLockConfiguration{
			ObjectLockEnabled: types.ObjectLockEnabledEnabled,
			Rule: &types.ObjectLockRule{DefaultRetention: &types.DefaultRetention{
				Mode: types.ObjectLockRetentionModeGovernance, Days: aws.Int32(7),
			}},
		},
	}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		bucket string
		want   s3.BucketLock
	}{
		{server.Bucket(t), s3.BucketLock{}},
		{server.LockedBucket(t), s3.BucketLock{Enabled: true}},
		{always, s3.BucketLock{Enabled: true, Mode: "GOVERNANCE", Days: 7}},
	} {
		s := open(t, s3.Options{Bucket: test.bucket, Endpoint: server.Endpoint, PathStyle: true})
		if got, err := s.BucketLock(t.Context()); err != nil || got != test.want {
			t.Errorf("%s: %+v, want %+v (%v)", test.bucket, got, test.want, err)
		}
	}
	// Of the first, nothing can be locked, and that is an answer.
	s := open(t, s3.Options{Bucket: "bucket-2", Endpoint: server.Endpoint, PathStyle: true, LockMode: "COMPLIANCE", LockFor: forHour})
	if err := s.Create(t.Context(), "a", nil); !errors.Is(err, object.ErrRefused) {
		t.Errorf("in a bucket without locks: %v", err)
	}
}
