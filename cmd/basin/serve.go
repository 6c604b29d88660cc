package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"basin/internal/accept"
	"basin/internal/backup"
	"basin/internal/cluster"
	"basin/internal/conninfo"
	"basin/internal/hba"
	"basin/internal/localfs"
	"basin/internal/monitor"
	"basin/internal/server"
	"basin/internal/usererr"
)

// serve answers replication clients beside a running cluster.
func serve(ctx context.Context, c call) error {
	o, err := parseServe(c)
	if err != nil {
		return err
	}
	if o.AddUser != "" {
		return addUser(ctx, o)
	}
	s := &serveRun{report: c.report, o: o, log: slog.New(newReportHandler(c.report, o.Verbose))}
	return s.run(ctx)
}

// serveRun is a server at work.
type serveRun struct {
	report *report
	o      serveOptions
	log    *slog.Logger

	cluster *cluster.Cluster
	access  atomic.Pointer[access] // as it was last read
}

// access is what the files say that are read again at SIGHUP.
type access struct {
	rules hba.Rules
	users *hba.Users  // nil: the cluster's own
	tls   *tls.Config // nil: none
}

// run answers until it is told to end.
func (s *serveRun) run(ctx context.Context) error {
	if err := s.load(); err != nil {
		return err
	}
	request := s.o.connectionRequest(s.report.name)
	request.Ordinary = true
	params, err := request.Params()
	if err != nil {
		return err
	}
	clusterOptions := cluster.Options{
		Params: params, System: conninfo.ThisSystem(), DataDir: s.o.DataDir, ArchiveDir: s.o.WALArchive, TempDir: s.o.TempDir, Log: s.log,
	}
	if s.o.Password != promptNever {
		clusterOptions.Password = promptPassword
	}
	if s.cluster, err = cluster.Open(ctx, clusterOptions); err != nil {
		return err
	}
	defer s.cluster.Close()
	listener, err := net.Listen("tcp", s.o.Listen)
	if err != nil {
		return usererr.Hinted("Another address or port can be given with --listen.", "could not listen: %w", err)
	}
	defer listener.Close()
	var target func(string, server.TargetBackup) (backup.Sink, error)
	if s.o.Target != "" {
		targets, err := openTargets(s.o.Target, s.o.DataDir, s.report.warn)
		if err != nil {
			return err
		}
		defer targets.Close()
		target = targets.open
	}
	srv := server.New(server.Options{
		Cluster: s.cluster, Admit: s.admit, Log: s.log, Target: target,
		Accept: accept.Options{
			TLS:      func() *tls.Config { return s.access.Load().tls },
			Rules:    func() hba.Rules { return s.access.Load().rules },
			Verifier: s.verifier, Iterations: s.iterations, Secret: s.cluster.Secret(),
		},
		MaxConnections: s.o.MaxConnections, MaxBackups: s.o.MaxBackups, CompressionWorkers: s.o.CompressionWorkers,
		MaxRate: int64(s.o.MaxRate) * 1024, Timeout: s.o.Timeout, TempDir: s.o.TempDir,
	})
	monitored, err := s.monitor(srv)
	if err != nil {
		return err
	}
	defer monitored.Close()
	defer s.reloadAtHangup()()

	group, ctx := errgroup.WithContext(ctx)
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return s.cluster.Follow(following) })
	group.Go(func() error {
		defer stopFollowing() // streams are brought to their end before
		s.log.Info("ready", "address", listener.Addr().String(), "cluster", s.cluster.SystemID())
		return srv.Serve(ctx, listener)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return endOfReceiving(ctx)
}

// load reads what says who is let in. What is there already stays if that fails.
func (s *serveRun) load() error {
	a := &access{rules: hba.Default()}
	if s.o.HBA != "" {
		text, err := os.ReadFile(s.o.HBA)
		if err != nil {
			return localfs.Errorf(err, s.o.HBA, "could not read file \"%s\"", s.o.HBA)
		}
		if a.rules, err = hba.Parse(s.o.HBA, text, hba.ParseOptions{TrustAnywhere: s.o.AllowTrust}); err != nil {
			return withHint(err)
		}
	}
	if s.o.Users != "" {
		users, err := readUsers(s.o.Users)
		if err != nil {
			return withHint(err)
		}
		a.users = &users
	}
	if s.o.TLSCert != "" {
		var err error
		if a.tls, err = s.loadTLS(a.rules); err != nil {
			return err
		}
	}
	s.access.Store(a)
	return nil
}

// withHint returns an error of package hba with the hint that it has, as others have theirs.
func withHint(err error) error {
	if e := (*hba.Error)(nil); errors.As(err, &e) && e.Hint != "" {
		return &usererr.Error{Err: err, Hint: e.Hint}
	}
	return err
}

// readUsers reads a file of users.
func readUsers(path string) (hba.Users, error) {
	info, err := os.Stat(path)
	if err != nil {
		return hba.Users{}, localfs.Errorf(err, path, "could not read file \"%s\"", path)
	}
	if err := hba.CheckUsersMode(path, info.Mode()); err != nil {
		return hba.Users{}, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return hba.Users{}, localfs.Errorf(err, path, "could not read file \"%s\"", path)
	}
	return hba.ParseUsers(path, text)
}

// loadTLS reads certificates.
func (s *serveRun) loadTLS(rules hba.Rules) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(s.o.TLSCert, s.o.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("the server's certificate: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	if s.o.ClientCA == "" {
		if rules.NeedClientCert() {
			return nil, usererr.Hinted("Name the authorities that clients' certificates come from with --tls-client-ca.",
				"the rules ask for certificates of clients")
		}
		return config, nil
	}
	text, err := os.ReadFile(s.o.ClientCA)
	if err != nil {
		return nil, localfs.Errorf(err, s.o.ClientCA, "could not read file \"%s\"", s.o.ClientCA)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("there is no certificate in file \"%s\"", s.o.ClientCA)
	}
	return config, nil
}

// verifier returns what is known of a user's password.
func (s *serveRun) verifier(ctx context.Context, user string) (string, bool, error) {
	if users := s.access.Load().users; users != nil {
		verifier, ok := users.Lookup(user)
		return verifier, ok, nil
	}
	role, ok, err := s.cluster.Role(ctx, user)
	return role.Verifier, ok, err
}

// iterations returns how often most passwords are hashed.
func (s *serveRun) iterations() int {
	if users := s.access.Load().users; users != nil {
		return users.Iterations()
	}
	return s.cluster.Iterations()
}

// admit says whether who was authenticated may replicate. With a file of users that is
// whoever the rules let in; of the cluster's own roles many may not.
func (s *serveRun) admit(ctx context.Context, client *accept.Session) error {
	if s.access.Load().users != nil {
		return nil
	}
	role, ok, err := s.cluster.Role(ctx, client.User)
	if err != nil {
		return err
	}
	if !ok || !role.Replication {
		return &accept.Refusal{Code: "42501", Message: "permission denied to start WAL sender",
			Detail: "Only roles with the REPLICATION attribute may start a WAL sender process."}
	}
	if client.Replication != accept.Database {
		return nil
	}
	// The connection that the cluster is asked on may connect to any.
	switch may, exists, err := s.cluster.MayConnect(ctx, client.User, client.Database); {
	case err != nil:
		return err
	case !exists:
		return &accept.Refusal{Code: "3D000", Message: fmt.Sprintf("database \"%s\" does not exist", client.Database)}
	case !may:
		return &accept.Refusal{Code: "42501", Message: fmt.Sprintf("permission denied for database \"%s\"", client.Database),
			Detail: "User does not have CONNECT privilege."}
	}
	return nil
}

// reloadAtHangup reads the files again at each SIGHUP, until stop is called.
func (s *serveRun) reloadAtHangup() (stop func()) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-caught:
			}
			if err := s.load(); err != nil {
				s.report.warn(fmt.Errorf("the configuration was not changed: %w", err))
				continue
			}
			s.log.Info("rules, users and certificates were read again")
		}
	}()
	return func() { signal.Stop(caught); close(done) }
}

