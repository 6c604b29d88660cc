package catalog

import (
	"encoding/binary"
	"errors"

	"basin/internal/pgdata"
)

const (
	pageHeader  = 24 // SizeOfPageHeaderData
	tupleHeader = 23 // SizeofHeapTupleHeader
	linePointer = 4  // sizeof(ItemIdData)
	lineNormal  = 1  // LP_NORMAL
)

// Bits of a tuple's t_infomask.
//
// Source: src/include/access/htup_details.h, PostgreSQL 18.
const (
	exclusiveLock = 0x0040 // HEAP_XMAX_EXCL_LOCK
	shareLock     = 0x0010 // HEAP_XMAX_KEYSHR_LOCK; with the one above HEAP_LOCK_MASK
	lockOnly      = 0x0080 // HEAP_XMAX_LOCK_ONLY
	xminCommitted = 0x0100 // HEAP_XMIN_COMMITTED
	xminInvalid   = 0x0200 // HEAP_XMIN_INVALID
	xminFrozen    = xminCommitted | xminInvalid
	xmaxCommitted = 0x0400 // HEAP_XMAX_COMMITTED
	xmaxInvalid   = 0x0800 // HEAP_XMAX_INVALID
	xmaxIsMulti   = 0x1000 // HEAP_XMAX_IS_MULTI
)

// errPage is a page that is none of a table.
var errPage = errors.New("it is not a page of a table")

// tuple is a version of a row.
//
// Source: HeapTupleHeaderData in src/include/access/htup_details.h, PostgreSQL 18.
type tuple struct {
	xmin, xmax uint32
	infomask   uint16
	data       []byte // of the columns
}

// isNewer says whether a version is newer than another of the same row.
//
// Source: TransactionIdPrecedes in src/backend/access/transam/transam.c, PostgreSQL 18.
func (t tuple) isNewer(than tuple) bool {
	if a, b := t.isFrozen(), than.isFrozen(); a != b {
		return b
	}
	return int32(t.xmin-than.xmin) > 0
}

// isFrozen says whether the version is older than all transactions that are known.
func (t tuple) isFrozen() bool {
	return t.infomask&xminFrozen == xminFrozen || t.xmin < firstTransaction
}

// firstTransaction is the first number that is that of a transaction: FirstNormalTransactionId.
const firstTransaction = 3

// parsePage calls yield with the tuples of a page, which are valid as long as the page is.
//
// Source: PageHeaderData in src/include/storage/bufpage.h and ItemIdData in src/include/storage/itemid.h,
// PostgreSQL 18.
func parsePage(p pgdata.Page, yield func(tuple) error) error {
	if p.IsNew() {
		return nil
	}
	lower, upper := int(binary.LittleEndian.Uint16(p[12:])), int(binary.LittleEndian.Uint16(p[14:]))
	special, form := int(binary.LittleEndian.Uint16(p[16:])), binary.LittleEndian.Uint16(p[18:])
	if lower < pageHeader || lower > upper || upper > special || special > pgdata.PageSize || form != pgdata.PageSize|4 {
		return errPage // PG_PAGE_LAYOUT_VERSION is 4
	}
	for at := pageHeader; at+linePointer <= lower; at += linePointer {
		pointer := binary.LittleEndian.Uint32(p[at:])
		offset, flags, length := int(pointer&0x7fff), pointer>>15&3, int(pointer>>17)
		if flags != lineNormal {
			continue
		}
		if offset < upper || offset+length > special || length < tupleHeader {
			return errPage
		}
		item := p[offset : offset+length]
		begin := int(item[22])
		if begin < tupleHeader || begin > length {
			return errPage
		}
		err := yield(tuple{
			xmin: binary.LittleEndian.Uint32(item), xmax: binary.LittleEndian.Uint32(item[4:]),
			infomask: binary.LittleEndian.Uint16(item[20:]), data: item[begin:],
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// status says whether a transaction was committed.
type status func(xid uint32) (committed bool, err error)

// isLive says whether a version is there to who sees all that was committed.
//
// Who deleted it is not looked for where several transactions had to do with it (a MultiXact): it counts as there.
// What a newer version says comes before what it says, so this can only be too much.
//
// Source: HeapTupleSatisfiesVacuum in src/backend/access/heap/heapam_visibility.c, PostgreSQL 18.
func (t tuple) isLive(committed status) (bool, error) {
	switch {
	case t.isFrozen() || t.infomask&xminFrozen == xminCommitted:
	case t.infomask&xminFrozen == xminInvalid:
		return false, nil
	default:
		if ok, err := committed(t.xmin); err != nil || !ok {
			return false, err
		}
	}
	isLocked := t.infomask&lockOnly != 0 || t.infomask&(xmaxIsMulti|exclusiveLock|shareLock) == exclusiveLock
	switch {
	case t.xmax == 0 || isLocked || t.infomask&(xmaxInvalid|xmaxIsMulti) != 0:
		return true, nil
	case t.infomask&xmaxCommitted != 0:
		return false, nil
	case t.xmax < firstTransaction:
		return true, nil
	}
	deleted, err := committed(t.xmax)
	return !deleted, err
}

// transactionPlace returns in which page of which file of pg_xact a transaction's status is, where in it, and how far it is
// to be shifted.
//
// Source: TransactionIdToPage and what follows it in src/backend/access/transam/clog.c, PostgreSQL 18.
func transactionPlace(xid uint32) (segment, page uint32, at int, shift uint) {
	const onPage = pgdata.PageSize * 4 // CLOG_XACTS_PER_PAGE
	const pages = 32                   // SLRU_PAGES_PER_SEGMENT
	number := xid / onPage
	return number / pages, number % pages, int(xid % onPage / 4), uint(xid%4) * 2
}

// statusCommitted is TRANSACTION_STATUS_COMMITTED.
const statusCommitted = 1
