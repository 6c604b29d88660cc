package main

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/localfs"
	"basin/internal/usererr"
)

// invalidAuthorization is the SQLSTATE of a role that does not exist, or may not log in as it does.
const invalidAuthorization = "28000"

// dial connects to a server, which is not waited for for ever. What it says meanwhile is printed.
func dial(ctx context.Context, r *report, params conninfo.Params, prompt passwordPrompt) (*connect.Session, error) {
	session, err := dialFor(ctx, connect.DefaultTimeout, r, params, prompt)
	server := (*connect.ServerError)(nil)
	if _, isNamed := params.Lookup("user"); !isNamed && errors.As(err, &server) && server.Code == invalidAuthorization {
		err = &usererr.Error{Err: err, Hint: "-U names the role, as in -U postgres. Without, it is PGUSER, or the name of this user of the operating system."}
	}
	return session, err
}

// dialPatiently connects to a server as libpq does, which waits for ever unless the user says how long.
func dialPatiently(ctx context.Context, r *report, params conninfo.Params, prompt passwordPrompt) (*connect.Session, error) {
	return dialFor(ctx, 0, r, params, prompt)
}

// dialFor connects to a server, of which each address is waited for so long if the user does not say how long.
func dialFor(ctx context.Context, timeout time.Duration, r *report, params conninfo.Params, prompt passwordPrompt) (*connect.Session, error) {
	o := connect.Options{
		Params: params, System: conninfo.ThisSystem(), ForcePrompt: prompt == promptAlways, Timeout: timeout,
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
	c.Notice = func(n *pgconn.Notice) { r.notice(connect.NoticeText(n.Severity, n.Message, n.Detail, n.Hint)) }
	return c
}

// errDisconnected is how a receiver ends that is not to try again. Why was reported.
var errDisconnected = errors.New("disconnected")

// setModes returns the modes of directories and files that are made from what a server
// has, and sets the umask so that they are nobody else's, whatever it was. group says
// that the server's are also for its group.
func setModes(group bool) (dir, file fs.FileMode) {
	dir, file = localfs.DirModeOwner, localfs.FileModeOwner
	if group {
		dir, file = 0o750, 0o640 // PG_DIR_MODE_GROUP, PG_FILE_MODE_GROUP
	}
	unix.Umask(int(0o777 &^ dir))
	return dir, file
}
