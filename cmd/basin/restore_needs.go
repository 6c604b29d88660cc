package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"basin/internal/pgdata"
	"basin/internal/seal"
	"basin/internal/wal"
)

// needed are settings that may not be lower than those with which the log was written, where the control file has these, and what they are
// unless they are set.
//
// Source: CheckRequiredParameterValues in src/backend/access/transam/xlogrecovery.c, ControlFileData in
// src/include/catalog/pg_control.h, PostgreSQL 13 to 18; src/backend/utils/misc/guc_tables.c, PostgreSQL 18.
var needed = []struct {
	name     string
	at       int
	unset    int32
	ofRecord func(wal.Parameters) int32
}{
	{"max_connections", 180, 100, func(p wal.Parameters) int32 { return p.MaxConnections }},
	{"max_worker_processes", 184, 8, func(p wal.Parameters) int32 { return p.MaxWorkerProcesses }},
	{"max_wal_senders", 188, 10, func(p wal.Parameters) int32 { return p.MaxWALSenders }},
	{"max_prepared_transactions", 192, 0, func(p wal.Parameters) int32 { return p.MaxPreparedTransactions }},
	{"max_locks_per_transaction", 196, 64, func(p wal.Parameters) int32 { return p.MaxLocksPerTransaction }},
}

// controlNeeds returns the settings that a control file has, by name; nothing before 13.
func controlNeeds(control []byte, version int) map[string]int32 {
	needs := make(map[string]int32)
	for _, s := range needed {
		if version >= 130000 && len(control) >= s.at+4 {
			needs[s.name] = int32(binary.LittleEndian.Uint32(control[s.at:]))
		}
	}
	return needs
}

// neededSettings returns lines of configuration that have recovery go on.
func neededSettings(needs map[string]int32) string {
	var b strings.Builder
	for _, s := range needed {
		if value, ok := needs[s.name]; ok {
			fmt.Fprintf(&b, "%s = %d\n", s.name, value)
		}
	}
	return b.String()
}

// raisedSetting is a setting that recovery needs higher than the configuration has it that is restored.
type raisedSetting struct {
	Name string `json:"name"`
	From int32  `json:"from"`
	To   int32  `json:"to"`
}

// raise finds the settings that recovery needs higher than they are: with the server's own, in the backup and in all of the log that is
// replayed, it opens as a hot standby. settings are those of the configuration that is restored.
func (r *restoreRun) raise(ctx context.Context, p *restorePlan, settings map[string]string) ([]raisedSetting, error) {
	files, err := r.cluster.Files(ctx, p.commit)
	if err != nil {
		return nil, err
	}
	in := &backupConf{ctx: ctx, files: files}
	control, err := in.open(pgdata.ControlPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, seal.ErrDamaged) { // of which the restore itself tells
		return nil, err
	}
	inBackup := controlNeeds(control, p.commit.ServerVersion)
	var inLog wal.Parameters
	for facts, err := range r.cluster.Facts(ctx, p.reach) {
		if err != nil {
			return nil, err
		}
		if s := facts.Summary; s != nil && !p.isBefore(s.Start, s.Transactions) {
			inLog.Raise(s.Parameters)
		}
	}
	raised := []raisedSetting{}
	for _, s := range needed {
		has, to := s.unset, max(inBackup[s.name], s.ofRecord(inLog))
		if value, ok := inBackup[s.name]; ok && p.conf != nil && p.conf.lacks { // one is made, with this
			has = value
		}
		if value, isSet := settings[s.name]; isSet {
			n, err := strconv.ParseInt(value, 0, 32)
			if err != nil {
				n = 0 // it is not understood here
			}
			has = int32(n)
		}
		if has < to {
			raised = append(raised, raisedSetting{s.name, has, to})
		}
	}
	return raised, nil
}

// isRaising says whether the restore itself can raise settings: before 12 recovery has a file of its own, in which others are an error.
func (p *restorePlan) isRaising() bool { return p.commit.ServerVersion >= 120000 }

// raisedText tells for the plan which settings are raised.
func (p *restorePlan) raisedText() string {
	var b strings.Builder
	for _, s := range p.raised {
		if p.isRaising() {
			fmt.Fprintf(&b, "  settings  %s = %d, since recovery needs it; the configuration in the backup has %d\n", s.Name, s.To, s.From)
		} else {
			fmt.Fprintf(&b, "  settings  %s must be %d before it is started, since recovery needs it; the configuration in the backup has %d\n", s.Name, s.To, s.From)
		}
	}
	return b.String()
}
