package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// lag prints how long what is flushed on a primary takes to be replayed by each of its standbys,
// whose connection strings are the arguments. They are asked by turns, so that what else goes on
// meanwhile is the same for all.
func lag(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lag", flag.ContinueOnError)
	primary := flags.String("primary", "", "connection string")
	length := flags.Duration("for", 10*time.Second, "how long to look")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *length+time.Minute)
	defer cancel()
	of, err := pgconn.Connect(ctx, *primary)
	if err != nil {
		return err
	}
	defer of.Close(ctx)
	standbys := make([]*pgconn.PgConn, flags.NArg())
	for i, standby := range flags.Args() {
		if standbys[i], err = pgconn.Connect(ctx, standby); err != nil {
			return err
		}
		defer standbys[i].Close(ctx)
	}
	lags := make([][]time.Duration, len(standbys))
	for begun := time.Now(); time.Since(begun) < *length; {
		for i, at := range standbys {
			flushed, err := askOne(ctx, of, "SELECT pg_current_wal_flush_lsn()")
			if err != nil {
				return err
			}
			since := time.Now()
			for replayed := ""; replayed != "t"; {
				if replayed, err = askOne(ctx, at, "SELECT pg_last_wal_replay_lsn() >= '"+flushed+"'"); err != nil {
					return err
				}
			}
			lags[i] = append(lags[i], time.Since(since))
		}
	}
	for _, l := range lags {
		slices.Sort(l)
		fmt.Printf("p50 %.3f p99 %.3f ms of %d\n", l[len(l)/2].Seconds()*1000, l[len(l)*99/100].Seconds()*1000, len(l))
	}
	return nil
}

// askOne returns the one value that a query has for an answer.
func askOne(ctx context.Context, conn *pgconn.PgConn, query string) (string, error) {
	results, err := conn.Exec(ctx, query).ReadAll()
	if err != nil {
		return "", err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return "", errors.New("not one row")
	}
	return string(results[0].Rows[0][0]), nil
}
