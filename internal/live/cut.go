package live

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// CutOptions say of which part of the log it is asked what was cut off.
type CutOptions struct {
	Ranges  []manifest.Range // of the log, that the parent needs
	Start   wal.Position     // where the backup begins
	History wal.History      // of that timeline
	Version int              // of the server, as server_version_num
}

// Bounds of what is asked about relations that were cut off.
const (
	cutsAtMost = 500     // relations that were cut off elsewhere than between two files
	cutsAtOnce = 50      // of which the blocks are asked at the same time
	cutBlocks  = 1 << 18 // blocks of those that were written to since
)

// FindCuts asks a server that sends an incremental backup itself what its summaries say of relations that were cut
// off, which the incremental files do not tell: of each up to where its blocks are the parent's, and in the file that it
// was cut off in the blocks behind that were written to since. It is an error if summaries are missing, and if
// the server is one that may forget some of those blocks.
//
// Source: pg_wal_summary_contents in src/backend/backup/walsummaryfuncs.c, PostgreSQL 18.
func FindCuts(ctx context.Context, session Session, o CutOptions) (*pgdata.BlockChanges, error) {
	all := lines(o.Start.Timeline, o.History)
	from, err := checkRanges(o.Ranges, all, o.Start.LSN)
	if err != nil {
		return nil, err
	}
	q := &cutQuery{session: session, o: o, cuts: new(pgdata.BlockChanges)}
	files, err := q.files(ctx, from.LSN)
	if err != nil {
		return nil, err
	}
	if files, err = neededSummaries(files, all, from, o.Start.LSN); err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return q.cuts, nil
	}
	values := make([]string, len(files))
	for i, f := range files {
		values[i] = fmt.Sprintf("(%d, %d::bigint, '%v'::pg_catalog.pg_lsn, '%v'::pg_catalog.pg_lsn)", i, f.Timeline, f.Start, f.End)
	}
	q.entries = "(VALUES " + strings.Join(values, ", ") + ") AS f (n, tli, first, last), LATERAL pg_catalog.pg_wal_summary_contents(f.tli, f.first, f.last) AS c"
	cut, err := q.limits(ctx)
	if err != nil {
		return nil, err
	}
	for len(cut) > 0 {
		n := min(len(cut), cutsAtOnce)
		if err := q.written(ctx, cut[:n]); err != nil {
			return nil, err
		}
		cut = cut[n:]
	}
	return q.cuts, nil
}

// cutQuery asks for cuts.
type cutQuery struct {
	session Session
	o       CutOptions
	entries string // what is selected from
	cuts    *pgdata.BlockChanges
	blocks  int
}

// cutRelation is a relation that was cut off, and at which block.
type cutRelation struct {
	pgdata.RelationFork
	limit uint32
}

// files returns the server's summaries of what is between a position and the start of the backup.
func (q *cutQuery) files(ctx context.Context, from wal.LSN) (files []pgdata.SummaryFile, err error) {
	rows, err := q.session.Query(ctx, fmt.Sprintf("SELECT tli, start_lsn, end_lsn FROM pg_catalog.pg_available_wal_summaries() WHERE end_lsn > '%v' AND start_lsn < '%v'", from, q.o.Start.LSN))
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if len(row) != 3 {
			return nil, errCutAnswer
		}
		var f pgdata.SummaryFile
		if f.Timeline, err = parseTimeline(string(row[0])); err != nil {
			return nil, err
		}
		if f.Start, err = wal.ParseLSN(string(row[1])); err != nil {
			return nil, err
		}
		if f.End, err = wal.ParseLSN(string(row[2])); err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// limits returns the relations that were cut off within a file. Others are sent whole from there on.
func (q *cutQuery) limits(ctx context.Context) (cut []cutRelation, err error) {
	rows, err := q.session.Query(ctx, fmt.Sprintf(`SELECT c.reltablespace, c.reldatabase, c.relfilenode, c.relforknumber, pg_catalog.min(c.relblocknumber)
		FROM %s WHERE c.is_limit_block AND c.relforknumber <> %d
		GROUP BY 1, 2, 3, 4 HAVING pg_catalog.min(c.relblocknumber) %% %d <> 0 ORDER BY 1, 2, 3, 4 LIMIT %d`,
		q.entries, pgdata.FreeSpaceFork, pgdata.SegmentPages, cutsAtMost+1))
	if err != nil {
		return nil, err
	}
	if len(rows) > cutsAtMost {
		return nil, fmt.Errorf("more than %d relations were cut off", cutsAtMost)
	}
	for _, row := range rows {
		if len(row) != 5 {
			return nil, errCutAnswer
		}
		var n [5]uint32
		for i, column := range row {
			number, err := strconv.ParseUint(string(column), 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errCutAnswer, err)
			}
			n[i] = uint32(number)
		}
		c := cutRelation{pgdata.RelationFork{Tablespace: n[0], Database: n[1], Relation: n[2], Fork: pgdata.Fork(n[3])}, n[4]}
		q.cuts.SetLimit(c.RelationFork, c.limit)
		cut = append(cut, c)
	}
	return cut, nil
}

