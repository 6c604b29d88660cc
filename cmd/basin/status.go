package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"basin/internal/checkup"
	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/usererr"
)

// statusOptions is what the command line of status asks for.
type statusOptions struct {
	repositoryOptions
	connectionOptions
	BackupAge, LogAge, VerifyAge limit
	MinFree                      shareLimit    // of the file system of a repository that is in one
	Jobs                         int           // clusters that are looked at at the same time
	Timeout                      time.Duration // for all
	Prometheus                   string        // a file; empty is none
	JSON                         bool

	server      *checkup.Server // nil if none was asked
	isLocalTold bool            // what is on this host was looked at
}

// statusTable returns the options of status, which write to o.
func statusTable(o *statusOptions) []getopt.Option {
	table := append(o.repositoryOptions.options(), o.connectionOptions.table()...)
	return append(table,
		limitOption("max-backup-age", &o.BackupAge),
		limitOption("max-log-age", &o.LogAge),
		limitOption("max-verify-age", &o.VerifyAge),
		shareLimitOption("min-free", &o.MinFree),
		getopt.Option{Long: "jobs", Short: 'j', Value: func(value string) (err error) {
			o.Jobs, err = parseInt(value, "--jobs", 1, maxJobs)
			return err
		}},
		getopt.Option{Long: "timeout", Value: func(value string) error {
			n, err := parseInt(value, "--timeout", 1, math.MaxInt32/1000)
			o.Timeout = time.Duration(n) * time.Second
			return err
		}},
		textOption("prometheus", 0, &o.Prometheus, nil),
		flagOption("json", 0, &o.JSON),
	)
}

// table returns the options that say which server is meant.
func (o *connectionOptions) table() []getopt.Option {
	return []getopt.Option{
		textOption("dbname", 'd', &o.ConnectionString, nil),
		textOption("host", 'h', &o.Host, nil),
		textOption("port", 'p', &o.Port, nil),
		textOption("username", 'U', &o.User, nil),
		promptOption("no-password", 'w', &o.Password, promptNever),
		promptOption("password", 'W', &o.Password, promptAlways),
	}
}

// isGiven says whether a server is named.
func (o *connectionOptions) isGiven() bool {
	return o.ConnectionString != "" || o.Host != "" || o.Port != "" || o.User != ""
}

// defaultStatus is what is asked for if nothing is said.
func defaultStatus() statusOptions {
	return statusOptions{
		BackupAge: limit{26 * time.Hour, 52 * time.Hour},
		LogAge:    limit{time.Hour, 2 * time.Hour},
		VerifyAge: limit{35 * 24 * time.Hour, 70 * 24 * time.Hour},
		MinFree:   minFree,
		Jobs:      16, Timeout: time.Minute,
	}
}

// statusReport is what status --json prints.
type statusReport struct {
	Repository string          `json:"repository"` // its id; empty if it cannot be reached
	State      state           `json:"state"`
	Time       time.Time       `json:"time"`
	Clusters   []clusterStatus `json:"clusters"`
	Space      *spaceStatus    `json:"space,omitempty"`   // if it is in a file system
	Problem    string          `json:"problem,omitempty"` // why nothing is known
	// ServerProblem is why nothing is known of the server, if it was to be asked.
	ServerProblem string `json:"serverProblem,omitempty"`

	limits statusOptions
	hint   string
}

