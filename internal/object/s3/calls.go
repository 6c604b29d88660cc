package s3

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"basin/internal/object"
	"basin/internal/usererr"
)

// Create makes an object.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	return s.create(ctx, name, bytes.NewReader(data), int64(len(data)))
}

// CreateFrom makes an object of the first size bytes of content.
func (s *Store) CreateFrom(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	return s.create(ctx, name, io.NewSectionReader(content, 0, size), size)
}

func (s *Store) create(ctx context.Context, name string, body io.ReadSeeker, size int64) error {
	if err := cmp.Or(ctx.Err(), object.CheckName(name)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	input := &s3.PutObjectInput{
		Bucket:        &s.options.Bucket,
		Key:           aws.String(s.prefix + name),
		Body:          body,
		ContentLength: &size,
		IfNoneMatch:   aws.String("*"),

		StorageClass:         types.StorageClass(s.options.StorageClass),
		ServerSideEncryption: types.ServerSideEncryption(s.options.Encryption),
	}
	if s.options.KeyID != "" {
		input.SSEKMSKeyId = &s.options.KeyID
	}
	if lock := s.lockFor(name); lock > 0 {
		input.ObjectLockMode = types.ObjectLockMode(s.options.LockMode)
		input.ObjectLockRetainUntilDate = aws.Time(time.Now().Add(lock))
		input.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32 // without any, locks are refused
	}
	output, err := s.client.PutObject(ctx, input)
	if err == nil {
		s.isPlain.Store(aws.ToString(output.VersionId) == "")
	}
	return s.worded(err, "create", name)
}

// Get returns a part of an object.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	return s.GetTo(ctx, name, off, n, nil)
}

// GetTo is as object.GetTo says.
func (s *Store) GetTo(ctx context.Context, name string, off, n int64, buffer []byte) ([]byte, error) {
	if err := cmp.Or(ctx.Err(), object.CheckName(name)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	isWhole := off == 0 && n < 0
	if off < 0 || n == 0 || n > 0 && off+n < 0 { // what no request can ask for
		return s.outside(ctx, name, off, n)
	}
	input := &s3.GetObjectInput{Bucket: &s.options.Bucket, Key: aws.String(s.prefix + name)}
	switch {
	case isWhole:
	case n < 0:
		input.Range = aws.String(fmt.Sprintf("bytes=%d-", off))
	default:
		input.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	}
	output, err := s.client.GetObject(ctx, input)
	if code(err) == "InvalidRange" {
		return s.outside(ctx, name, off, n)
	}
	if err != nil {
		return nil, s.worded(err, "read", name)
	}
	defer output.Body.Close()
	length := aws.ToInt64(output.ContentLength)
	switch {
	case !isWhole && output.ContentRange == nil:
		return nil, fmt.Errorf("read %s: the store does not know ranges: %w", s.path(name), object.ErrRefused)
	case n > 0 && length > n:
		return nil, fmt.Errorf("read %s: the store answers %d bytes for %d", s.path(name), length, n)
	case n > 0 && length < n:
		return s.outside(ctx, name, off, n)
	}
	data := object.Room(buffer, length)
	if _, err := io.ReadFull(output.Body, data); err != nil {
		return nil, s.worded(err, "read", name)
	}
	// At the end of the body checksums are compared.
	if extra, err := io.Copy(io.Discard, output.Body); err != nil || extra > 0 {
		return nil, s.worded(cmp.Or(err, errors.New("more bytes than were announced")), "read", name)
	}
	return data, nil
}

// outside answers a Get of a range that reads nothing or is not within the object.
func (s *Store) outside(ctx context.Context, name string, off, n int64) ([]byte, error) {
	output, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.options.Bucket, Key: aws.String(s.prefix + name)})
	if err != nil {
		return nil, s.worded(err, "read", name)
	}
	n, err = object.Range(s.path(name), aws.ToInt64(output.ContentLength), off, n)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		return nil, fmt.Errorf("read %s: the store does not find %d bytes from %d on that it has", s.path(name), n, off)
	}
	return []byte{}, nil
}

