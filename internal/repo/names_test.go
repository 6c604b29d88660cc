package repo

import "testing"

// TestMemberNames has a cluster have files of names that are no text, which are kept, and of such as lead elsewhere, which are not.
func TestMemberNames(t *testing.T) {
	for path, want := range map[string]bool{
		"base/1":              true,
		"base/caf\xe9":        true,
		"base/a\\b":           true,
		"base/two\nlines":     true,
		"../elsewhere":        false,
		"base/../../passwd":   false,
		"/etc/passwd":         false,
		"base/what\x00follow": false,
	} {
		c := newCluster(t, false)
		sink := c.NewSink(SinkOptions{})
		err := copyTree(t.Context(), sink, tree{{path: path}: []byte("content"), {path: "global/pg_control"}: []byte("c")})
		if (err == nil) != want {
			t.Errorf("%q: %v", path, err)
		}
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
		if path == "base/caf\xe9" && err == nil {
			compare(t, c, sink.Written().ID, tree{{path: path}: []byte("content"), {path: "global/pg_control"}: []byte("c")})
		}
	}
}
