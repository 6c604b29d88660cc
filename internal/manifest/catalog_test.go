package manifest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// unusual are paths that are written in another way than others.
var unusual = []string{
	"base/5/1259", "caf\xe9", "über", "with \"quotes\" and \\", "line\nbreak\ttab\r\b\f", "bell\a", "", "<html>&amp;\u2028",
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	modified := time.Date(2026, 11, 26, 9, 8, 7, 0, time.FixedZone("", 3600))
	ranges := []Range{{2, 0x3000028, 0x4000120}, {1, 0x2000028, 0x3000028}}
	for _, files := range []int{0, 1, len(unusual)} {
		var out bytes.Buffer
		w := NewWriter(&out, 7561234567890123456)
		var want []File
		for i, path := range unusual[:files] {
			f := File{Path: path, Size: int64(i) << 33}
			if i%2 == 0 {
				f.Algorithm = CRC32C
				f.Checksum = []byte{byte(i), 2, 3, 0xff}
			}
			want = append(want, f)
			if err := w.Add(f, modified); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Finish(ranges); err != nil {
			t.Fatal(err)
		}
		var got []File
		m, err := Read(bytes.NewReader(out.Bytes()), func(f File) error { got = append(got, f); return nil })
		if err != nil {
			t.Fatalf("%v in:\n%s", err, &out)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(Manifest{Version: 2, SystemID: 7561234567890123456, Ranges: ranges}, m); diff != "" {
			t.Error(diff)
		}
		if files > 0 && !strings.Contains(out.String(), `"Last-Modified": "2026-11-26 08:08:07 GMT"`) {
			t.Errorf("the time is another:\n%s", &out)
		}
		catalog, err := NewCatalog(bytes.NewReader(out.Bytes()), int64(out.Len()), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer catalog.Close()
		if diff := cmp.Diff(m, catalog.Manifest); diff != "" || catalog.Len != files {
			t.Errorf("%d files, %s", catalog.Len, diff)
		}
		for _, f := range want {
			got, found, err := catalog.Find(f.Path)
			if err != nil || !found || cmp.Diff(f, got) != "" {
				t.Errorf("%q: %+v, %v, %v", f.Path, got, found, err)
			}
		}
		if _, found, err := catalog.Find("base/6"); found || err != nil {
			t.Errorf("what is not there is found, or %v", err)
		}
	}
}

// TestCatalogOfADamagedManifest has what Read does not accept, and a file twice.
func TestCatalogOfADamagedManifest(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out, 1)
	for range 2 {
		if err := w.Add(File{Path: "twice"}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(nil); err != nil {
		t.Fatal(err)
	}
	catalog, err := NewCatalog(bytes.NewReader(out.Bytes()), int64(out.Len()), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := catalog.Find("twice"); fmt.Sprint(err) != `duplicate path name in backup manifest: "twice"` {
		t.Error(err)
	}
	damaged := bytes.Replace(out.Bytes(), []byte("twice"), []byte("twicf"), 1)
	if _, err := NewCatalog(bytes.NewReader(damaged), int64(len(damaged)), t.TempDir()); fmt.Sprint(err) != "manifest checksum mismatch" {
		t.Error(err)
	}
}