// written finds the blocks behind where relations were cut off that were written to after they were.
func (q *cutQuery) written(ctx context.Context, cut []cutRelation) error {
	values := make([]string, len(cut))
	for i, c := range cut {
		end := (uint64(c.limit)/pgdata.SegmentPages + 1) * pgdata.SegmentPages
		values[i] = fmt.Sprintf("(%d, %d::oid, %d::oid, %d::oid, %d, %d::bigint, %d::bigint)", i, c.Tablespace, c.Database, c.Relation, c.Fork, c.limit, end)
	}
	rows, err := q.session.Query(ctx, fmt.Sprintf(`WITH entry AS MATERIALIZED (
			SELECT f.n, k.i, c.relblocknumber AS block, c.is_limit_block AS cut FROM %s
			JOIN (VALUES %s) AS k (i, tablespace, database, relation, fork, first, last)
			ON c.reltablespace = k.tablespace AND c.reldatabase = k.database AND c.relfilenode = k.relation AND c.relforknumber = k.fork
			WHERE c.relblocknumber >= k.first AND c.relblocknumber < k.last)
		SELECT w.i, w.block, pg_catalog.bool_or(EXISTS (SELECT FROM entry AS e WHERE e.cut AND e.i = w.i AND e.n < w.n AND e.block <= w.block))
		FROM entry AS w WHERE NOT w.cut AND NOT EXISTS (SELECT FROM entry AS e WHERE e.cut AND e.i = w.i AND e.n > w.n AND e.block <= w.block)
		GROUP BY 1, 2 LIMIT %d`, q.entries, strings.Join(values, ", "), cutBlocks+1-q.blocks))
	if err != nil {
		return err
	}
	if q.blocks += len(rows); q.blocks > cutBlocks {
		return fmt.Errorf("more than %d blocks were written to behind where relations were cut off", cutBlocks)
	}
	for _, row := range rows {
		if len(row) != 3 {
			return errCutAnswer
		}
		i, err := strconv.Atoi(string(row[0]))
		block, blockErr := strconv.ParseUint(string(row[1]), 10, 32)
		if err != nil || blockErr != nil || i < 0 || i >= len(cut) {
			return errCutAnswer
		}
		if string(row[2]) == "t" && !pgdata.SortsSummaries(q.o.Version) {
			return usererr.Hinted("With --pgdata, on the server's host, the summaries are read in their order.",
				"relation %d of database %d was cut off and written to behind, which servers of version %d may leave out of incremental backups", cut[i].Relation, cut[i].Database, q.o.Version/10000)
		}
		q.cuts.Mark(cut[i].RelationFork, uint32(block))
	}
	return nil
}

// errCutAnswer is an answer of another form than it is to have.
var errCutAnswer = fmt.Errorf("the server's answer about its summaries is not as it should be")
