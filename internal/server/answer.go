package server

import (
	"context"
	"crypto/subtle"
	"errors"
	"io"
	"net"
	"time"

	"basin/internal/accept"
)

// answer lets a client in and answers it until it goes. No failure of it is another's.
func (s *Server) answer(ctx context.Context, c net.Conn) {
	defer c.Close()
	s.counts.connections.Add(1)
	log := s.log.With("client", c.RemoteAddr().String())
	pid := s.enter(c)
	defer s.leave(pid)
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 10 * time.Second, Count: 6})
	}
	client := &session{server: s}
	o := s.o.Accept
	o.Cancel = s.cancel
	o.Admit = func(ctx context.Context, a *accept.Session) ([]accept.Parameter, error) {
		a.PID = pid
		return client.admit(ctx, a)
	}
	accepted, err := accept.Accept(ctx, c, o)
	if err != nil {
		if !errors.Is(err, accept.ErrCancel) && !errors.Is(err, io.EOF) { // which are no attempts
			s.counts.failed.Add(1)
			log.Warn("a client was not let in", "error", err)
		}
		return
	}
	defer accepted.Conn.Close()
	client.client, client.conn = accepted, newConn(accepted.Conn)
	client.log = log.With("pid", pid, "user", accepted.User, "application", accepted.ApplicationName)
	client.log.Info("connected", "tls", accepted.TLS)
	s.set(pid, client)
	if err := client.run(ctx); err != nil {
		s.counts.failed.Add(1)
		client.log.Warn("disconnected", "error", err)
		return
	}
	client.log.Info("disconnected")
}

// admit learns what the cluster is, and says what the client is told of it.
func (s *session) admit(ctx context.Context, a *accept.Session) ([]accept.Parameter, error) {
	select {
	case <-s.server.stopping:
		return nil, &accept.Refusal{Code: "57P03", Message: "the database system is shutting down"}
	default:
	}
	if s.server.o.Admit != nil {
		if err := s.server.o.Admit(ctx, a); err != nil {
			return nil, err
		}
	}
	if !s.server.admit(a.PID) {
		s.server.counts.refused.Add(1)
		return nil, &accept.Refusal{Code: codeTooManyConnections, Message: "sorry, too many clients already"}
	}
	var err error
	if s.cluster, err = s.server.o.Cluster.Describe(ctx); err != nil {
		s.server.log.Error("the cluster does not answer", "error", err)
		return nil, &accept.Refusal{Code: "57P03", Message: "the cluster cannot be reached", Hint: "Try again later."}
	}
	s.server.standbys.set(s.cluster.Synchronous)
	return parameters(s.cluster, a), nil
}

// set says who the client of a process number is.
func (s *Server) set(pid uint32, client *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[pid] = client
}

// cancel cancels what a client does, for one who knows its key.
func (s *Server) cancel(pid uint32, key []byte) {
	s.mu.Lock()
	client := s.sessions[pid]
	s.mu.Unlock()
	if client != nil && subtle.ConstantTimeCompare(client.client.Key, key) == 1 {
		client.cancels.end(errCanceled)
	}
}
