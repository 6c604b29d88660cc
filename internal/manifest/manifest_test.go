package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// summed adds the last line of a manifest to the lines before it.
func summed(lines string) string {
	sum := sha256.Sum256([]byte(lines))
	return lines + `"Manifest-Checksum": "` + hex.EncodeToString(sum[:]) + "\"}\n"
}

// collect reads a manifest into a slice.
func collect(r io.Reader) (m Manifest, files []File, err error) {
	m, err = Read(r, func(f File) error {
		files = append(files, f)
		return nil
	})
	return m, files, err
}

const whole = `{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 7561234567890123456,
"Files": [
{ "Path": "backup_label", "Size": 225, "Last-Modified": "2026-11-26 10:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "994e7be2" },
{ "Path": "a \"quoted\"\u0007 one", "Size": "0", "Last-Modified": "2026-11-26 10:00:00 GMT" },
{ "Encoded-Path": "ff2f61", "Size": 18446744073, "Last-Modified": "2026-11-26 10:00:00 GMT", "Checksum-Algorithm": "sha224", "Checksum": "00ff" }
],
"WAL-Ranges": [
{ "Timeline": 3, "Start-LSN": "0/2000028", "End-LSN": "1/2000120" },
{ "Timeline": 1, "Start-LSN": "0/1000028", "End-LSN": "0/2000028" }
],
`

