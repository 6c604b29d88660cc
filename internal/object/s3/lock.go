package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"basin/internal/object"
	"basin/internal/usererr"
)

// lockFor returns how long a new object is kept from being removed.
func (s *Store) lockFor(name string) time.Duration {
	if s.options.LockMode == "" {
		return 0
	}
	return s.options.LockFor(name)
}

// Delete removes an object. In a bucket with versions that is its version, and no marker is
// left, so that its space is free. An older version, which only somebody else can have made, comes to
// light then, and is removed the next time.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := cmp.Or(ctx.Err(), object.CheckName(name)); err != nil {
		return err
	}
	input := &s3.DeleteObjectInput{Bucket: &s.options.Bucket, Key: aws.String(s.prefix + name)}
	if !s.isPlain.Load() {
		version, err := s.version(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if version != "" {
			input.VersionId = &version
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	_, err := s.client.DeleteObject(ctx, input)
	switch named := code(err); {
	case named == "NoSuchKey", named == "NoSuchVersion":
		return nil
	case named == "AccessDenied" && input.VersionId != nil:
		return usererr.Hinted("In a bucket with versions s3:DeleteObjectVersion must be allowed, and to see what is locked s3:GetObjectRetention and s3:GetObjectLegalHold.",
			"delete %s: %w: %w", s.path(name), object.ErrRefused, err)
	}
	return s.worded(err, "delete", name)
}

// CheckDelete returns the *object.LockedError that a Delete would.
func (s *Store) CheckDelete(ctx context.Context, name string) error {
	if err := cmp.Or(ctx.Err(), object.CheckName(name)); err != nil {
		return err
	}
	if s.isPlain.Load() {
		return nil
	}
	if _, err := s.version(ctx, name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// version returns the version of an object that is there, empty if the bucket has none. If it cannot
// be removed yet it is a *object.LockedError, by the clock of the store.
func (s *Store) version(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.options.Bucket, Key: aws.String(s.prefix + name)})
	if err != nil {
		return "", s.worded(err, "look at", name)
	}
	now, ok := middleware.GetServerTime(head.ResultMetadata)
	if !ok {
		now = time.Now()
	}
	if head.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn {
		return "", &object.LockedError{Name: s.path(name)}
	}
	if until := aws.ToTime(head.ObjectLockRetainUntilDate); until.After(now) {
		return "", &object.LockedError{Name: s.path(name), Until: until}
	}
	version := aws.ToString(head.VersionId)
	s.isPlain.Store(version == "")
	return version, nil
}

// Lock keeps an object from being removed before a time. It stays in the mode in which it is locked, if it is.
func (s *Store) Lock(ctx context.Context, name string, until time.Time) error {
	if err := cmp.Or(ctx.Err(), object.CheckName(name)); err != nil {
		return err
	}
	if s.options.LockMode == "" {
		return fmt.Errorf("lock %s: no mode is set: %w", s.path(name), object.ErrRefused)
	}
	mode := types.ObjectLockRetentionMode(s.options.LockMode)
	refused := s.retain(ctx, name, mode, until)
	if refused == nil || !errors.Is(refused, object.ErrRefused) {
		return refused
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	got, err := s.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &s.options.Bucket, Key: aws.String(s.prefix + name)})
	switch {
	case err != nil || got.Retention == nil:
		return refused
	case !aws.ToTime(got.Retention.RetainUntilDate).Before(until.Truncate(time.Second)):
		return nil
	case got.Retention.Mode == mode:
		return refused
	}
	return s.retain(ctx, name, got.Retention.Mode, until)
}

// retain sets until when an object is kept.
func (s *Store) retain(ctx context.Context, name string, mode types.ObjectLockRetentionMode, until time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	_, err := s.client.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{
		Bucket: &s.options.Bucket, Key: aws.String(s.prefix + name), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
		Retention: &types.ObjectLockRetention{Mode: mode, RetainUntilDate: aws.Time(until)},
	})
	return s.worded(err, "lock", name)
}

// BucketLock is what a bucket has for objects that are kept from being removed.
type BucketLock struct {
	Enabled bool
	Mode    string // in which every new object is kept of which nothing else is said; empty for none
	Days    int    // how long that is
}

// BucketLock asks the bucket. If these credentials may not, it is an object.ErrRefused.
func (s *Store) BucketLock(ctx context.Context) (BucketLock, error) {
	var lock BucketLock
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	output, err := s.client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &s.options.Bucket})
	switch code(err) {
	case "ObjectLockConfigurationNotFoundError":
		return lock, nil
	case "AccessDenied":
		return lock, usererr.Hinted("These credentials should have s3:GetBucketObjectLockConfiguration.",
			"whether the bucket locks objects is not known: %w: %w", object.ErrRefused, err)
	}
	if err != nil {
		return lock, s.worded(err, "settings of locks", "")
	}
	if c := output.ObjectLockConfiguration; c != nil {
		lock.Enabled = c.ObjectLockEnabled == types.ObjectLockEnabledEnabled
		if c.Rule != nil && c.Rule.DefaultRetention != nil {
			d := c.Rule.DefaultRetention
			lock.Mode, lock.Days = string(d.Mode), int(aws.ToInt32(d.Days)+365*aws.ToInt32(d.Years))
		}
	}
	return lock, nil
}
