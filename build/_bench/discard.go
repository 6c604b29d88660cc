package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// discard is a client that sends commands on a replication connection and looks at nothing
// that comes for an answer but its end, or an error. It is as cheap as a client can be, so
// that what is measured is the server.
func discard(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("discard", flag.ContinueOnError)
	connString := flags.String("d", "", "connection string")
	until := flags.String("until", "", "position at which enough of the log has come; without it what comes is read to its end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	params, err := conninfo.Request{ConnString: *connString, Program: "discard"}.Params()
	if err != nil {
		return err
	}
	session, err := connect.Connect(ctx, connect.Options{Params: params, System: conninfo.ThisSystem()})
	if err != nil {
		return err
	}
	conn := client.NewConn(session)
	defer conn.Close()
	var enough wal.LSN
	if *until != "" {
		if enough, err = wal.ParseLSN(*until); err != nil {
			return err
		}
	}
	for _, command := range flags.Args() {
		query := pgproto3.Query{String: command}
		message, err := query.Encode(nil)
		if err != nil {
			return err
		}
		if _, err := session.Conn.Write(message); err != nil {
			return err
		}
		if err := discardAnswer(session.Conn, enough); err != nil {
			return err
		}
	}
	return nil
}

// discardAnswer reads up to ReadyForQuery or, if enough is not zero, to where the log that comes
// has reached that.
func discardAnswer(r io.Reader, enough wal.LSN) error {
	buf := make([]byte, 1<<20)
	var head [5 + protocol.DataHeaderSize]byte
	have, left := 0, 0 // bytes of the head, and of the body that is to come
	for {
		n, err := r.Read(buf)
		if err != nil {
			return err
		}
		for p := buf[:n]; len(p) > 0; {
			if left > 0 {
				skip := min(left, len(p))
				p, left = p[skip:], left-skip
				continue
			}
			want := 5
			if have >= want && enough != 0 && head[0] == 'd' {
				want += min(int(binary.BigEndian.Uint32(head[1:]))-4, protocol.DataHeaderSize)
			}
			took := copy(head[have:want], p)
			p, have = p[took:], have+took
			if have < want || want == 5 && enough != 0 && head[0] == 'd' {
				continue
			}
			left = int(binary.BigEndian.Uint32(head[1:])) - 4 - (want - 5)
			have = 0
			switch head[0] {
			case 'd':
				if want == len(head) && head[5] == protocol.StreamData {
					if at, _ := protocol.ParseDataHeader(head[5:]); at+wal.LSN(left) >= enough {
						return nil
					}
				}
			case 'E':
				return fmt.Errorf("the server sent an error: %q", p[:min(left, len(p))])
			case 'Z':
				if len(p) != left {
					return errors.New("something follows the end of the answer")
				}
				return nil
			}
		}
	}
}
