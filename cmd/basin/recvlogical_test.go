package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"basin/internal/protocol"
)

func TestParseRecvLogical(t *testing.T) {
	for _, test := range []struct {
		reason string
		args   []string // beside the slot
		change func(*recvLogicalOptions)
	}{
		{"drop", []string{"--drop-slot"}, func(o *recvLogicalOptions) { o.DropSlot = true }},
		{"create", []string{"-d", "d", "--create-slot"}, func(o *recvLogicalOptions) { o.CreateSlot, o.Database = true, "d" }},
		{"create with everything", []string{"-dd", "--create", "--if-not-exists", "-t", "--enable-failover", "-P", "wal2json"}, func(o *recvLogicalOptions) {
			o.CreateSlot, o.Database, o.IfNotExists, o.TwoPhase, o.Failover, o.Plugin = true, "d", true, true, true, "wal2json"
		}},
		{"the old name", []string{"-d", "d", "--create-slot", "--two-phase"}, func(o *recvLogicalOptions) { o.CreateSlot, o.Database, o.TwoPhase = true, "d", true }},
		{"create and start", []string{"-d", "d", "--create-slot", "--start", "-f", "-"}, func(o *recvLogicalOptions) {
			o.CreateSlot, o.Start, o.Database, o.File = true, true, "d", "-"
		}},
		{"start with everything", []string{"-d", "d", "--start", "-f", "x", "-I", "16/B374D848", "-E", " 16/b374d849\n", "-nv", "-F0", "-s", "1 ", "--receiver-timeout=0"}, func(o *recvLogicalOptions) {
			o.Start, o.Database, o.File, o.NoLoop, o.Verbose = true, "d", "x", true, true
			o.StartPosition, o.EndPosition = 0x16B374D848, 0x16B374D849
			o.SyncInterval, o.StatusInterval, o.ReceiverTimeout = 0, time.Second, 0
		}},
		{"options of the plugin", []string{"-d", "d", "--start", "-f", "x", "-o", "a=b=c", "-o", "d", "-o", "e="}, func(o *recvLogicalOptions) {
			o.Start, o.Database, o.File = true, "d", "x"
			o.Options = []protocol.PluginOption{{Name: "a", Value: new("b=c")}, {Name: "d"}, {Name: "e", Value: new("")}}
		}},
		{"connection", []string{"--drop-slot", "-h", "/tmp", "-p", "1", "-U", "me", "-w"}, func(o *recvLogicalOptions) {
			o.DropSlot, o.Host, o.Port, o.User, o.Password = true, "/tmp", "1", "me", promptNever
		}},
		{"start at zero is no start", []string{"-d", "d", "--create-slot", "-I", "0/0"}, func(o *recvLogicalOptions) { o.CreateSlot, o.Database = true, "d" }},
		{"empty values are values", []string{"-d", "", "--start", "-f", ""}, func(o *recvLogicalOptions) { o.Start = true }},
	} {
		t.Run(test.reason, func(t *testing.T) {
			want := recvLogicalOptions{
				Slot: "s", Plugin: "test_decoding", SyncInterval: 10 * time.Second, StatusInterval: 10 * time.Second, ReceiverTimeout: 10 * time.Minute,
			}
			test.change(&want)
			got, err := parseRecvLogical(call{argv: append([]string{"pg_recvlogical", "-S", "s"}, test.args...), called: "pg_recvlogical"})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(recvLogicalOptions{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLogicalOutput(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	path := filepath.Join(t.TempDir(), "log")
	o := &logicalOutput{ctx: ctx, path: path, mode: 0o640, warn: t.Logf}
	if err := errors.Join(o.Open(), o.Open(), o.Write([]byte("one\n")), o.Sync(), o.Close(), o.Close()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(o.Open(), o.Write([]byte("two\n")), o.Close()); err != nil || o.broken != nil {
		t.Fatal(err, o.broken)
	}
	if got, err := os.ReadFile(path); string(got) != "one\ntwo\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, test := range []struct {
		reason string
		fail   func() error // with a file that cannot be written to
		broken bool
	}{
		{"nothing of it was written", func() error { return o.Write([]byte("three\n")) }, false},
		{"nobody knows what was synced", o.Sync, true},
		{"time is up", func() error { cancel(); return o.Write([]byte("three\n")) }, true},
	} {
		o.broken, o.file = nil, nil
		if err := o.Open(); err != nil {
			t.Fatal(err)
		}
		if err := o.file.Close(); err != nil { // behind its back
			t.Fatal(err)
		}
		if err := test.fail(); err == nil || (o.broken != nil) != test.broken {
			t.Errorf("%s: %v, broken %v", test.reason, err, o.broken)
		}
	}
}

func TestGraceAfterASignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		after, stop := graceContext(ctx, 10*time.Second)
		defer stop()
		cancel(interrupted{15})
		begun := time.Now()
		<-after.Done()
		if took := time.Since(begun); took != 10*time.Second || context.Cause(after) != error(interrupted{15}) {
			t.Errorf("ended after %v: %v", took, context.Cause(after))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		after, stop := graceContext(ctx, 10*time.Second)
		cancel()
		stop() // all was done in time
		<-after.Done()
	})
	for signal, ends := range map[interrupted]bool{{2}: true, {15}: true, {3}: false, {1}: false} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(signal)
		if err := endOfReceiving(ctx); (err == nil) != ends {
			t.Errorf("%v: %v", signal, err)
		}
	}
	if err := endOfReceiving(t.Context()); err != nil {
		t.Errorf("without a signal: %v", err)
	}
}