// status tells a monitoring system how the clusters of a repository are.
func status(ctx context.Context, c call) error {
	o := defaultStatus()
	operands, err := c.parse(append(statusTable(&o), c.logFormat()))
	if err == nil && len(operands) > 0 {
		err = c.usage("too many command-line arguments (first is \"%s\")", operands[0])
	}
	if err != nil {
		return exitStatus{err, int(stateUnknown)}
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	r := statusReport{Time: time.Now().UTC(), Clusters: []clusterStatus{}, limits: o}
	if err := r.read(ctx, c.report, &o); err != nil {
		r.State, r.Problem, r.hint = r.State.worse(stateUnknown), strings.TrimSpace(statusError(ctx, err).Error()), usererr.Hint(err)
		r.readAlone(o.repositoryOptions)
	}
	if o.JSON {
		err = printJSON(c, r)
	} else {
		_, err = c.stdout.Write(r.lines())
	}
	if o.Prometheus != "" {
		if problem := r.writeMetrics(o.Prometheus); problem != nil {
			r.State = r.State.worse(stateUnknown)
			err = errors.Join(err, problem)
		}
	}
	switch {
	case err != nil:
		return exitStatus{err, max(int(r.State), 1)}
	case r.State != stateOK:
		return exitStatus{reported{errors.New(r.State.String())}, int(r.State)}
	}
	return nil
}

// read learns how the clusters are.
func (r *statusReport) read(ctx context.Context, report *report, o *statusOptions) error {
	repository, err := openRepository(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	r.Repository = repository.Info().ID.String()
	r.readSpace(o)
	if err := mustRead(repository); err != nil {
		return err
	}
	names, err := repository.Clusters(ctx)
	if err != nil {
		return err
	}
	if wanted := cmp.Or(o.Cluster, os.Getenv("BASIN_CLUSTER")); wanted != "" || o.SystemID != 0 {
		if names, err = matchClusters(names, wanted, o.SystemID); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return usererr.Hinted("basin backup takes one.", "no cluster is in the repository yet")
	}
	if o.isGiven() {
		server, err := r.askServer(ctx, report, o)
		if err != nil {
			return err
		}
		o.server = server
		if server != nil && !slices.ContainsFunc(names, func(n repo.ClusterName) bool { return n.SystemID == server.SystemID }) {
			return fmt.Errorf("the server is of the cluster with system identifier %d, of which nothing is in the repository", server.SystemID)
		}
	}
	return r.readClusters(ctx, repository, names, o)
}

// serverShare is which part of the time for all a server may take, so that the repository is told of whatever becomes of it.
const serverShare = 3

// askServer asks the server. If it does not answer that is noted, and what the repository has is told all the same.
func (r *statusReport) askServer(ctx context.Context, report *report, o *statusOptions) (*checkup.Server, error) {
	limited, cancel := context.WithTimeout(ctx, o.Timeout/serverShare)
	defer cancel()
	server, err := askServer(limited, report, o.connectionOptions)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case limited.Err() != nil:
		err = fmt.Errorf("it has not answered in %v; --timeout, of which that is a part, gives it more", o.Timeout/serverShare)
	case err == nil:
		return &server, nil
	}
	r.ServerProblem, r.State = "the server: "+strings.Join(strings.Fields(err.Error()), " "), r.State.worse(stateUnknown)
	return nil, nil
}

// askServer asks a running server.
func askServer(ctx context.Context, report *report, o connectionOptions) (checkup.Server, error) {
	request := o.connectionRequest(report.name)
	request.Ordinary = true
	params, err := request.Params()
	if err != nil {
		return checkup.Server{}, err
	}
	session, err := dial(ctx, report, params, o.Password)
	if err != nil {
		return checkup.Server{}, err
	}
	conn := converse(report, session)
	defer conn.Close()
	return checkup.ReadServer(ctx, conn)
}

// readClusters looks at several clusters at the same time. Of those of one name only the one counts that the server is of, or if none is
// asked that with the newest backup: others are what it was before initdb or pg_upgrade. One of which log came since counts, too: it is
// what the cluster is now, and has no backup yet.
func (r *statusReport) readClusters(ctx context.Context, repository *repo.Repository, names []repo.ClusterName, o *statusOptions) error {
	all := make([]clusterStatus, len(names))
	each := func(what func(*clusterStatus)) {
		var group errgroup.Group
		group.SetLimit(o.Jobs)
		for i := range all {
			group.Go(func() error { what(&all[i]); return nil })
		}
		_ = group.Wait() // what cannot be read is in the status
	}
	for i, name := range names {
		all[i] = newStatus(name)
	}
	each(func(s *clusterStatus) {
		c, err := repository.Cluster(s.name.Name, s.name.SystemID)
		if err == nil {
			s.newest, err = c.Newest(ctx)
		}
		if err == nil && s.newest.Backup == nil {
			s.last, err = c.LastSign(ctx)
		}
		if err != nil {
			s.problem(stateUnknown, "%s", statusError(ctx, err))
		}
	})
	all = slices.DeleteFunc(all, func(s clusterStatus) bool {
		return slices.ContainsFunc(all, func(other clusterStatus) bool { return other.replaces(s, o.server) })
	})
	each(func(s *clusterStatus) {
		if s.State != stateUnknown {
			s.read(ctx, repository, o, r.Time)
		}
		if o.isLocalTold {
			return
		}
		if err := s.readLocal(o.repositoryOptions); err != nil { // which is known whatever the repository says
			s.problem(stateUnknown, "%s", err)
		}
	})
	r.Clusters = all
	for _, s := range all {
		r.State = r.State.worse(s.State)
	}
	return nil
}

// replaces says whether a cluster is the later of two of one name. server is that which was asked, or nil.
func (s clusterStatus) replaces(other clusterStatus, server *checkup.Server) bool {
	switch {
	case s.Cluster != other.Cluster || s.SystemID == other.SystemID:
		return false
	case server != nil && (server.SystemID == s.name.SystemID || server.SystemID == other.name.SystemID):
		return server.SystemID == s.name.SystemID
	case s.newest.Backup == nil:
		return false
	case other.newest.Backup == nil:
		return other.State != stateUnknown && !other.last.After(s.newest.Backup.Ended)
	}
	return s.newest.Backup.Began.After(other.newest.Backup.Began)
}
