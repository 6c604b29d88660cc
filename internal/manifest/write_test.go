package manifest

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestWriterVersions has the bytes of manifests that servers wrote.
func TestWriterVersions(t *testing.T) {
	modified := time.Date(2026, 11, 22, 9, 25, 30, 999, time.FixedZone("", 3600))
	for _, test := range []struct {
		reason string
		begin  func(*bytes.Buffer) *Writer
		want   string
	}{
		{"version 1", func(b *bytes.Buffer) *Writer { return NewWriterVersion1(b) }, `{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "PG_VERSION", "Size": 3, "Last-Modified": "2026-11-22 08:25:30 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "994e7be2" },
{ "Encoded-Path": "636166e9", "Size": 0, "Last-Modified": "2026-11-22 08:25:30 GMT" }
],
`},
		{"version 2, encoded", func(b *bytes.Buffer) *Writer {
			w := NewWriter(b, 7561234567890123456)
			w.EncodePaths = true
			return w
		}, `{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 7561234567890123456,
"Files": [
{ "Encoded-Path": "50475f56455253494f4e", "Size": 3, "Last-Modified": "2026-11-22 08:25:30 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "994e7be2" },
{ "Encoded-Path": "636166e9", "Size": 0, "Last-Modified": "2026-11-22 08:25:30 GMT" }
],
`},
	} {
		var out bytes.Buffer
		w := test.begin(&out)
		for _, f := range []File{{Path: "PG_VERSION", Size: 3, Algorithm: CRC32C, Checksum: []byte{0x99, 0x4e, 0x7b, 0xe2}}, {Path: "caf\xe9"}} {
			if err := w.Add(f, modified); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Finish([]Range{{1, 0x28, 0x100}}); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(out.String(), test.want) {
			t.Errorf("%s:\n%s", test.reason, out.String())
		}
		n := 0
		if _, err := Read(&out, func(File) error { n++; return nil }); err != nil || n != 2 {
			t.Errorf("%s: %d files, %v", test.reason, n, err)
		}
	}
}
