package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"basin/internal/accept"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// identifySystem tells which cluster it is and how far its log can be had.
//
// Source: IdentifySystem in src/backend/replication/walsender.c, PostgreSQL 18.
func (s *session) identifySystem(ctx context.Context) error {
	at, err := s.server.flushed(ctx)
	if err != nil {
		return err
	}
	var database any
	if s.client.Replication == accept.Database {
		database = s.client.Database
	}
	return s.conn.queueRows(protocol.Columns(protocol.IdentifySystem{}, s.cluster.Version), protocol.Tag(protocol.IdentifySystem{}, s.cluster.Version), []any{
		strconv.FormatUint(s.cluster.SystemID, 10), strconv.FormatUint(uint64(at.Timeline), 10), at.LSN.String(), database,
	})
}

// freshness is how long it is waited for to hear of what the cluster has flushed.
const freshness = 5 * time.Second

// flushed returns up to where the log can be had: at least all that the cluster has flushed
// when it is asked for.
func (s *Server) flushed(ctx context.Context) (wal.Position, error) {
	log := s.o.Cluster.Log()
	d, err := s.o.Cluster.Describe(ctx)
	if err != nil {
		return wal.Position{}, errNoLog
	}
	s.standbys.set(d.Synchronous)
	ctx, cancel := context.WithTimeout(ctx, freshness)
	defer cancel()
	for {
		at, changed := log.Flushed()
		if at.LSN >= d.Flushed {
			return at, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if at.LSN == 0 || context.Cause(ctx) != context.DeadlineExceeded {
				return at, errNoLog
			}
			return at, nil // what there is can be had
		}
	}
}

// errNoLog is the state before the cluster's log was first reached.
var errNoLog = &Error{Code: "57P03", Message: "the cluster's log cannot be reached yet",
	Hint: "See whether the cluster is up; this server connects to it again by itself."}

// timelineHistory sends a timeline's history file.
//
// Source: SendTimeLineHistory in src/backend/replication/walsender.c, PostgreSQL 18.
func (s *session) timelineHistory(ctx context.Context, command protocol.TimelineHistory) error {
	name := wal.HistoryName(command.Timeline)
	content, err := s.server.o.Cluster.Log().HistoryFile(ctx, command.Timeline)
	if errors.Is(err, fs.ErrNotExist) {
		return &Error{Code: codeUndefinedFile, Message: fmt.Sprintf("could not open file \"pg_wal/%s\": No such file or directory", name)}
	}
	if err != nil {
		return err
	}
	return s.conn.queueRows(protocol.Columns(command, s.cluster.Version), protocol.Tag(command, s.cluster.Version), []any{name, content})
}

// secret are settings that only some roles may see, as nobody knows which of them the
// client would have been on the cluster: they tell of files, programs and passwords.
//
// Source: GUC_SUPERUSER_ONLY in src/backend/utils/misc/guc_tables.c, PostgreSQL 10 to 18.
var secret = []string{
	"config_file", "data_directory", "dynamic_library_path", "external_pid_file", "hba_file", "ident_file",
	"krb_server_keyfile", "local_preload_libraries", "log_directory", "log_filename", "primary_conninfo",
	"session_preload_libraries", "shared_preload_libraries", "ssl_passphrase_command",
	"archive_command", "archive_cleanup_command", "recovery_end_command", "restore_command",
	"unix_socket_directories", "unix_socket_group", "stats_temp_directory", "jit_provider",
	"extension_control_path", "extension_destdir", "oauth_validator_libraries", "output_plugin_libraries",
	"ssl_ciphers", "ssl_tls13_ciphers", "ssl_dh_params_file", "ssl_ecdh_curve", "ssl_groups",
	"ssl_max_protocol_version", "ssl_min_protocol_version",
}

// show sends a setting of the cluster.
func (s *session) show(ctx context.Context, command protocol.Show) error {
	name := strings.ToLower(command.Name)
	if name == "all" || slices.Contains(secret, name) || strings.Contains(name, ".") {
		return &Error{Code: codePrivilege, Message: fmt.Sprintf("permission denied to examine \"%s\"", command.Name),
			Detail: "Only roles with privileges of the \"pg_read_all_settings\" role may examine this parameter."}
	}
	return s.relay(ctx, command)
}

