package server

import "testing"

func TestSynchronous(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		names, application string
		want               bool
	}{
		{"", "", false},
		{"", "a", false},
		{"a", "a", true},
		{"A", "a", true},
		{"a", "ab", false},
		{"a,b", "b", true},
		{"a, b", "b", true},
		{"2 (a, b)", "b", true},
		{"FIRST 2 (a,b)", "a", true},
		{"ANY 1(a,b)", "c", false},
		{"*", "anyone", true},
		{"ANY 1 (*)", "", true},
		{`"a"`, "a", true},
		{`"a b", c`, "a b", true},
		{`"a b", c`, "b", false},
		{`"a,b"`, "a,b", true},
		{`"a,b"`, "b", false},
		{`"the ""old"" one"`, `the "old" one`, true},
		{`ANY 2 ("(x)", y)`, "(x)", true},
		{"node-1", "node-1", true},
	} {
		if got := synchronous(c.names, c.application); got != c.want {
			t.Errorf("%s has %q: %t", c.names, c.application, got)
		}
	}
}

func TestStandbysTellOfChanges(t *testing.T) {
	t.Parallel()
	var s standbys
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	was, changed := s.has("a")
	s.set("")
	if was || closed(changed) {
		t.Error("there is another name, and was not")
	}
	s.set("a")
	if !closed(changed) {
		t.Error("nobody was told")
	}
	is, changed := s.has("a")
	s.set("a")
	if !is || closed(changed) {
		t.Error("it was told for nothing")
	}
}
