package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/connect"
	"basin/internal/getopt"
	"basin/internal/usererr"
)

func TestReportInJSON(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	r := newReport("basin", out, func(string) (string, bool) { return "always", true }) // colors, which are not for JSON
	if err := r.setFormat("json"); err != nil {
		t.Fatal(err)
	}
	_, unknown := getopt.Parsing{}.Parse([]string{"basin", "--unknown"}, nil)
	r.info("received %d bytes", 10)
	r.warning("a %s", "warning\non two lines")
	r.error(&usererr.Error{Err: errors.New("it broke"), Detail: "in two", Hint: "Glue it."})
	r.error(errors.New("ERROR:  of a server\n"))
	r.error(unknown)
	r.notice(connect.NoticeText("NOTICE", "it is late", "", ""))
	r.notice(connect.NoticeText("WARNING", "it is: later", "by an hour", "Go home."))
	r.notice(connect.NoticeText("HINWEIS", "es ist spät", "", ""))
	r.print(" 100/200 kB (50%), 1/2 tablespaces\r")
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]string
	for line := range strings.Lines(string(text)) {
		record := make(map[string]string)
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if at, err := time.Parse(time.RFC3339Nano, record["time"]); err != nil || time.Since(at) > time.Hour || !strings.Contains(record["time"], ".") {
			t.Errorf("%q: %v", line, err)
		}
		if record["program"] != "basin" {
			t.Errorf("%q: of which program?", line)
		}
		delete(record, "time")
		delete(record, "program")
		got = append(got, record)
	}
	want := []map[string]string{
		{"level": "INFO", "msg": "received 10 bytes"},
		{"level": "WARN", "msg": "a warning\non two lines"},
		{"level": "ERROR", "msg": "it broke", "detail": "in two", "hint": "Glue it."},
		{"level": "ERROR", "msg": "ERROR:  of a server"},
		{"level": "ERROR", "msg": "basin: unrecognized option '--unknown'"},
		{"level": "INFO", "msg": "it is late", "severity": "NOTICE"},
		{"level": "WARN", "msg": "it is: later", "severity": "WARNING", "detail": "by an hour", "hint": "Go home."},
		{"level": "WARN", "msg": "es ist spät", "severity": "HINWEIS"},
		{"level": "INFO", "msg": "100/200 kB (50%), 1/2 tablespaces"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