// startReplication streams the log.
//
// A client that uses a slot, or that commits wait for, has a stream of the cluster's own, so
// that what it answers counts there. All others share what this server knows of the log;
// those alone have an end that the end of this server brings them to.
func (s *session) startReplication(ctx context.Context, command protocol.StartPhysicalReplication) error {
	s.server.counts.streams.Add(1)
	defer s.server.counts.streams.Add(-1)
	handed := func() (bool, <-chan struct{}) { return s.server.standbys.has(s.client.ApplicationName) }
	if counts, _ := handed(); counts || command.Slot != "" {
		s.endAtStop(ctx)
		return s.relayStream(ctx, command)
	}
	s.releaseUpstream()
	err := stream(ctx, s.conn, s.server.o.Cluster.Log(), streamOptions{
		From: command.From, Timeout: max(s.server.o.Timeout, 0),
		SegmentSize: s.cluster.SegmentSize, Shutdown: s.server.stopping, Handover: handed,
	})
	if h := (*handover)(nil); errors.As(err, &h) {
		s.endAtStop(ctx)
		return s.relayOn(ctx, h)
	}
	return err
}

// sql answers the few statements that libraries send on a replication connection, or
// that checks are made with on an ordinary one, and refuses all others.
func (s *session) sql(ctx context.Context, command protocol.SQL) error {
	if s.client.Replication == accept.Physical {
		return &Error{Code: codeFeatureNotSupported, Message: "cannot execute SQL commands in WAL sender for physical replication"}
	}
	known, ok := s.find(command.Text)
	if !ok {
		return errStatement
	}
	return s.simple(ctx, known)
}

func letter(b bool) string {
	if b {
		return "t"
	}
	return "f"
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// carried are settings of a client's startup packet that its session on the cluster gets: they
// say how what is decoded looks, and nothing of what a role may do.
var carried = []string{"bytea_output", "client_encoding", "DateStyle", "extra_float_digits", "IntervalStyle", "TimeZone"}

// sessionSettings returns those that a client of a database wants.
func sessionSettings(client *accept.Session) map[string]string {
	settings := make(map[string]string)
	if client.Replication == accept.Physical {
		return settings // of which nothing is seen
	}
	for name, value := range client.Parameters {
		for _, known := range carried {
			if strings.EqualFold(name, known) && value != "" {
				settings[known] = value
			}
		}
	}
	return settings
}

// parameters are what a client is told of the cluster when it is let in.
//
// Source: GUC_REPORT in src/backend/utils/misc/guc_tables.c, PostgreSQL 10 to 18.
func parameters(d Description, client *accept.Session) []accept.Parameter {
	encoding := "SQL_ASCII" // that of no database
	if client.Replication != accept.Physical {
		encoding = d.Settings["server_encoding"]
	}
	wanted := sessionSettings(client)
	setting := func(name, physical string) accept.Parameter {
		if client.Replication == accept.Physical {
			return accept.Parameter{Name: name, Value: physical}
		}
		return accept.Parameter{Name: name, Value: cmp.Or(wanted[name], d.Settings[name])}
	}
	p := []accept.Parameter{
		{Name: "application_name", Value: client.ApplicationName},
		{Name: "client_encoding", Value: cmp.Or(wanted["client_encoding"], encoding)},
		setting("DateStyle", "ISO, MDY"), // psycopg2 would set another
		{Name: "integer_datetimes", Value: "on"},
		setting("IntervalStyle", "postgres"),
		{Name: "is_superuser", Value: "off"},
		{Name: "server_encoding", Value: encoding},
		{Name: "server_version", Value: d.ServerVersion},
		{Name: "session_authorization", Value: client.User},
		{Name: "standard_conforming_strings", Value: "on"},
		setting("TimeZone", d.Settings["TimeZone"]),
	}
	if d.Major() >= 14 {
		p = append(p, accept.Parameter{Name: "default_transaction_read_only", Value: "off"}, accept.Parameter{Name: "in_hot_standby", Value: onOff(d.Standby)})
	}
	if d.Major() >= 16 {
		p = append(p, accept.Parameter{Name: "scram_iterations", Value: "4096"})
	}
	if d.Major() >= 18 {
		p = append(p, accept.Parameter{Name: "search_path", Value: `"$user", public`})
	}
	return p
}