// List yields the objects that begin with prefix, a thousand with a request.
// Objects with names that cannot be it passes over.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		if err := cmp.Or(ctx.Err(), object.CheckPrefix(prefix)); err != nil {
			yield(object.Info{}, err)
			return
		}
		input := &s3.ListObjectsV2Input{Bucket: &s.options.Bucket, Prefix: aws.String(s.prefix + prefix)}
		if after != "" {
			input.StartAfter = aws.String(s.prefix + after)
		}
		for last := after; ; {
			page, err := s.page(ctx, input)
			if err != nil {
				yield(object.Info{}, s.worded(err, "list", prefix))
				return
			}
			for _, o := range page.Contents {
				name, isOurs := strings.CutPrefix(aws.ToString(o.Key), s.prefix)
				if !isOurs || object.CheckName(name) != nil {
					continue
				}
				if name <= last { // as directory buckets do
					yield(object.Info{}, fmt.Errorf("list %s: the store does not sort names: %w", s.path(prefix), object.ErrRefused))
					return
				}
				last = name
				if !yield(object.Info{Name: name, Size: aws.ToInt64(o.Size), Time: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
			if !aws.ToBool(page.IsTruncated) {
				return
			}
			if aws.ToString(page.NextContinuationToken) == "" {
				yield(object.Info{}, fmt.Errorf("list %s: the store does not say where the list goes on", s.path(prefix)))
				return
			}
			input.ContinuationToken = page.NextContinuationToken
		}
	}
}

func (s *Store) page(ctx context.Context, input *s3.ListObjectsV2Input) (*s3.ListObjectsV2Output, error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	return s.client.ListObjectsV2(ctx, input)
}

// path returns where an object is, for messages.
func (s *Store) path(name string) string {
	return "s3://" + s.options.Bucket + "/" + s.prefix + name
}

// code returns the name that S3 gives an error, or an empty string.
func code(err error) string {
	var answer smithy.APIError
	if !errors.As(err, &answer) {
		return ""
	}
	return answer.ErrorCode()
}

// refused are the names of errors that stay until somebody changes something.
var refused = []string{
	"AccessDenied", "AccountProblem", "AllAccessDisabled", "AuthorizationHeaderMalformed", "BadRequest", "Forbidden",
	"InvalidAccessKeyId", "InvalidArgument", "InvalidBucketName", "InvalidObjectState", "InvalidRequest",
	"InvalidStorageClass", "InvalidToken", "KMS.DisabledException", "KMS.NotFoundException", "MethodNotAllowed",
	"MovedPermanently", "NoSuchBucket", "NotImplemented", "ObjectLockConfigurationNotFoundError",
	"PermanentRedirect", "SignatureDoesNotMatch",
	"XAdminUserNotFound", // versitygw's InvalidAccessKeyId
}

// worded returns err as one of a store, with what was being done; nil stays nil.
func (s *Store) worded(err error, doing, name string) error {
	if err == nil {
		return nil
	}
	switch named := code(err); {
	case named == "PreconditionFailed":
		return fmt.Errorf("%s %s: %w", doing, s.path(name), fs.ErrExist)
	case named == "NoSuchKey", named == "NotFound":
		return fmt.Errorf("%s %s: %w", doing, s.path(name), fs.ErrNotExist)
	case slices.Contains(refused, named):
		return usererr.Hinted(hint(named), "%s %s: %w: %w", doing, s.path(name), object.ErrRefused, err)
	}
	return fmt.Errorf("%s %s: %w", doing, s.path(name), err)
}

// hint returns what to do about an error that stays.
func hint(named string) string {
	switch named {
	case "NoSuchBucket":
		return "make the bucket, or check its name and the endpoint"
	case "AccessDenied", "AllAccessDisabled", "Forbidden":
		return "reading, writing, listing and deleting must be allowed for these credentials"
	case "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "XAdminUserNotFound":
		return "check the credentials, as in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	case "AuthorizationHeaderMalformed", "MovedPermanently", "PermanentRedirect":
		return "set the region to that of the bucket"
	case "NotImplemented":
		return "the store must know conditional writes, and what else is set for the bucket"
	}
	return "check the settings of the bucket"
}
