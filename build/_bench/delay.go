package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"time"
)

// delay passes connections on to another address, whose every answer comes later by some
// time. It ends when it is killed.
func delay(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("delay", flag.ContinueOnError)
	by := flags.Duration("by", 0, "how much later answers come")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return fmt.Errorf("delay: %d arguments, want two addresses", flags.NArg())
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", flags.Arg(0))
	if err != nil {
		return err
	}
	defer listener.Close()
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer client.Close()
			server, err := new(net.Dialer).DialContext(ctx, "tcp", flags.Arg(1))
			if err != nil {
				return
			}
			defer server.Close()
			go func() {
				_, _ = io.Copy(server, client)
				_ = server.(*net.TCPConn).CloseWrite()
			}()
			copyLate(client, server, *by)
		}()
	}
}

// late is what was read, and when it is to be written.
type late struct {
	content []byte
	at      time.Time
}

// copyLate copies until the end or an error. What was read is written after some time, during which
// more is read: only latency is added, and the rate stays.
func copyLate(w io.Writer, r io.Reader, by time.Duration) {
	pieces := make(chan late, 1024)
	go func() {
		defer close(pieces)
		for {
			piece := make([]byte, 64<<10)
			n, err := r.Read(piece)
			if n > 0 {
				pieces <- late{piece[:n], time.Now().Add(by)}
			}
			if err != nil {
				return
			}
		}
	}()
	failed := false
	for p := range pieces {
		time.Sleep(time.Until(p.at))
		if !failed {
			_, err := w.Write(p.content)
			failed = err != nil // what comes still is read, so that the reader ends
		}
	}
}
