package monitor

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"basin/internal/usererr"
)

// endpoint answers HTTP.
type endpoint struct {
	address string
	server  *http.Server
}

// How much of this process those who ask may take up: what they are told is short,
// and they may be anyone.
const (
	maxConnections = 16
	maxHeader      = 8 << 10 // bytes
	readTimeout    = 5 * time.Second
	writeTimeout   = 10 * time.Second
	idleTimeout    = 30 * time.Second
)

// ListenAddress returns the address that an option's value means, as HOST:PORT. A
// port alone is one of this machine, * is every address that it has.
func ListenAddress(value string) (string, error) {
	full := value
	if !strings.Contains(value, ":") {
		full = ":" + value
	}
	host, port, err := net.SplitHostPort(full)
	if err == nil && port != "" {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return "", fmt.Errorf("invalid address \"%s\" to listen at, must be \"PORT\" or \"HOST:PORT\"", value)
	}
	switch host {
	case "":
		host = "127.0.0.1"
	case "*":
		host = ""
	}
	return net.JoinHostPort(host, port), nil
}

// listen begins to answer at an address with the metrics, and with what is wrong, which is
// nothing while all is well: then it is state.
func listen(address, state string, metrics, trouble func() string, warn func(error)) (*endpoint, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, usererr.Hinted("Each process needs a port of its own; 0 takes any that is free.",
			"could not listen for requests for metrics: %w", err)
	}
	e := &endpoint{address: listener.Addr().String(), server: &http.Server{
		Handler:        handler(state, metrics, trouble),
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       log.New(warner(warn), "", 0),
	}}
	go func() {
		err := e.server.Serve(&limited{Listener: listener, free: make(chan struct{}, maxConnections)})
		if !errors.Is(err, http.ErrServerClosed) {
			warn(fmt.Errorf("could not answer requests for metrics any longer: %w", err))
		}
	}()
	return e, nil
}

func (e *endpoint) close() { _ = e.server.Close() } // nobody is left to answer for

// handler answers with what it is given.
func handler(state string, metrics, trouble func() string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = io.WriteString(w, metrics()) // who asked has gone
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		text := trouble()
		if text == "" {
			text = state
		} else {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, text+"\n")
	})
	return mux
}

// warner passes on what the HTTP server would log.
type warner func(error)

func (w warner) Write(p []byte) (int, error) {
	w(errors.New(strings.TrimSpace(string(p))))
	return len(p), nil
}

// limited is a listener with a bound on the connections that it has accepted and
// that are not closed: each is a file that the receiver cannot open.
type limited struct {
	net.Listener
	free chan struct{} // full if no more are accepted
}

// Accept waits for a connection, and before that for one of too many to be closed.
func (l *limited) Accept() (net.Conn, error) {
	l.free <- struct{}{}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &counted{Conn: conn, done: func() { <-l.free }}, nil
}

// counted is a connection that is one less when it is closed.
type counted struct {
	net.Conn
	once sync.Once
	done func()
}

// Close closes the connection.
func (c *counted) Close() error {
	c.once.Do(c.done)
	return c.Conn.Close()
}
