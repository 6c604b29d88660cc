package conninfo

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Host is one of the servers that connection parameters name.
type Host struct {
	Name    string // host, or a socket directory; empty if only Address is known
	Address string // hostaddr: an IP address that stands in for resolving Name
	Port    int
}

// IsSocket reports whether the host is reached over a Unix-domain socket: the
// name is an absolute path or, on Linux, an abstract name beginning with @.
//
// Source: is_unixsock_path in src/common/ip.c, PostgreSQL 18.
func (h Host) IsSocket() bool {
	return h.Address == "" && (filepath.IsAbs(h.Name) || strings.HasPrefix(h.Name, "@"))
}

// Socket returns the path of the host's Unix-domain socket.
//
// Source: UNIXSOCK_PATH in src/include/libpq/pqcomm.h, PostgreSQL 18.
func (h Host) Socket() string { return fmt.Sprintf("%s/.s.PGSQL.%d", h.Name, h.Port) }

// Hosts returns the servers that the parameters name, in the order in which
// they are to be tried. There is always one at least.
//
// Source: pqConnectOptions2 in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (p Params) Hosts(s System) ([]Host, error) {
	names, addresses, ports := p.list("host"), p.list("hostaddr"), p.list("port")
	count := max(len(addresses), 1)
	if len(addresses) == 0 {
		count = max(len(names), 1)
	} else if len(names) > 0 && len(names) != count {
		return nil, fmt.Errorf("could not match %d host names to %d hostaddr values", len(names), count)
	}
	if len(ports) > 1 && len(ports) != count {
		return nil, fmt.Errorf("could not match %d port numbers to %d hosts", len(ports), count)
	}
	hosts := make([]Host, count)
	for i := range hosts {
		h := &hosts[i]
		h.Name, h.Address = at(names, i), at(addresses, i)
		if h.Name == "" && h.Address == "" {
			if h.Name = s.SocketDir; h.Name == "" {
				h.Name = "localhost"
			}
		}
		port := at(ports, i)
		if len(ports) == 1 {
			port = ports[0]
		}
		var err error
		if h.Port, err = parsePort(port); err != nil {
			return nil, err
		}
	}
	return hosts, nil
}

// WithHost returns p with one host in place of those that it names, and of
// those that it would be completed with.
func (p Params) WithHost(h Host) Params {
	p = p.Clone()
	p.set("host", h.Name)
	p.set("hostaddr", h.Address)
	p.set("port", strconv.Itoa(h.Port))
	return p
}

// list splits a comma-separated value. No value has no elements.
func (p Params) list(keyword string) []string {
	if p.Value(keyword) == "" {
		return nil
	}
	return strings.Split(p.Value(keyword), ",")
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

func parsePort(s string) (int, error) {
	if s == "" {
		s = defaultPort
	}
	port, err := parseInt("port", s)
	if err != nil {
		return 0, err
	}
	if port < 1 || port > 65535 {
		return 0, fmt.Errorf("invalid port number: \"%s\"", s)
	}
	return port, nil
}

// Int returns the value of a keyword that holds an integer, and whether it is
// set. Blanks around the number are allowed.
//
// Source: pqParseIntParam in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (p Params) Int(keyword string) (value int, ok bool, err error) {
	s, ok := p.Lookup(keyword)
	if !ok || s == "" {
		return 0, false, nil
	}
	value, err = parseInt(keyword, s)
	return value, err == nil, err
}

func parseInt(keyword, s string) (int, error) {
	n, err := strconv.ParseInt(strings.Trim(s, spaces), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("invalid integer value \"%s\" for connection option \"%s\"", s, keyword)
	}
	return int(n), nil
}
