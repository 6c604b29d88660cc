package connect

import (
	"net"
	"testing"

	"basin/internal/conninfo"

	"golang.org/x/sys/unix"
)

func TestSocketOptions(t *testing.T) {
	for _, c := range []struct {
		in              string
		idle, count, ms int // zero is as the system has it
	}{
		{"", 60, 6, 120000},
		{"keepalives_idle=5 keepalives_count=2 tcp_user_timeout=1000", 5, 2, 1000},
		{"keepalives_idle=0 tcp_user_timeout=0", 0, 6, 0},
		{"keepalives=0", -1, -1, 0},
	} {
		p, err := conninfo.Parse(c.in)
		if err != nil {
			t.Fatal(err)
		}
		d, err := newDialer(p)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := d.Dial("tcp", net.JoinHostPort("127.0.0.1", new(doorman).tcp(t)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for option, want := range map[int]int{unix.TCP_KEEPIDLE: c.idle, unix.TCP_KEEPCNT: c.count, unix.TCP_USER_TIMEOUT: c.ms} {
			if want < 0 || want == 0 && option != unix.TCP_USER_TIMEOUT {
				continue
			}
			if got := socketOption(t, conn, option); got != want {
				t.Errorf("%q: option %d is %d, want %d", c.in, option, got, want)
			}
		}
	}
}

func socketOption(t *testing.T, conn net.Conn, option int) int {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	value := 0
	if err := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) }); err != nil {
		t.Fatal(err)
	}
	return value
}
