package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"basin/internal/wal"
)

// First bytes of the CopyData messages of BASE_BACKUP, from 15 on.
//
// Source: src/include/libpq/protocol.h, PostgreSQL 18.
const (
	CopyArchive  = 'n' // a new archive: name and location
	CopyPayload  = 'd' // bytes of the archive, or of the manifest
	CopyProgress = 'p' // bytes done
	CopyManifest = 'm' // the manifest follows
)

// First bytes of the CopyData messages of a stream of the log.
const (
	StreamData      = 'w' // from the server: a piece of the log
	StreamKeepalive = 'k' // from the server
	StreamStatus    = 'r' // from the client
	StreamFeedback  = 'h' // from a hot standby
)

// Archive is the head of one archive in a base backup.
type Archive struct {
	Name     string // base.tar or OID.tar, with a suffix if it is compressed
	Location string // of the tablespace; empty for the main data directory
}

// MalformedError is a COPY message that is not what its first byte promises.
type MalformedError struct {
	Kind   byte
	Length int
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("malformed COPY message of type %d, length %d", e.Kind, e.Length)
}

// malformed returns the error for msg, which may be empty.
func malformed(msg []byte) error {
	if len(msg) == 0 {
		return errors.New("empty COPY message")
	}
	return &MalformedError{msg[0], len(msg)}
}

