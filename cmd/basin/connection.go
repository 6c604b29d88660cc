package main

import (
	"context"

	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/conninfo"
)

// dial connects to a server. What it says meanwhile is printed.
func dial(ctx context.Context, r *report, params conninfo.Params, prompt passwordPrompt) (*connect.Session, error) {
	o := connect.Options{
		Params: params, System: conninfo.ThisSystem(), ForcePrompt: prompt == promptAlways,
		Warn:   func(text string) { r.warning("%s", text) },
		Notice: r.notice,
	}
	if prompt != promptNever {
		o.Password = promptPassword
	}
	return connect.Connect(ctx, o)
}

// converse takes a session over; what the server says beside its answers is printed.
func converse(r *report, s *connect.Session) *client.Conn {
	c := client.NewConn(s)
	c.Notice = r.notice
	return c
}
