package main

import (
	"context"
	"errors"
	"fmt"

	"basin/internal/client"
	"basin/internal/conninfo"
)

// slotAction creates or drops the slot, on every server that is named: a slot does
// not follow a failover, so that each server needs its own.
//
// pg_receivewal does it on the first server that it reaches.
func (r *receiveWALRun) slotAction(ctx context.Context) error {
	params, err := r.connectionParams()
	if err != nil {
		return err
	}
	r.params = params
	hosts, err := eachHost(params)
	if err != nil {
		return err
	}
	var failures []error
	for _, host := range hosts {
		r.params = host
		err := r.actOnSlot(ctx)
		r.disconnect()
		if err != nil {
			failures = append(failures, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failures...)
}

// actOnSlot does the slot's action on the one server that r.params name.
func (r *receiveWALRun) actOnSlot(ctx context.Context) error {
	session, err := dial(ctx, r.report, r.params, r.o.Password)
	if err != nil {
		return err
	}
	r.conn = converse(r.report, session)
	if r.o.DropSlot {
		r.verbose("dropping replication slot \"%s\"", r.o.Slot)
		return r.conn.DropSlot(ctx, r.o.Slot)
	}
	r.verbose("creating replication slot \"%s\"", r.o.Slot)
	err = r.conn.CreatePhysicalSlot(ctx, r.o.Slot, false, false)
	if r.o.IfNotExists && client.SlotExists(err) {
		return nil
	}
	return err
}

// eachHost returns the parameters, which are complete, once for each host that they name.
func eachHost(params conninfo.Params) ([]conninfo.Params, error) {
	hosts, err := params.Hosts(conninfo.ThisSystem())
	if err != nil {
		return nil, err
	}
	if len(hosts) < 2 {
		return []conninfo.Params{params}, nil
	}
	var each []conninfo.Params
	for _, host := range hosts {
		p := params.WithHost(host)
		// Whatever it is now: it may be the primary after the next failover.
		if err := p.Set("target_session_attrs", "any"); err != nil {
			return nil, fmt.Errorf("host %s: %w", host.Name, err)
		}
		each = append(each, p)
	}
	return each, nil
}