// ParseArchive reads a CopyArchive message, its first byte included. A name
// that could lead out of the directory the archive goes to is an error.
//
// Source: ReceiveArchiveStreamChunk in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func ParseArchive(msg []byte) (Archive, error) {
	if len(msg) == 0 {
		return Archive{}, malformed(msg)
	}
	fields := bytes.SplitN(msg[1:], []byte{0}, 3)
	if len(fields) != 3 || len(fields[2]) != 0 {
		return Archive{}, malformed(msg)
	}
	a := Archive{string(fields[0]), string(fields[1])}
	if a.Name == "" || a.Name[0] == '.' || strings.ContainsAny(a.Name, `/\`) {
		return Archive{}, fmt.Errorf("invalid archive name: \"%s\"", a.Name)
	}
	return a, nil
}

// Append appends the message.
//
// Source: bbsink_copystream_begin_archive in src/backend/backup/basebackup_copy.c, PostgreSQL 18.
func (a Archive) Append(dst []byte) []byte {
	dst = append(dst, CopyArchive)
	dst = append(append(dst, a.Name...), 0)
	return append(append(dst, a.Location...), 0)
}

// AppendProgress appends a CopyProgress message. done is in bytes of archives
// before they are compressed.
//
// Source: bbsink_copystream_archive_contents in src/backend/backup/basebackup_copy.c, PostgreSQL 18.
func AppendProgress(dst []byte, done int64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, CopyProgress), uint64(done))
}

// ParseProgress reads a CopyProgress message, its first byte included.
func ParseProgress(msg []byte) (done int64, err error) {
	if len(msg) != 9 {
		return 0, malformed(msg)
	}
	return int64(binary.BigEndian.Uint64(msg[1:])), nil
}

// DataHeaderSize is the size of a StreamData message before the log's bytes:
// its first byte, the position, the server's end, and a time.
const DataHeaderSize = 1 + 8 + 8 + 8

// ParseDataHeader returns where the bytes behind the header belong, and how far
// the server's own log was durable when it sent them. h is DataHeaderSize long.
//
// Source: ProcessXLogDataMsg in src/bin/pg_basebackup/receivelog.c, PostgreSQL 18.
func ParseDataHeader(h []byte) (at, end wal.LSN) {
	return wal.LSN(binary.BigEndian.Uint64(h[1:])), wal.LSN(binary.BigEndian.Uint64(h[9:]))
}

// AppendDataHeader appends the head of a StreamData message as of now. at is where
// the bytes that follow it belong, end how far the server's own log is durable.
//
// Source: XLogSendPhysical in src/backend/replication/walsender.c, PostgreSQL 18.
func AppendDataHeader(dst []byte, at, end wal.LSN, now time.Time) []byte {
	dst = append(dst, StreamData)
	dst = binary.BigEndian.AppendUint64(dst, uint64(at))
	dst = binary.BigEndian.AppendUint64(dst, uint64(end))
	return appendTime(dst, now)
}

// Keepalive is what a server sends when it has nothing else to say.
type Keepalive struct {
	End   wal.LSN // of the server's log, as far as it was sent
	Reply bool    // a status is wanted at once
}

// ParseKeepalive reads a StreamKeepalive message, its first byte included.
func ParseKeepalive(msg []byte) (Keepalive, error) {
	if len(msg) < 18 {
		return Keepalive{}, fmt.Errorf("streaming header too small: %d", len(msg))
	}
	return Keepalive{End: wal.LSN(binary.BigEndian.Uint64(msg[1:])), Reply: msg[17] != 0}, nil
}

// Append appends the message as of now.
//
// Source: WalSndKeepalive in src/backend/replication/walsender.c, PostgreSQL 18.
func (k Keepalive) Append(dst []byte, now time.Time) []byte {
	dst = append(dst, StreamKeepalive)
	dst = binary.BigEndian.AppendUint64(dst, uint64(k.End))
	return appendBool(appendTime(dst, now), k.Reply)
}

// Status is what a receiver tells of its progress. Zero positions say nothing.
type Status struct {
	Write, Flush, Apply wal.LSN
	Reply               bool // a keepalive is wanted at once
}

// Append appends the message as of now.
//
// Source: sendFeedback in src/bin/pg_basebackup/receivelog.c, PostgreSQL 18.
func (s Status) Append(dst []byte, now time.Time) []byte {
	dst = append(dst, StreamStatus)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Write))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Flush))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Apply))
	return appendBool(appendTime(dst, now), s.Reply)
}

// statusSize is the size of a StreamStatus message.
const statusSize = 1 + 3*8 + 8 + 1

// ParseStatus reads a StreamStatus message, its first byte included, and returns
// when it was sent by the receiver's clock. As with servers, more may follow.
//
// Source: ProcessStandbyReplyMessage in src/backend/replication/walsender.c, PostgreSQL 18.
func ParseStatus(msg []byte) (s Status, sent time.Time, err error) {
	if len(msg) < statusSize || msg[0] != StreamStatus {
		return Status{}, time.Time{}, malformed(msg)
	}
	return Status{
		Write: wal.LSN(binary.BigEndian.Uint64(msg[1:])),
		Flush: wal.LSN(binary.BigEndian.Uint64(msg[9:])),
		Apply: wal.LSN(binary.BigEndian.Uint64(msg[17:])),
		Reply: msg[33] != 0,
	}, parseTime(msg[25:]), nil
}

// Feedback is what a hot standby tells of its queries, so that the server keeps
// what they read. A Xmin of zero is none.
type Feedback struct {
	Xmin, Epoch               uint32 // the oldest transaction, and how often their numbers had started again
	CatalogXmin, CatalogEpoch uint32 // the same for the system's catalogs
}

// Append appends the message as of now.
//
// Source: XLogWalRcvSendHSFeedback in src/backend/replication/walreceiver.c, PostgreSQL 18.
func (f Feedback) Append(dst []byte, now time.Time) []byte {
	dst = appendTime(append(dst, StreamFeedback), now)
	dst = binary.BigEndian.AppendUint32(dst, f.Xmin)
	dst = binary.BigEndian.AppendUint32(dst, f.Epoch)
	dst = binary.BigEndian.AppendUint32(dst, f.CatalogXmin)
	return binary.BigEndian.AppendUint32(dst, f.CatalogEpoch)
}

// feedbackSize is the size of a StreamFeedback message.
const feedbackSize = 1 + 8 + 4*4

// ParseFeedback reads a StreamFeedback message, its first byte included, and
// returns when it was sent by the standby's clock. As with servers, more may follow.
//
// Source: ProcessStandbyHSFeedbackMessage in src/backend/replication/walsender.c, PostgreSQL 18.
func ParseFeedback(msg []byte) (f Feedback, sent time.Time, err error) {
	if len(msg) < feedbackSize || msg[0] != StreamFeedback {
		return Feedback{}, time.Time{}, malformed(msg)
	}
	return Feedback{
		Xmin:         binary.BigEndian.Uint32(msg[9:]),
		Epoch:        binary.BigEndian.Uint32(msg[13:]),
		CatalogXmin:  binary.BigEndian.Uint32(msg[17:]),
		CatalogEpoch: binary.BigEndian.Uint32(msg[21:]),
	}, parseTime(msg[1:]), nil
}

// epoch is PostgreSQL's, the beginning of 2000, in microseconds since Unix's.
const epoch = 946684800 * 1e6

// appendTime appends a time in microseconds since the beginning of 2000.
func appendTime(dst []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(t.UnixMicro()-epoch))
}

// parseTime reads a time in microseconds since the beginning of 2000.
func parseTime(b []byte) time.Time {
	return time.UnixMicro(int64(binary.BigEndian.Uint64(b)) + epoch)
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}
