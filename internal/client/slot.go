package client

import (
	"context"
	"fmt"

	"basin/internal/protocol"
)

// CreateLogicalSlot makes a logical slot. If the name is taken already,
// SlotExists tells so of the error. It waits for the end of all transactions
// that were begun before.
//
// Source: CreateReplicationSlot in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (c *Conn) CreateLogicalSlot(ctx context.Context, slot protocol.CreateLogicalSlot) error {
	command := slot.Command(c.Version)
	rows, err := c.Query(ctx, command)
	if err != nil {
		return fmt.Errorf("could not send replication command \"%s\": %w", command, err)
	}
	if len(rows) != 1 || len(rows[0]) != 4 {
		return fmt.Errorf("could not create replication slot \"%s\": got %s, expected 1 rows and 4 fields", slot.Slot, shape(rows))
	}
	return nil
}

// SlotExists says whether a slot could not be made because one of its name is there.
func SlotExists(err error) bool { return sqlState(err) == "42710" } // ERRCODE_DUPLICATE_OBJECT

// DropSlot drops a slot of any kind.
//
// Source: DropReplicationSlot in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (c *Conn) DropSlot(ctx context.Context, name string) error {
	command := protocol.DropReplicationSlot{Slot: name}.Command(c.Version)
	rows, err := c.Query(ctx, command)
	if err != nil {
		return fmt.Errorf("could not send replication command \"%s\": %w", command, err)
	}
	if len(rows) != 0 {
		return fmt.Errorf("could not drop replication slot \"%s\": got %s, expected 0 rows and 0 fields", name, shape(rows))
	}
	return nil
}
