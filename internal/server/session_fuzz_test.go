package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// FuzzSession has an authenticated client say anything. The server neither panics nor hangs,
// and answers with messages.
func FuzzSession(f *testing.F) {
	stream := query("START_REPLICATION 0/1000000 TIMELINE 1")
	relayed := query("START_REPLICATION SLOT s 0/1000000")
	reply := message('d', "r\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01")
	feedback := message('d', "h\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xee\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, seed := range [][]byte{
		nil, query("IDENTIFY_SYSTEM"), query("BASE_BACKUP (LABEL 'x', PROGRESS, MANIFEST 'yes', MAX_RATE 1000000)"),
		query("BASE_BACKUP (COMPRESSION 'gzip', COMPRESSION_DETAIL 'level=1')"), query("BASE_BACKUP (TARGET 'blackhole')"),
		query("TIMELINE_HISTORY 2"), query("SHOW wal_segment_size"), query("CREATE_REPLICATION_SLOT s TEMPORARY PHYSICAL"),
		bytes.Join([][]byte{stream, reply, message('c', ""), query("IDENTIFY_SYSTEM"), message('X', "")}, nil),
		bytes.Join([][]byte{stream, feedback, reply, message('c', ""), query("IDENTIFY_SYSTEM")}, nil),
		bytes.Join([][]byte{relayed, reply, message('c', ""), query("SELECT 1"), message('X', "")}, nil),
		bytes.Join([][]byte{relayed, message('f', "x\x00")}, nil),
		bytes.Join([][]byte{query("UPLOAD_MANIFEST"), message('d', `{"PostgreSQL-Backup-Manifest-Version": 2,`), message('c', ""), query("BASE_BACKUP (INCREMENTAL)")}, nil),
		bytes.Join([][]byte{message('P', "\x00SELECT 1\x00\x00\x00"), message('S', ""), message('H', ""), message('F', "")}, nil),
		{'Q', 0x40, 0, 0, 0}, {0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f},
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, said []byte, physical bool) {
		cluster := newFakeCluster()
		o := trusting(t, cluster)
		o.TempDir = dir
		s := New(o)
		ours, theirs := net.Pipe()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { ours.Close() })
		defer stop()
		done := make(chan struct{})
		go func() { defer close(done); s.answer(ctx, fromLocal{theirs}) }()
		mode := "database"
		if physical {
			mode = "true"
		}
		g := enter(t, ours, "replication", mode)
		read := make(chan error, 1)
		go func() {
			for {
				if _, err := g.front.Receive(); err != nil {
					read <- err
					return
				}
			}
		}()
		_, _ = g.Write(said) // the server may leave before the end
		_, _ = g.Write(message('S', ""))
		g.Close()
		<-done
		if ctx.Err() != nil {
			t.Fatal("the server did not let go of the client")
		}
		if err := <-read; err != io.EOF && err != io.ErrUnexpectedEOF && err != io.ErrClosedPipe {
			t.Fatal(err)
		}
		if n := cluster.left(); n != 0 || s.Status().Sessions != 0 {
			t.Errorf("%d things of the cluster's are left, and %+v", n, s.Status())
		}
	})
}
