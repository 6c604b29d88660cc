package main

import (
	"strings"
	"testing"
)

// TestReceiveHelp has the help tell of each option, in lines that are not too long.
func TestReceiveHelp(t *testing.T) {
	var b strings.Builder
	if err := helpReceive(&b, "basin receive"); err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(b.String(), "\n") {
		if len(line) > 95 || strings.Contains(line, "%!") {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	var o receiveOptions
	for _, option := range receiveTable(&o, call{report: newReport("basin", nil, func(string) (string, bool) { return "", false })}) {
		if !strings.Contains(b.String(), "--"+option.Long) {
			t.Errorf("it does not tell of --%s", option.Long)
		}
	}
}
