package wal

import (
	"bytes"
	"time"
)

// What records of the log about itself are.
//
// Source: XLOG_CHECKPOINT_SHUTDOWN and what follows it in src/include/catalog/pg_control.h,
// PostgreSQL 18; the same since 10.
const (
	xlogCheckpointShutdown = 0x00 // XLOG_CHECKPOINT_SHUTDOWN
	xlogCheckpointOnline   = 0x10 // XLOG_CHECKPOINT_ONLINE
	xlogParameterChange    = 0x60 // XLOG_PARAMETER_CHANGE
	xlogRestorePoint       = 0x70 // XLOG_RESTORE_POINT
	xlogEndOfRecovery      = 0x90 // XLOG_END_OF_RECOVERY
)

// Checkpoint is where recovery may begin.
type Checkpoint struct {
	Redo             LSN // where it begins with what follows; before the record unless IsShutdown
	Timeline         Timeline
	PreviousTimeline Timeline  // other than Timeline where that begins
	FullPageWrites   bool      // whether records have images of the pages that they change first
	NextXID          uint64    // none as high was given out before Redo; its epoch is in the upper half
	Time             time.Time // when it began, by the server's clock, to the second
	IsShutdown       bool      // nothing was written meanwhile: the server stopped, or ended its recovery
}

// Checkpoint returns the checkpoint that the record tells of, and false if it is no such record.
//
// Source: CheckPoint in src/include/catalog/pg_control.h, PostgreSQL 10 to 18.
func (r Record) Checkpoint() (Checkpoint, bool) {
	what := r.Info & infoOfManager
	if r.ResourceManager != xlogManager || what != xlogCheckpointShutdown && what != xlogCheckpointOnline {
		return Checkpoint{}, false
	}
	c, ok := r.main()
	result := Checkpoint{
		Redo:             LSN(c.uint64()),
		Timeline:         Timeline(c.uint32()),
		PreviousTimeline: Timeline(c.uint32()),
		FullPageWrites:   c.uint8() != 0,
		IsShutdown:       what == xlogCheckpointShutdown,
	}
	c.take(3)           // which align
	epoch := c.uint32() // before 12; since 17 wal_level, and between them nothing
	if r.major < 12 {
		result.NextXID = uint64(epoch)<<32 | uint64(c.uint32())
		c.take(7 * 4) // nextOid to oldestMultiDB
	} else {
		result.NextXID = c.uint64()
		c.take(7*4 + 4) // the same, and what aligns
	}
	result.Time = time.Unix(int64(c.uint64()), 0).UTC() // of a pg_time_t
	return result, ok && !c.short
}

// Parameters are settings that a server which replays log as a hot standby may not have lower than the server that writes it.
type Parameters struct {
	MaxConnections          int32 `json:"maxConnections"`
	MaxWorkerProcesses      int32 `json:"maxWorkerProcesses"`
	MaxWALSenders           int32 `json:"maxWalSenders"` // since 12; zero before
	MaxPreparedTransactions int32 `json:"maxPreparedTransactions"`
	MaxLocksPerTransaction  int32 `json:"maxLocksPerTransaction"`
}

// Raise has each be as high as in o, if that is higher.
func (p *Parameters) Raise(o Parameters) {
	p.MaxConnections = max(p.MaxConnections, o.MaxConnections)
	p.MaxWorkerProcesses = max(p.MaxWorkerProcesses, o.MaxWorkerProcesses)
	p.MaxWALSenders = max(p.MaxWALSenders, o.MaxWALSenders)
	p.MaxPreparedTransactions = max(p.MaxPreparedTransactions, o.MaxPreparedTransactions)
	p.MaxLocksPerTransaction = max(p.MaxLocksPerTransaction, o.MaxLocksPerTransaction)
}

// ParameterChange tells with which settings the server writes log from there on.
type ParameterChange struct {
	Parameters
	IsMinimal bool // with wal_level=minimal: recovery from an archive does not go on behind it, and before 14 warns that data may be missing
}

// ParameterChange returns what the record tells of settings, and false if it is no such record.
//
// Source: xl_parameter_change in src/include/access/xlog_internal.h, PostgreSQL 10 to 18; CheckRequiredParameterValues in
// src/backend/access/transam/xlogrecovery.c, PostgreSQL 18.
func (r Record) ParameterChange() (ParameterChange, bool) {
	if r.ResourceManager != xlogManager || r.Info&infoOfManager != xlogParameterChange {
		return ParameterChange{}, false
	}
	c, ok := r.main()
	var p ParameterChange
	p.MaxConnections, p.MaxWorkerProcesses = int32(c.uint32()), int32(c.uint32())
	if r.major >= 12 {
		p.MaxWALSenders = int32(c.uint32())
	}
	p.MaxPreparedTransactions, p.MaxLocksPerTransaction = int32(c.uint32()), int32(c.uint32())
	p.IsMinimal = c.uint32() == 0 // wal_level
	return p, ok && !c.short
}

// EndOfRecovery is where a timeline begins, whose server did not make a checkpoint first.
type EndOfRecovery struct {
	Timeline         Timeline
	PreviousTimeline Timeline
	Time             time.Time // by the server's clock, to the microsecond
}

// EndOfRecovery returns what the record tells of the end of a recovery, and false if it is no
// such record.
//
// Source: xl_end_of_recovery in src/include/access/xlog_internal.h, PostgreSQL 10 to 18.
func (r Record) EndOfRecovery() (EndOfRecovery, bool) {
	if r.ResourceManager != xlogManager || r.Info&infoOfManager != xlogEndOfRecovery {
		return EndOfRecovery{}, false
	}
	c, ok := r.main()
	result := EndOfRecovery{
		Time:             timeOf(int64(c.uint64())),
		Timeline:         Timeline(c.uint32()),
		PreviousTimeline: Timeline(c.uint32()),
	}
	return result, ok && !c.short
}

// restorePointName is the room for the name of a restore point, in bytes with the zero that ends it.
//
// Source: MAXFNAMELEN in src/include/access/xlog_internal.h, PostgreSQL 10 to 18.
const restorePointName = 64

// RestorePoint is a place in the log that was given a name to recover to.
type RestorePoint struct {
	Name string    `json:"name"` // as pg_create_restore_point got it, in whatever encoding; others may have the same
	Time time.Time `json:"time"` // by the server's clock, to the microsecond
}

// RestorePoint returns the restore point that the record is, and false if it is none.
//
// Source: xl_restore_point in src/include/access/xlog_internal.h, PostgreSQL 10 to 18.
func (r Record) RestorePoint() (RestorePoint, bool) {
	if r.ResourceManager != xlogManager || r.Info&infoOfManager != xlogRestorePoint {
		return RestorePoint{}, false
	}
	c, ok := r.main()
	result := RestorePoint{Time: timeOf(int64(c.uint64()))}
	name, _, ended := bytes.Cut(c.take(restorePointName), []byte{0})
	result.Name = string(name)
	return result, ok && ended && !c.short
}
