package main

import (
	"context"
	"errors"
	"path"
	"time"

	"basin/internal/localfs"
	"basin/internal/seal"
)

// baseBackup is pg_basebackup.
func baseBackup(ctx context.Context, c call) error {
	o, err := parseBaseBackup(c)
	if err != nil {
		return err
	}
	return runBaseBackup(ctx, c.report, o)
}

// parseBaseBackup reads the command line and checks it.
func parseBaseBackup(c call) (baseBackupOptions, error) {
	o := baseBackupOptions{
		Label:          "pg_basebackup base backup",
		StatusInterval: 10 * time.Second,
		Compression:    compression{Request: seal.ParseRequest("none")},
		given:          make(map[string]bool),
	}
	operands, err := c.parse(baseBackupTable(&o, c))
	if err != nil {
		return o, err
	}
	if len(operands) > 0 {
		return o, c.usage("too many command-line arguments (first is \"%s\")", operands[0])
	}
	return o, o.check(c)
}

// check finds the options that do not go together, in the order in which
// pg_basebackup looks for them.
//
// Source: main in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func (o *baseBackupOptions) check(c call) error {
	o.Directory = localfs.Canonical(o.Directory)
	if o.Target == "client" {
		o.Target, o.given["target"] = "", false
	}
	for _, check := range []func(call) error{
		o.checkPlace, o.checkCompression, o.checkWALMethod, o.checkSlot, o.checkWALDirectory,
		o.checkReports, o.checkCompressWAL,
	} {
		if err := check(c); err != nil {
			return err
		}
	}
	return o.checkEmpty()
}

func (o *baseBackupOptions) checkPlace(c call) error {
	hasTarget := o.given["target"]
	switch {
	case hasTarget && o.given["format"]:
		return c.usage("cannot specify both format and backup target")
	case !hasTarget && !o.given["pgdata"]:
		return c.usage("must specify output directory or backup target")
	case hasTarget && o.given["pgdata"]:
		return c.usage("cannot specify both output directory and backup target")
	}
	return nil
}

func (o *baseBackupOptions) checkCompression(c call) error {
	hasTarget := o.given["target"]
	if o.Compression.Location == seal.Unspecified {
		o.Compression.Location = seal.Client
		if hasTarget {
			o.Compression.Location = seal.Server
		}
	}
	if o.Compression.Location == seal.Server {
		return nil // whose business the rest is
	}
	var err error
	if o.Compression.Client, err = o.Compression.Spec(); err != nil {
		return err
	}
	switch {
	case hasTarget:
		return c.usage("client-side compression is not possible when a backup target is specified")
	case o.Format == formatPlain && o.Compression.Client.Algorithm != seal.None:
		return c.usage("only tar mode backups can be compressed")
	}
	return nil
}

func (o *baseBackupOptions) checkWALMethod(c call) error {
	if o.WALMethod != walStream {
		return nil
	}
	switch {
	case o.given["target"]:
		return c.usage("WAL cannot be streamed when a backup target is specified")
	case o.Format == formatTar && o.Directory == "-":
		return c.usage("cannot stream write-ahead logs in tar mode to stdout")
	}
	return nil
}

func (o *baseBackupOptions) checkSlot(c call) error {
	hasSlot := o.given["slot"]
	switch {
	case hasSlot && o.WALMethod != walStream:
		return c.usage("replication slots can only be used with WAL streaming")
	case o.NoSlot && hasSlot:
		return c.usage("--no-slot cannot be used with slot name")
	case o.CreateSlot && !hasSlot:
		return c.usage("--create-slot needs a slot to be specified using --slot")
	case o.CreateSlot && o.NoSlot:
		return c.usage("--create-slot and --no-slot are incompatible options")
	}
	return nil
}

func (o *baseBackupOptions) checkWALDirectory(c call) error {
	if !o.given["waldir"] {
		return nil
	}
	o.WALDirectory = localfs.Canonical(o.WALDirectory)
	switch {
	case o.given["target"]:
		return c.usage("WAL directory location cannot be specified along with a backup target")
	case o.Format != formatPlain:
		return c.usage("WAL directory location can only be specified in plain mode")
	case !path.IsAbs(o.WALDirectory):
		return c.usage("WAL directory location must be an absolute path")
	}
	return nil
}

func (o *baseBackupOptions) checkReports(c call) error {
	switch {
	case o.Progress && o.NoEstimateSize:
		return c.usage("--progress and --no-estimate-size are incompatible options")
	case o.NoManifest && o.given["manifest-checksums"]:
		return c.usage("--no-manifest and --manifest-checksums are incompatible options")
	case o.NoManifest && o.ManifestForceEncode:
		return c.usage("--no-manifest and --manifest-force-encode are incompatible options")
	}
	return nil
}

// checkCompressWAL looks at what pg_basebackup does not have.
func (o *baseBackupOptions) checkCompressWAL(c call) error {
	switch {
	case !o.CompressWAL:
		return nil
	case o.Format != formatTar || o.WALMethod != walStream:
		return c.usage("--compress-wal can only be used in tar mode with WAL streaming")
	case o.Compression.Client.Algorithm == seal.None:
		return c.usage("--compress-wal needs client-side compression to be specified using --compress")
	}
	return nil
}

// checkEmpty finds options given with an empty value that cannot do, whose
// absence would mean something else. The words are those that the server or the
// operating system would find for them later.
func (o *baseBackupOptions) checkEmpty() error {
	for _, option := range []struct {
		name, value string
		err         error
	}{
		{"pgdata", o.Directory, errors.New("could not create directory \"\": No such file or directory")},
		{"incremental", o.Incremental, errors.New("could not open file \"\": No such file or directory")},
		{"target", o.Target, errors.New("unrecognized target: \"\"")},
		{"slot", o.Slot, errors.New("replication slot name \"\" is too short")},
		{"manifest-checksums", o.ManifestChecksums, errors.New("unrecognized checksum algorithm: \"\"")},
	} {
		if o.given[option.name] && option.value == "" {
			return option.err
		}
	}
	return nil
}
