package pgdata

import (
	"bytes"
	"encoding/binary"

	"basin/internal/wal"
)

// ClusterState is what a control file says that its cluster is at. Its number is that of DBState.
//
// Source: DBState in src/include/catalog/pg_control.h, PostgreSQL 10 to 18.
type ClusterState uint32

// The states.
const (
	StateStartingUp ClusterState = iota
	StateShutDown
	StateShutDownInRecovery
	StateShuttingDown
	StateInCrashRecovery
	StateInArchiveRecovery
	StateInProduction
)

// String returns the state as pg_controldata shows it.
//
// Source: dbState in src/bin/pg_controldata/pg_controldata.c, PostgreSQL 18.
func (s ClusterState) String() string {
	names := [...]string{"starting up", "shut down", "shut down in recovery", "shutting down", "in crash recovery", "in archive recovery", "in production"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unrecognized status code"
}

// ControlState is what a control file says of how far a cluster is.
type ControlState struct {
	State      ClusterState
	Checkpoint wal.LSN      // of the last checkpoint's record
	Timeline   wal.Timeline // of that
	// MinRecovery is up to where recovery must come, or, once the cluster is consistent, has come; zero for one that does not
	// recover.
	MinRecovery wal.LSN
	// BackupStart is where the backup began that is being recovered; zero once recovery has come to its end.
	BackupStart wal.LSN

	// Settings that the primary had: a standby with less of one pauses.
	MaxConnections, MaxWorkerProcesses, MaxWALSenders, MaxPreparedTransactions, MaxLocksPerTransaction uint32
}

// Offsets in a control file since 11, in bytes, from its beginning, and back from its floatFormat. There the
// fields before that have the same order and sizes since 12.
//
// Source: ControlFileData in src/include/catalog/pg_control.h, PostgreSQL 12 to 18.
const (
	stateAt      = 16
	checkpointAt = 32
	timelineAt   = 48 // ThisTimeLineID of checkPointCopy

	minRecoveryBack = 72
	backupStartBack = 56
	settingsBack    = 28 // of five numbers
)

// ParseControlState reads a control file of 12 or newer, of which at least the first 512 bytes are given.
func ParseControlState(content []byte) (ControlState, error) {
	control, err := ParseControl(content)
	if err != nil {
		return ControlState{}, err
	}
	at := bytes.Index(content[:controlUsed], floatFormat)
	if control.Version < 1201 || at < minRecoveryBack+timelineAt {
		return ControlState{}, ErrControlVersion
	}
	number := func(at int) uint32 { return binary.LittleEndian.Uint32(content[at:]) }
	lsn := func(at int) wal.LSN { return wal.LSN(binary.LittleEndian.Uint64(content[at:])) }
	return ControlState{
		State: ClusterState(number(stateAt)), Checkpoint: lsn(checkpointAt), Timeline: wal.Timeline(number(timelineAt)),
		MinRecovery: lsn(at - minRecoveryBack), BackupStart: lsn(at - backupStartBack),
		MaxConnections: number(at - settingsBack), MaxWorkerProcesses: number(at - settingsBack + 4), MaxWALSenders: number(at - settingsBack + 8),
		MaxPreparedTransactions: number(at - settingsBack + 12), MaxLocksPerTransaction: number(at - settingsBack + 16),
	}, nil
}