func TestReadGivesAllThatAManifestSays(t *testing.T) {
	for name, r := range map[string]io.Reader{
		"at once": strings.NewReader(summed(whole)), "byte by byte": iotest.OneByteReader(strings.NewReader(summed(whole))),
	} {
		m, files, err := collect(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantFiles := []File{
			{Path: "backup_label", Size: 225, Algorithm: CRC32C, Checksum: []byte{0x99, 0x4e, 0x7b, 0xe2}},
			{Path: "a \"quoted\"\a one"},
			{Path: "\xff/a", Size: 18446744073, Algorithm: SHA224, Checksum: []byte{0, 0xff}},
		}
		want := Manifest{Version: 2, SystemID: 7561234567890123456, Ranges: []Range{
			{Timeline: 3, Start: 0x2000028, End: 1<<32 + 0x2000120}, {Timeline: 1, Start: 0x1000028, End: 0x2000028},
		}}
		if diff := cmp.Diff(want, m) + cmp.Diff(wantFiles, files); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestBadManifests has the cases of 005_bad_manifest.pl of PostgreSQL 18, and more.
func TestBadManifests(t *testing.T) {
	const parse = "could not parse backup manifest: "
	version := func(rest string) string { return `{"PostgreSQL-Backup-Manifest-Version": 1, ` + rest + "}\n" }
	file := func(fields string) string { return version(`"Files": [{` + fields + `}]`) }
	wal := func(fields string) string { return version(`"WAL-Ranges": [{` + fields + `}]`) }
	for _, c := range []struct{ content, want string }{
		{"", parse + "The input string ended unexpectedly."},
		{"{\n", parse + "The input string ended unexpectedly."},
		{"{}", parse + "unexpected object end"},
		{"[]", parse + "unexpected array start"},
		{"1", parse + "unexpected scalar"},
		{`{"not-expected": 1}`, parse + "expected version indicator"},
		{`{"PostgreSQL-Backup-Manifest-Version": "phooey"}`, parse + "manifest version not an integer"},
		{`{"PostgreSQL-Backup-Manifest-Version": 9876599}`, parse + "unexpected manifest version"},
		{`{"PostgreSQL-Backup-Manifest-Version": {}}`, parse + "unexpected object start"},
		{version(`"System-Identifier": "x"`), parse + "system identifier in manifest not an integer"},
		{version(`"Files": true`), parse + "unexpected scalar"},
		{version(`"Files": [1]`), parse + "unexpected scalar"},
		{version(`"Oops": 1`), parse + "unrecognized top-level field"},
		{version(`"Files": {}`), parse + "unexpected object start"},
		{file(""), parse + "missing path name"},
		{file(`"Path": "x", "Encoded-Path": "1234"`), parse + "both path name and encoded path name"},
		{file(`"Oops": 1`), parse + "unexpected file field"},
		{file(`"Path": [`), parse + "unexpected array start"},
		{file(`"Path": "x"`), parse + "missing size"},
		{file(`"Path": "x", "Size": "Oops"`), parse + "file size is not an integer"},
		{file(`"Path": "x", "Size": -1`), parse + "file size is not an integer"},
		{file(`"Encoded-Path": "123", "Size": 0`), parse + "could not decode file name"},
		{file(`"Path": "x", "Size": 100, "Checksum": "Oops"`), parse + "checksum without algorithm"},
		{file(`"Path": "x", "Size": 100, "Checksum-Algorithm": "Oops", "Checksum": "00"`), `unrecognized checksum algorithm: "Oops"`},
		{file(`"Path": "x", "Size": 100, "Checksum-Algorithm": "CRC32C", "Checksum": "0"`), `invalid checksum for file "x": "0"`},
		{wal(""), parse + "missing timeline"},
		{wal(`"Timeline": 1`), parse + "missing start LSN"},
		{wal(`"Timeline": 1, "Start-LSN": "0/0"`), parse + "missing end LSN"},
		{wal(`"Oops": 1`), parse + "unexpected WAL range field"},
		{wal(`"Timeline": 1, "Start-LSN": "0/0", "End-LSN": "0/0"`), parse + "unexpected object end"},
		{wal(`"Timeline": true, "Start-LSN": "0/0", "End-LSN": "0/0"`), parse + "timeline is not an integer"},
		{wal(`"Timeline": 1, "Start-LSN": "oops", "End-LSN": "0/0"`), parse + "could not parse start LSN"},
		{wal(`"Timeline": 1, "Start-LSN": "0/0", "End-LSN": "oops"`), parse + "could not parse end LSN"},
		{version(`"Files": [], "Manifest-Checksum": null`), parse + "expected at least 2 lines"},
		{version("\n\"Manifest-Checksum\": null, \"Files\": []"), parse + "unexpected scalar"},
		{strings.TrimSuffix(version("\n\"Files\": [],\n\"Manifest-Checksum\": null"), "\n"), parse + "last line not newline-terminated"},
		{version("\"Files\": [],\n\"Manifest-Checksum\": \"ABC-\""), `invalid manifest checksum: "ABC-"`},
		{summed(whole)[1:], parse + "unexpected scalar"},
		{summed(whole) + "\n", "manifest checksum mismatch"},
		{summed(whole) + "{}\n", parse + "unexpected object start"},
		{strings.Replace(summed(whole), "225", "226", 1), "manifest checksum mismatch"},
	} {
		if _, _, err := collect(strings.NewReader(c.content)); err == nil || err.Error() != c.want {
			t.Errorf("%.90q: %v, want %s", c.content, err, c.want)
		}
	}
}

func TestReadStopsAtAnError(t *testing.T) {
	wanted := fmt.Errorf("enough")
	_, err := Read(strings.NewReader(summed(whole)), func(File) error { return wanted })
	if err != wanted {
		t.Error(err)
	}
	_, _, err = collect(io.MultiReader(strings.NewReader(whole), iotest.ErrReader(wanted)))
	if err != wanted {
		t.Error(err)
	}
	if _, _, err = collect(io.MultiReader(strings.NewReader(whole), zeros{})); err == nil {
		t.Error("a line without an end is no error")
	}
}

// zeros are without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestChecksumsAreAsManifestsHaveThem(t *testing.T) {
	for a, want := range map[Algorithm]string{
		CRC32C: "994e7be2", SHA224: "", SHA256: "", SHA384: "", SHA512: "",
	} {
		h := a.New()
		_, _ = h.Write([]byte("18\n"))
		if got := hex.EncodeToString(h.Sum(nil)); want != "" && got != want || len(got) != 2*h.Size() {
			t.Errorf("%v: %s", a, got)
		}
		if parsed, err := ParseAlgorithm(strings.ToLower(a.String())); parsed != a || err != nil {
			t.Errorf("%v: %v, %v", a, parsed, err)
		}
	}
	if NoChecksum.New() != nil {
		t.Error("none is computed")
	}
}

func TestIndex(t *testing.T) {
	const n = 300_000
	path := func(i int) string { return fmt.Sprintf("base/%d/%d_vm", i%7, i) }
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x := new(Index)
	if _, found := x.Find("a"); found {
		t.Error("found in an empty one")
	}
	for i := range n {
		if err := x.Add(File{Path: path(i), Size: int64(i), Algorithm: CRC32C, Checksum: []byte{byte(i), 1, 2, 3}}); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := (after.HeapAlloc - before.HeapAlloc) / n; used > 75 {
		t.Errorf("%d bytes a file", used)
	}
	for i := range n {
		got, found := x.Find(path(i))
		if !found || got != i || x.At(i).Path != path(i) || x.At(i).Size != int64(i) || x.At(i).Checksum[0] != byte(i) || len(x.At(i).Checksum) != 4 {
			t.Fatalf("%d: %d, %v, %+v", i, got, found, x.At(i))
		}
	}
	if _, found := x.Find("base/1"); found || x.Len() != n {
		t.Error("found what is not there")
	}
	if err := x.Add(File{Path: path(5)}); err == nil || err.Error() != `duplicate path name in backup manifest: "base/5/5_vm"` {
		t.Error(err)
	}
	if err := x.Add(File{Path: strings.Repeat("a", chunkSize)}); err == nil {
		t.Error("a path of 64 KiB is taken")
	}
}

// FuzzRead has manifests read in one piece, byte by byte, and by package json alone.
func FuzzRead(f *testing.F) {
	f.Add(summed(whole))
	f.Add(`{"PostgreSQL-Backup-Manifest-Version": 1, "Files": [{"Path": "x", "Size": 1}]}`)
	line := `{ "Path": "base/1/1259", "Size": 225, "Last-Modified": "2026-11-26 10:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "994e7be2" }`
	const begin, end = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n", "\n],\n\"WAL-Ranges\": [\n],\n"
	none := line[:strings.Index(line, `, "Checksum-A`)] + " }"
	for _, lines := range []string{
		line, line + ",\n" + none + ",\n" + line, line + ",\n", line + ",\n{", line + ",\n{}", line + ",,\n" + line, line + "\n" + line, "\n" + line + ",\n" + line,
		line + ",\n" + line + ",\nnull", line + ",\n" + none + " ,\n" + line, line + ",\n" + `{ "Encoded-Path": "ff", "Size": 1 }` + ",\n" + line,
	} {
		f.Add(summed(begin + lines + end))
	}
	for _, odd := range []string{
		`"Size": 01`, `"Size": 1e3`, `"Size": -1`, `"Size": 9223372036854775807`, `"Size": 9223372036854775808`, `"Size": `, `"Size": +1`, `"Size": "225"`, `"Size": 1_0`,
		`"Path": "\u00e9"`, `"Path": "é"`, "\"Path\": \"\xff\"", `"Path": ""`, "\"Path\": \"a\tb\"", `"Path": "a\`, `"Path": "a"b"`, `"Last-Modified": ""`, `"Last-Modified": null`,
		`"Checksum": "0"`, `"Checksum": ""`, `"Checksum": "zz"`, `"Checksum": "994E7BE2"`, `"Checksum-Algorithm": "sha512"`, `"Checksum-Algorithm": "sha3"`, `"Checksum-Algorithm": ""`,
	} {
		key, _, _ := strings.Cut(odd, ":")
		before, rest, _ := strings.Cut(line, key+": ")
		_, after, _ := strings.Cut(rest, ",")
		if key == `"Checksum"` {
			after = "}"
		} else {
			after = "," + after
		}
		f.Add(summed(begin + line + ",\n" + before + odd + after + ",\n" + line + end))
	}
	f.Fuzz(func(t *testing.T, content string) {
		m, files, err := collect(strings.NewReader(content))
		again, filesAgain, errAgain := collect(iotest.OneByteReader(strings.NewReader(content)))
		if fmt.Sprint(err) != fmt.Sprint(errAgain) || cmp.Diff(m, again)+cmp.Diff(files, filesAgain) != "" {
			t.Errorf("read otherwise byte by byte: %v and %v", err, errAgain)
		}
		sum := &sumOfManifest{hash: sha256.New()}
		filesAgain = nil
		p := &parser{src: io.TeeReader(strings.NewReader(content), sum), noLines: true, each: func(f File, offset int64) error {
			filesAgain = append(filesAgain, f)
			if at, err := readFileAt(strings.NewReader(content), offset); err != nil || cmp.Diff(f, at) != "" {
				t.Errorf("at %d: %+v, %v", offset, at, err)
			}
			return nil
		}}
		errAgain = p.read()
		if errAgain == nil {
			errAgain = sum.check(p.checksum, p.hasChecksum)
		}
		_, _ = read(strings.NewReader(content), func(f File, offset int64) error { // whose error is err
			if at, err := readFileAt(strings.NewReader(content), offset); err != nil || cmp.Diff(f, at) != "" {
				t.Errorf("at %d: %+v, %v", offset, at, err)
			}
			return nil
		})
		if fmt.Sprint(err) != fmt.Sprint(errAgain) || err == nil && cmp.Diff(m, p.manifest) != "" || cmp.Diff(files, filesAgain) != "" {
			t.Errorf("read otherwise by package json: %v and %v %s", err, errAgain, cmp.Diff(files, filesAgain))
		}
	})
}
