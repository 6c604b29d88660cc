package client

import (
	"bytes"
	"net"
	"testing"

	"basin/internal/connect"
	"basin/internal/wal"
)

func TestIdentifySystem(t *testing.T) {
	for _, test := range []struct {
		reason string
		row    []any
		want   System
		err    string
	}{
		{"a physical connection", []any{"7", "3", "0/16B3748", nil}, System{ID: "7", Position: wal.Position{LSN: 0x16B3748, Timeline: 3}}, ""},
		{"a database", []any{"7", "3", "0/16B3748", "postgres"}, System{ID: "7", Position: wal.Position{LSN: 0x16B3748, Timeline: 3}, Database: "postgres"}, ""},
		{"the highest timeline", []any{"7", "4294967295", "0/0"}, System{ID: "7", Position: wal.Position{Timeline: 4294967295}}, ""},
		{"one more", []any{"7", "4294967296", "0/0"}, System{}, `could not identify system: invalid timeline "4294967296"`},
		{"no timeline", []any{"7", "0", "0/0"}, System{}, `could not identify system: invalid timeline "0"`},
		{"something after the number", []any{"7", "1x", "0/0"}, System{}, `could not identify system: invalid timeline "1x"`},
		{"a sign", []any{"7", "+1", "0/0"}, System{}, `could not identify system: invalid timeline "+1"`},
		{"no position", []any{"7", "1", "0"}, System{}, `could not parse write-ahead log location "0"`},
		{"too little", []any{"7", "1"}, System{}, "could not identify system: got 1 rows and 2 fields, expected 1 row and 3 or more fields"},
	} {
		c := replay(t, 180006, bytes.NewReader(joined(answer(test.row), ready)))
		got, err := c.IdentifySystem(t.Context())
		if errorText(err) != test.err || err == nil && got != test.want {
			t.Errorf("%s: got %v, %v", test.reason, got, err)
		}
	}
}

func TestGroupAccess(t *testing.T) {
	for _, test := range []struct {
		version int
		mode    string // as the server shows it
		want    bool
		err     string
	}{
		{180006, "0700", false, ""},
		{180006, "0750", true, ""},
		{180006, "0755", true, ""},
		{180006, "0740", false, ""},
		{180006, "0750x", false, "group access flag could not be parsed: 0750x"},
		{180006, "0780", false, "group access flag could not be parsed: 0780"},
		{180006, "", false, "group access flag could not be parsed: "},
		{100023, "0750", false, ""}, // which has no such setting, and is not asked
	} {
		c := replay(t, test.version, bytes.NewReader(joined(answer([]any{test.mode}), ready)))
		if got, err := c.GroupAccess(t.Context()); got != test.want || errorText(err) != test.err {
			t.Errorf("%d, %q: got %t, %v", test.version, test.mode, got, err)
		}
	}
}

func TestNewConnTakesTheSessionOver(t *testing.T) {
	near, far := net.Pipe()
	c := NewConn(&connect.Session{Conn: near, ServerVersion: "18.6", Version: 180006, PID: 4711})
	if c.ServerVersion != "18.6" || c.Version != 180006 || c.PID != 4711 {
		t.Errorf("got %+v", c)
	}
	s := &server{t, far}
	go c.Close()
	s.expect('X', "")
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open still")
	}
}
