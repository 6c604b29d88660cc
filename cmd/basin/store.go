package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"basin/internal/localfs"
	"basin/internal/object"
	"basin/internal/object/disk"
	"basin/internal/object/s3"
	"basin/internal/usererr"
)

// reserveSize is how much room is kept in a folder for when its file system is full, in bytes: forget and prune note what they do before
// they do it, which takes some objects of a few hundred bytes.
const reserveSize = 1 << 20

// s3Scheme begins the location of a repository in a bucket.
const s3Scheme = "s3://"

// isFolder says whether the repository is in a folder.
func (p place) isFolder() bool { return !strings.Contains(p.Location, "://") }

// store returns where the objects of the repository are.
func (p place) store(ctx context.Context) (object.Store, error) {
	if strings.HasPrefix(p.Location, s3Scheme) {
		return p.bucket(ctx)
	}
	if scheme, _, ok := strings.Cut(p.Location, "://"); ok {
		return nil, usererr.Hinted("A location is a path, or s3://BUCKET/PREFIX.", "a repository cannot be at %s://", scheme)
	}
	s, err := disk.Open(p.Location, disk.Options{Reserve: reserveSize, UseReserve: p.makesRoom})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usererr.Hinted("Is the name right, and the file system mounted that it is in? Only where there was none: basin init makes a repository.", "%w", err)
	}
	if err != nil {
		return nil, err // and no store that is a nil *disk.Store
	}
	return s, nil
}

// bucket returns a bucket of S3, which is asked again when it does not answer.
func (p place) bucket(ctx context.Context) (object.Store, error) {
	o, err := p.bucketOptions()
	if err != nil {
		return nil, err
	}
	s, err := s3.Open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Location, err)
	}
	return object.Retry(s, object.RetryOptions{Tell: func(err error, wait time.Duration) {
		if p.say != nil {
			p.say("%v; it is tried again in %v", err, wait.Round(time.Millisecond))
		}
	}}), nil
}

// bucketOptions say where the bucket is, and how objects are kept in it.
func (p place) bucketOptions() (s3.Options, error) {
	name, prefix, _ := strings.Cut(strings.TrimPrefix(p.Location, s3Scheme), "/")
	o := s3.Options{
		Bucket: name, Prefix: prefix,
		Region: p.S3Region, Endpoint: p.S3Endpoint, PathStyle: p.S3PathStyle, CAFile: p.S3CAFile,
		StorageClass: p.S3StorageClass, Encryption: p.S3Encryption, KeyID: p.S3KMSKey,
		ChecksumWhenRequired: p.S3FewerChecksums,
	}
	return o, p.lockOptions(&o)
}

// newStore returns where the objects of a repository are that is made. A folder that is not there is made, and
// those above it.
func (p place) newStore(ctx context.Context) (object.Store, error) {
	if p.isFolder() {
		if err := makeFolder(p.Location); err != nil {
			return nil, err
		}
	}
	return p.store(ctx)
}

// makeFolder makes a folder, and those above it, durably. One that is there is no error.
func makeFolder(path string) error {
	err := os.Mkdir(path, 0o700)
	switch parent := filepath.Dir(path); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist) && parent != path:
		if _, there := os.Lstat(parent); there == nil { // a link that leads nowhere, or where nothing can be made
			return err
		}
		if err := makeFolder(parent); err != nil {
			return err
		}
		return makeFolder(path)
	case err != nil:
		return err
	default:
		return syncFolder(parent)
	}
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close() // it was only read
	return localfs.SyncRoot(root, path)
}