// monitor begins to tell how the server is doing.
func (s *serveRun) monitor(srv *server.Server) (*monitor.ServerMonitor, error) {
	m, err := monitor.StartServer(monitor.ServerOptions{
		Version: version, SystemID: s.cluster.SystemID(), Status: srv.Status, Log: s.cluster.Followed,
		Listen: s.o.MetricsListen, Supervisor: monitor.FindSupervisor(os.LookupEnv), Warn: s.report.warn,
	})
	if err == nil && s.o.MetricsListen != "" {
		s.log.Info("metrics", "address", "http://"+m.Address()+"/metrics")
	}
	return m, err
}

// addUser writes a user with a password that is asked for to the file of users.
func addUser(ctx context.Context, o serveOptions) error {
	password, err := promptPassword(ctx)
	if err != nil {
		return err
	}
	verifier, err := accept.NewVerifier(password, 0)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(o.Users)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return localfs.Errorf(err, o.Users, "could not read file \"%s\"", o.Users)
	}
	if text, err = hba.SetUser(text, o.AddUser, verifier); err != nil {
		return withHint(err)
	}
	return replaceFile(o.Users, text, 0o600)
}

// replaceFile puts a file in the place of another one, whole and durable, and whose as that
// was. mode is of a file that is new.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	var owner *syscall.Stat_t
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
		info, err := os.Stat(path)
		if err != nil {
			return localfs.Errorf(err, path, "could not read file \"%s\"", path)
		}
		mode = info.Mode().Perm()
		owner, _ = info.Sys().(*syscall.Stat_t)
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return localfs.Errorf(err, path, "could not open directory \"%s\"", filepath.Dir(path))
	}
	defer root.Close()
	name := filepath.Base(path)
	temporary := localfs.Temporary(name)
	f, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return localfs.Errorf(err, path, "could not create file \"%s\"", path)
	}
	if owner != nil {
		err = f.Chown(int(owner.Uid), int(owner.Gid))
	}
	w := localfs.NewWriter(f, path)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err == nil {
		err = root.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(temporary))
	}
	return localfs.SyncRoot(root, filepath.Dir(path))
}
