// Package s3 keeps objects in a bucket of S3, or of what speaks its protocol.
//
// An object is one PutObject with "If-None-Match: *", which a store must know:
// AWS, MinIO, Ceph from Squid on, versitygw and others do. A request is sent once;
// to try again is what object.Retry is for, which knows what a lost answer means.
package s3

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"

	"basin/internal/object"
	"basin/internal/usererr"
)

// Options say where a bucket is and how objects are kept in it. Only Bucket is
// needed. Credentials are found as the AWS tools do: in the environment, the files
// of ~/.aws, and from the machine or the container.
type Options struct {
	Bucket    string
	Prefix    string // before all names, such as "backups/basin"; a slash behind it is added
	Region    string // empty is that of the AWS environment or files, or else us-east-1
	Endpoint  string // URL of a store that is not AWS; empty is AWS
	PathStyle bool   // the bucket is in the path, not in the host's name

	CAFile  string        // PEM file of the authorities that are trusted in place of the system's
	Timeout time.Duration // of a request with its answer; zero is two minutes

	StorageClass string // such as STANDARD_IA; empty is the bucket's
	Encryption   string // at the server, AES256 or aws:kms; empty is the bucket's
	KeyID        string // of the key for aws:kms; empty is the account's

	// LockMode, GOVERNANCE or COMPLIANCE, keeps objects from being removed; the bucket needs to
	// be made for that. LockFor says of a name for how long from its creation on, zero for not at all.
	// Without a mode there is nothing but what the bucket says.
	LockMode string
	LockFor  func(name string) time.Duration

	// ChecksumWhenRequired leaves out the checksums that S3 does not insist on,
	// for stores that do not know them.
	ChecksumWhenRequired bool
}

// Times after which a store is taken for dead, within the timeout of a request.
const (
	connectTimeout = 15 * time.Second
	defaultTimeout = 2 * time.Minute
	idleTimeout    = 60 * time.Second
	maxIdle        = 64 // connections kept
)

// defaultRegion is what signatures name if nothing else does. Stores that are
// not AWS mostly do not care.
const defaultRegion = "us-east-1"

// Store is an object.Store in a bucket, and an object.Locker.
type Store struct {
	client  *s3.Client
	http    *awshttp.BuildableClient
	options Options
	prefix  string // with the slash behind it, or empty

	isPlain atomic.Bool // the bucket has no versions
}

// Open returns the store in a bucket. It reads settings and files, and asks the
// network at most for credentials, not for the bucket.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	roots, err := readAuthorities(o.CAFile)
	if err != nil {
		return nil, err
	}
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.TLSHandshakeTimeout = connectTimeout
		t.IdleConnTimeout = idleTimeout
		t.MaxIdleConns, t.MaxIdleConnsPerHost = maxIdle, maxIdle
		if roots != nil {
			if t.TLSClientConfig == nil {
				t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
			}
			t.TLSClientConfig.RootCAs = roots
		}
	})
	loaders := []func(*config.LoadOptions) error{
		config.WithHTTPClient(client),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithLogger(logging.Nop{}), // it would write to stderr beside what is reported
	}
	if o.Region != "" {
		loaders = append(loaders, config.WithRegion(o.Region))
	}
	settings, err := config.LoadDefaultConfig(ctx, loaders...)
	if err != nil {
		return nil, fmt.Errorf("settings of AWS: %w", err)
	}
	settings.Region = cmp.Or(settings.Region, defaultRegion)
	s := &Store{http: client, options: o}
	if trimmed := strings.Trim(o.Prefix, "/"); trimmed != "" {
		s.prefix = trimmed + "/"
	}
	s.client = s3.NewFromConfig(settings, func(so *s3.Options) {
		so.UsePathStyle = o.PathStyle
		so.DisableLogOutputChecksumValidationSkipped = true
		if o.Endpoint != "" {
			so.BaseEndpoint = aws.String(o.Endpoint)
		}
		if o.ChecksumWhenRequired {
			so.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			so.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		}
	})
	return s, nil
}

// Close lets go of idle connections.
func (s *Store) Close() error {
	s.http.GetTransport().CloseIdleConnections()
	return nil
}

func (o Options) check() error {
	switch {
	case o.Bucket == "":
		return errors.New("no bucket is given")
	case object.CheckPrefix(strings.Trim(o.Prefix, "/")) != nil:
		return fmt.Errorf("prefix %q: has other characters than letters, digits, '.', '_', '-' and slashes", o.Prefix)
	case o.Encryption == "" && o.KeyID != "", o.Encryption == string(types.ServerSideEncryptionAes256) && o.KeyID != "":
		return usererr.Hinted("set the encryption to aws:kms", "a key is given for encryption that takes none")
	case (o.LockMode == "") != (o.LockFor == nil):
		return errors.New("a mode of locks and how long they last need each other")
	case o.LockMode != "" && o.LockMode != string(types.ObjectLockModeGovernance) && o.LockMode != string(types.ObjectLockModeCompliance):
		return fmt.Errorf("mode of locks %q: not GOVERNANCE or COMPLIANCE", o.LockMode)
	}
	return nil
}

// readAuthorities returns the certificates of a PEM file, or nil if no file is named.
func readAuthorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificates of authorities: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificates of authorities: %s has none in PEM form", file)
	}
	return roots, nil
}
