package wal

import "time"

// What a record of a transaction's end is and has.
//
// Source: src/include/access/xact.h, PostgreSQL 18.
const (
	transactionManager        = 1    // RM_XACT_ID
	transactionWhat           = 0x70 // XLOG_XACT_OPMASK
	transactionCommit         = 0x00 // XLOG_XACT_COMMIT
	transactionCommitPrepared = 0x30 // XLOG_XACT_COMMIT_PREPARED
	commitHasMore             = 0x80 // XLOG_XACT_HAS_INFO

	commitHasDatabase        = 1 << 0 // XACT_XINFO_HAS_DBINFO
	commitHasSubtransactions = 1 << 1 // XACT_XINFO_HAS_SUBXACTS
	commitHasRelations       = 1 << 2 // XACT_XINFO_HAS_RELFILELOCATORS: that are dropped
	commitHasInvalidations   = 1 << 3 // XACT_XINFO_HAS_INVALS
	commitHasPrepared        = 1 << 4 // XACT_XINFO_HAS_TWOPHASE
	commitHasStatistics      = 1 << 8 // XACT_XINFO_HAS_DROPPED_STATS, since 15
)

// Commit is the end of a transaction whose changes are to stay.
type Commit struct {
	XID  uint32    // of the transaction; one that was prepared may have been committed by another
	Time time.Time // by the server's clock, to the microsecond
}

// Commit returns what the record commits, and false if it is no commit: neither
// COMMIT nor COMMIT PREPARED.
//
// Source: ParseCommitRecord in src/backend/access/rmgrdesc/xactdesc.c, PostgreSQL
// 10 to 18.
func (r Record) Commit() (Commit, bool) {
	what := r.Info & transactionWhat
	if r.ResourceManager != transactionManager || what != transactionCommit && what != transactionCommitPrepared {
		return Commit{}, false
	}
	f, err := r.fragments()
	if err != nil {
		return Commit{}, false
	}
	c := cursor{p: f.main, order: r.order}
	result := Commit{XID: r.XID, Time: timeOf(int64(c.uint64()))}
	if what == transactionCommitPrepared {
		result.XID = r.preparedXID(&c)
	}
	return result, !c.short
}

// preparedXID returns the transaction that COMMIT PREPARED commits. c is after the
// time of the commit.
func (r *Record) preparedXID(c *cursor) uint32 {
	var has uint32
	if r.Info&commitHasMore != 0 {
		has = c.uint32()
	}
	if has&commitHasDatabase != 0 {
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
		{commitHasSubtransactions, 4},
		{commitHasRelations, 12},
		{commitHasStatistics, statistic},
		{commitHasInvalidations, 16}, // SharedInvalidationMessage
	} {
		if has&list.flag != 0 {
			n := c.uint32()
			c.take(int(min(int64(n)*int64(list.size), maxRecordLength)))
		}
	}
	if has&commitHasPrepared == 0 {
		c.short = true
	}
	return c.uint32()
}

// timeOf returns the time of a TimestampTz: microseconds since the year 2000.
func timeOf(t int64) time.Time {
	const from1970 = 946684800 // seconds
	return time.Unix(from1970+t/1e6, t%1e6*1000).UTC()
}
