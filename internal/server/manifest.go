package server

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/localfs"
	"basin/internal/manifest"
)

// uploaded is the manifest of an earlier backup, which a client has sent.
type uploaded struct {
	file    *os.File // has no name
	catalog *manifest.Catalog
}

func (u *uploaded) close() {
	_ = u.catalog.Close() // both files have no name, and are gone
	_ = u.file.Close()
}

// uploadManifest takes the manifest of an earlier backup, of any size, and keeps it on disk.
//
// Source: UploadManifest in src/backend/replication/walsender.c, PostgreSQL 18.
func (s *session) uploadManifest(ctx context.Context) error {
	f, err := localfs.TempFile(s.server.o.TempDir)
	if err != nil {
		return &Error{Code: codeIO, Message: fmt.Sprintf("could not keep the manifest: %v", err)}
	}
	u, err := s.receiveManifest(ctx, f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if s.parent != nil {
		s.parent.close()
	}
	s.parent = u
	return s.conn.Queue(&pgproto3.CommandComplete{CommandTag: []byte("UPLOAD_MANIFEST")})
}

// receiveManifest writes what the client sends to f and reads it.
func (s *session) receiveManifest(ctx context.Context, f *os.File) (*uploaded, error) {
	if err := s.conn.Send([]byte{'G', 0, 0, 0, 7, 0, 0, 0}); err != nil { // CopyInResponse of no columns
		return nil, err
	}
	size := int64(0)
	var failed error // told when all has come, as the client reads nothing before
	for done := false; !done; {
		kind, body, err := s.conn.Receive(ctx)
		if err != nil {
			return nil, err
		}
		switch kind {
		case 'd':
			if failed != nil {
				continue
			}
			size += int64(len(body))
			if size > maxManifest {
				failed = &Error{Code: codeProgramLimit, Message: fmt.Sprintf("the manifest is larger than %d MB", maxManifest>>20)}
				continue
			}
			if _, err := f.Write(body); err != nil {
				failed = &Error{Code: codeIO, Message: fmt.Sprintf("could not keep the manifest: %v", err)}
			}
		case 'c':
			done = true
		case 'f':
			reason := pgproto3.CopyFail{}
			_ = reason.Decode(body) // without a reason it fails all the same
			return nil, &Error{Code: codeCanceled, Message: "COPY from stdin failed: " + reason.Message}
		case 'H', 'S':
		default:
			return nil, &Error{Severity: "FATAL", Code: codeProtocolViolation,
				Message: fmt.Sprintf("unexpected message type 0x%02X during COPY from stdin", kind)}
		}
	}
	if failed != nil {
		return nil, failed
	}
	catalog, err := manifest.NewCatalog(f, size, s.server.o.TempDir)
	if err != nil {
		return nil, &Error{Message: err.Error()}
	}
	if err := s.checkManifest(catalog.Manifest); err != nil {
		return nil, errors.Join(err, catalog.Close())
	}
	return &uploaded{f, catalog}, nil
}

// maxManifest is how large a manifest may be, in bytes: that of some ten million files.
const maxManifest = 4 << 30

// checkManifest says whether the manifest is one that a backup can be made against.
//
// Source: manifest_process_version and manifest_process_system_identifier in
// src/backend/backup/basebackup_incremental.c, PostgreSQL 18.
func (s *session) checkManifest(m manifest.Manifest) error {
	if m.Version == 1 {
		return &Error{Message: "backup manifest version 1 does not support incremental backup"}
	}
	if m.SystemID != s.cluster.SystemID {
		return &Error{Message: fmt.Sprintf("system identifier in backup manifest is %d, but database system identifier is %d",
			m.SystemID, s.cluster.SystemID)}
	}
	return nil
}
