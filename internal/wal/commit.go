package wal

import "time"

// What a record of a transaction's end is and has.
//
// Source: src/include/access/xact.h, PostgreSQL 18.
const (
	transactionManager        = 1    // RM_XACT_ID
	transactionWhat           = 0x70 // XLOG_XACT_OPMASK
	transactionCommit         = 0x00 // XLOG_XACT_COMMIT
	transactionAbort          = 0x20 // XLOG_XACT_ABORT
	transactionCommitPrepared = 0x30 // XLOG_XACT_COMMIT_PREPARED
	transactionAbortPrepared  = 0x40 // XLOG_XACT_ABORT_PREPARED
	transactionHasMore        = 0x80 // XLOG_XACT_HAS_INFO

	transactionHasDatabase        = 1 << 0 // XACT_XINFO_HAS_DBINFO; of an abort since 11
	transactionHasSubtransactions = 1 << 1 // XACT_XINFO_HAS_SUBXACTS
	transactionHasRelations       = 1 << 2 // XACT_XINFO_HAS_RELFILELOCATORS: that are dropped
	transactionHasInvalidations   = 1 << 3 // XACT_XINFO_HAS_INVALS; of a commit alone
	transactionHasPrepared        = 1 << 4 // XACT_XINFO_HAS_TWOPHASE
	transactionHasStatistics      = 1 << 8 // XACT_XINFO_HAS_DROPPED_STATS, since 15
)

// TransactionEnd is when a transaction ended, by a commit or an abort.
type TransactionEnd struct {
	XID  uint32    // of the transaction; that of the record is another if it had been prepared
	Time time.Time // by the server's clock, to the microsecond
}

// Commit returns what the record commits, and false if it is no commit: neither
// COMMIT nor COMMIT PREPARED.
//
// Source: ParseCommitRecord in src/backend/access/rmgrdesc/xactdesc.c, PostgreSQL
// 10 to 18.
func (r Record) Commit() (TransactionEnd, bool) {
	return r.transactionEnd(transactionCommit, transactionCommitPrepared)
}

// Abort returns what the record takes back, and false if it is no abort: neither
// ROLLBACK, of a transaction or within it to a savepoint, nor ROLLBACK PREPARED. A
// transaction that ended with its server has none.
//
// Source: ParseAbortRecord in src/backend/access/rmgrdesc/xactdesc.c, PostgreSQL
// 10 to 18.
func (r Record) Abort() (TransactionEnd, bool) {
	return r.transactionEnd(transactionAbort, transactionAbortPrepared)
}

// transactionEnd returns the end of a transaction, if the record is one of the two kinds.
func (r *Record) transactionEnd(plain, prepared uint8) (TransactionEnd, bool) {
	what := r.Info & transactionWhat
	if r.ResourceManager != transactionManager || what != plain && what != prepared {
		return TransactionEnd{}, false
	}
	c, ok := r.main()
	result := TransactionEnd{XID: r.XID, Time: timeOf(int64(c.uint64()))}
	if what == prepared {
		result.XID = r.preparedXID(&c)
	}
	return result, ok && !c.short
}

// preparedXID returns the transaction that COMMIT PREPARED or ROLLBACK PREPARED ends. c is
// after the time of that.
func (r *Record) preparedXID(c *cursor) uint32 {
	var has uint32
	if r.Info&transactionHasMore != 0 {
		has = c.uint32()
	}
	if has&transactionHasDatabase != 0 {
		c.take(8) // database and tablespace
	}
	statistic := 12 // bytes of xl_xact_stats_item
	if r.major >= 18 {
		statistic = 16
	}
	for _, list := range []struct {
		flag uint32
		size int // bytes of one
	}{
		{transactionHasSubtransactions, 4},
		{transactionHasRelations, 12},
		{transactionHasStatistics, statistic},
		{transactionHasInvalidations, 16}, // SharedInvalidationMessage
	} {
		if has&list.flag != 0 {
			n := c.uint32()
			c.take(int(min(int64(n)*int64(list.size), maxRecordLength)))
		}
	}
	if has&transactionHasPrepared == 0 {
		c.short = true
	}
	return c.uint32()
}

// timeOf returns the time of a TimestampTz: microseconds since the year 2000.
func timeOf(t int64) time.Time {
	const from1970 = 946684800 // seconds
	return time.Unix(from1970+t/1e6, t%1e6*1000).UTC()
}
