package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"basin/internal/wal"
)

func TestParseArchive(t *testing.T) {
	for _, c := range []struct {
		name, msg string
		want      Archive
		err       string
	}{
		{"main directory", "nbase.tar\x00\x00", Archive{Name: "base.tar"}, ""},
		{"tablespace", "n16384.tar\x00/srv/one\x00", Archive{"16384.tar", "/srv/one"}, ""},
		{"compressed", "nbase.tar.zst\x00\x00", Archive{Name: "base.tar.zst"}, ""},
		{"in-place tablespace", "n16385.tar\x00pg_tblspc/16385\x00", Archive{"16385.tar", "pg_tblspc/16385"}, ""},
		{"location is not UTF-8", "n1.tar\x00/caf\xe9\x00", Archive{"1.tar", "/caf\xe9"}, ""},
		{"dot inside", "na..b\x00\x00", Archive{Name: "a..b"}, ""},

		{"empty name", "n\x00\x00", Archive{}, `invalid archive name: ""`},
		{"hidden", "n.tar\x00\x00", Archive{}, `invalid archive name: ".tar"`},
		{"parent", "n..\x00\x00", Archive{}, `invalid archive name: ".."`},
		{"slash", "na/b.tar\x00\x00", Archive{}, `invalid archive name: "a/b.tar"`},
		{"absolute", "n/etc/passwd\x00\x00", Archive{}, `invalid archive name: "/etc/passwd"`},
		{"backslash", "na\\b.tar\x00\x00", Archive{}, `invalid archive name: "a\b.tar"`},

		{"no message", "", Archive{}, "empty COPY message"},
		{"nothing in it", "n", Archive{}, "malformed COPY message of type 110, length 1"},
		{"no end of name", "nbase.tar", Archive{}, "malformed COPY message of type 110, length 9"},
		{"no location", "nbase.tar\x00", Archive{}, "malformed COPY message of type 110, length 10"},
		{"no end of location", "nbase.tar\x00/srv", Archive{}, "malformed COPY message of type 110, length 14"},
		{"something follows", "nbase.tar\x00\x00x", Archive{}, "malformed COPY message of type 110, length 12"},
		{"a zero follows", "nbase.tar\x00\x00\x00", Archive{}, "malformed COPY message of type 110, length 12"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseArchive([]byte(c.msg))
			if got != c.want || message(err) != c.err {
				t.Errorf("got %+v, %q, want %+v, %q", got, message(err), c.want, c.err)
			}
			var malformed *MalformedError
			if errors.As(err, &malformed) && (malformed.Kind != 'n' || malformed.Length != len(c.msg)) {
				t.Errorf("error is %+v", malformed)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestParseProgress(t *testing.T) {
	for _, c := range []struct {
		msg  string
		done int64
		err  string
	}{
		{"p\x00\x00\x00\x00\x00\x00\x00\x00", 0, ""},
		{"p\x00\x00\x01\x02\x03\x04\x05\x06", 0x010203040506, ""},
		{"p\x7f\xff\xff\xff\xff\xff\xff\xff", 1<<63 - 1, ""},
		{"", 0, "empty COPY message"},
		{"p", 0, "malformed COPY message of type 112, length 1"},
		{"p\x00\x00\x00\x00\x00\x00\x00", 0, "malformed COPY message of type 112, length 8"},
		{"p\x00\x00\x00\x00\x00\x00\x00\x00\x00", 0, "malformed COPY message of type 112, length 10"},
	} {
		if got, err := ParseProgress([]byte(c.msg)); got != c.done || message(err) != c.err {
			t.Errorf("%q: got %d, %q, want %d, %q", c.msg, got, message(err), c.done, c.err)
		}
	}
}

func TestParseKeepalive(t *testing.T) {
	const head = "k\x00\x00\x00\x16\xB3\x74\xD8\x48\x00\x02\x00\x00\x00\x00\x00\x00"
	for _, c := range []struct {
		name, msg string
		want      Keepalive
		err       string
	}{
		{"no answer wanted", head + "\x00", Keepalive{End: 0x16B374D848}, ""},
		{"answer wanted", head + "\x01", Keepalive{End: 0x16B374D848, Reply: true}, ""},
		{"any byte but zero", head + "\xff", Keepalive{End: 0x16B374D848, Reply: true}, ""},
		{"more than there should be", head + "\x00more", Keepalive{End: 0x16B374D848}, ""},
		{"short", head, Keepalive{}, "streaming header too small: 17"},
		{"kind alone", "k", Keepalive{}, "streaming header too small: 1"},
		{"empty", "", Keepalive{}, "streaming header too small: 0"},
	} {
		if got, err := ParseKeepalive([]byte(c.msg)); got != c.want || message(err) != c.err {
			t.Errorf("%s: got %+v, %q, want %+v, %q", c.name, got, message(err), c.want, c.err)
		}
	}
}

func TestParseDataHeader(t *testing.T) {
	header := "w" + "\x00\x00\x00\x16\xB3\x74\xD8\x48" + "\x00\x00\x00\x17\x00\x00\x00\x01" + "\xff\xff\xff\xff\xff\xff\xff\xff"
	if len(header) != DataHeaderSize {
		t.Fatalf("%d bytes", len(header))
	}
	if at, end := ParseDataHeader([]byte(header)); at != 0x16B374D848 || end != 0x1700000001 {
		t.Errorf("at %v, the server's end %v", at, end)
	}
}

func TestStatusAppend(t *testing.T) {
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		status Status
		now    time.Time
		want   string // in hexadecimal: kind, write, flush, apply, time, reply
	}{
		{"nothing", Status{}, epoch, "72 0000000000000000 0000000000000000 0000000000000000 0000000000000000 00"},
		{"each in its place", Status{Write: 1, Flush: 2, Apply: 3, Reply: true}, epoch.Add(time.Microsecond),
			"72 0000000000000001 0000000000000002 0000000000000003 0000000000000001 01"},
		{"large", Status{Write: wal.LSN(1<<64 - 1), Flush: 0x16B374D848}, epoch.Add(time.Second),
			"72 FFFFFFFFFFFFFFFF 00000016B374D848 0000000000000000 00000000000F4240 00"},
		{"the zone makes no difference", Status{}, epoch.In(time.FixedZone("", 7200)),
			"72 0000000000000000 0000000000000000 0000000000000000 0000000000000000 00"},
		{"a clock before the epoch", Status{}, epoch.Add(-time.Microsecond),
			"72 0000000000000000 0000000000000000 0000000000000000 FFFFFFFFFFFFFFFF 00"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		got := c.status.Append([]byte("before"), c.now)
		if rest, ok := bytes.CutPrefix(got, []byte("before")); !ok || !bytes.Equal(rest, want) || len(rest) != 34 {
			t.Errorf("%s:\n got %X\nwant %X", c.name, rest, want)
		}
	}
}

// instant is a microsecond after PostgreSQL's epoch.
var instant = time.Date(2000, 1, 1, 0, 0, 0, 1000, time.UTC)

func TestAppendCopyMessages(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		got    []byte
		want   string // in hexadecimal
	}{
		{"main archive", Archive{Name: "a.tar"}.Append(nil), "6E 612E746172 00 00"},
		{"tablespace", Archive{"1.tar", "/t"}.Append(nil), "6E 312E746172 00 2F74 00"},
		{"no progress yet", AppendProgress(nil, 0), "70 0000000000000000"},
		{"progress", AppendProgress(nil, 0x0102030405), "70 0000000102030405"},
		{"log", AppendDataHeader(nil, 0x16B374D848, 0x1700000001, instant), "77 00000016B374D848 0000001700000001 0000000000000001"},
		{"keepalive", Keepalive{End: 0x16B374D848}.Append(nil, instant), "6B 00000016B374D848 0000000000000001 00"},
		{"keepalive, answer wanted", Keepalive{End: 1, Reply: true}.Append(nil, instant), "6B 0000000000000001 0000000000000001 01"},
		{"no feedback", Feedback{}.Append(nil, instant), "68 0000000000000001 00000000 00000000 00000000 00000000"},
		{"feedback", Feedback{1, 2, 3, 4}.Append(nil, instant), "68 0000000000000001 00000001 00000002 00000003 00000004"},
		{"behind what is there", AppendProgress([]byte{0xFF}, 1), "FF 70 0000000000000001"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %X\nwant %X", c.reason, c.got, want)
		}
	}
}

// TestCopyRoundTrips reads what is written.
func TestCopyRoundTrips(t *testing.T) {
	t.Parallel()
	const far = wal.LSN(1<<64 - 1)
	for _, want := range []Archive{{Name: "base.tar"}, {"16384.tar.zst", "/srv/caf\xe9"}} {
		if got, err := ParseArchive(want.Append(nil)); err != nil || got != want {
			t.Errorf("%+v is read as %+v, %v", want, got, err)
		}
	}
	for _, want := range []int64{0, 1, 1<<63 - 1} {
		if got, err := ParseProgress(AppendProgress(nil, want)); err != nil || got != want {
			t.Errorf("%d is read as %d, %v", want, got, err)
		}
	}
	for _, want := range []Keepalive{{}, {End: far, Reply: true}} {
		if got, err := ParseKeepalive(want.Append(nil, instant)); err != nil || got != want {
			t.Errorf("%+v is read as %+v, %v", want, got, err)
		}
	}
	header := AppendDataHeader(nil, far, 1, instant)
	if at, end := ParseDataHeader(header); at != far || end != 1 || len(header) != DataHeaderSize {
		t.Errorf("header of %d bytes is read as %v, %v", len(header), at, end)
	}
	for _, want := range []Status{{}, {Write: far, Flush: 2, Apply: 3, Reply: true}} {
		if got, sent, err := ParseStatus(want.Append(nil, instant)); err != nil || got != want || !sent.Equal(instant) {
			t.Errorf("%+v is read as %+v of %v, %v", want, got, sent, err)
		}
	}
	for _, want := range []Feedback{{}, {1<<32 - 1, 1, 2, 3}} {
		if got, sent, err := ParseFeedback(want.Append(nil, instant)); err != nil || got != want || !sent.Equal(instant) {
			t.Errorf("%+v is read as %+v of %v, %v", want, got, sent, err)
		}
	}
}

func TestParseReplies(t *testing.T) {
	t.Parallel()
	status := string(Status{Write: 1}.Append(nil, instant))
	feedback := string(Feedback{Xmin: 1}.Append(nil, instant))
	for _, c := range []struct{ reason, msg, statusErr, feedbackErr string }{
		{"status", status, "", "malformed COPY message of type 114, length 34"},
		{"status and more", status + "x", "", "malformed COPY message of type 114, length 35"},
		{"short status", status[:33], "malformed COPY message of type 114, length 33", "malformed COPY message of type 114, length 33"},
		{"feedback", feedback, "malformed COPY message of type 104, length 25", ""},
		{"feedback and more", feedback + "0123456789", "malformed COPY message of type 104, length 35", ""},
		{"short feedback", feedback[:24], "malformed COPY message of type 104, length 24", "malformed COPY message of type 104, length 24"},
		{"kind alone", "r", "malformed COPY message of type 114, length 1", "malformed COPY message of type 114, length 1"},
		{"empty", "", "empty COPY message", "empty COPY message"},
	} {
		if _, _, err := ParseStatus([]byte(c.msg)); message(err) != c.statusErr {
			t.Errorf("%s: as status %q, want %q", c.reason, message(err), c.statusErr)
		}
		if _, _, err := ParseFeedback([]byte(c.msg)); message(err) != c.feedbackErr {
			t.Errorf("%s: as feedback %q, want %q", c.reason, message(err), c.feedbackErr)
		}
	}
}

func FuzzParseArchive(f *testing.F) {
	f.Add([]byte("nbase.tar\x00\x00"))
	f.Add([]byte("n16384.tar.gz\x00/srv/one\x00"))
	f.Add([]byte("n../x\x00\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		a, err := ParseArchive(msg)
		if err != nil {
			if a != (Archive{}) {
				t.Errorf("%q is %+v in spite of %v", msg, a, err)
			}
			return
		}
		if want := string(msg[:1]) + a.Name + "\x00" + a.Location + "\x00"; want != string(msg) {
			t.Errorf("%q is read as %q", msg, want)
		}
		if a.Name == "" || a.Name[0] == '.' || strings.ContainsAny(a.Name, "/\\\x00") {
			t.Errorf("name %q leads out", a.Name)
		}
	})
}

func FuzzParseCopyMessages(f *testing.F) {
	f.Add([]byte("p\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("k\x00\x00\x00\x16\xB3\x74\xD8\x48\x00\x02\x00\x00\x00\x00\x00\x00\x01"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		if _, err := ParseProgress(msg); (err == nil) != (len(msg) == 9) {
			t.Errorf("%d bytes: %v", len(msg), err)
		}
		if _, err := ParseKeepalive(msg); (err == nil) != (len(msg) >= 18) {
			t.Errorf("%d bytes: %v", len(msg), err)
		}
	})
}

func FuzzParseReplies(f *testing.F) {
	f.Add(Status{Write: 1, Flush: 2, Apply: 3, Reply: true}.Append(nil, instant))
	f.Add(Feedback{1, 2, 3, 4}.Append(nil, instant))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		if s, sent, err := ParseStatus(msg); err == nil {
			again := s.Append(nil, sent)
			if !bytes.Equal(again[:33], msg[:33]) || (again[33] != 0) != (msg[33] != 0) {
				t.Errorf("%X is read as %X", msg, again)
			}
		}
		if f, sent, err := ParseFeedback(msg); err == nil {
			if again := f.Append(nil, sent); !bytes.Equal(again, msg[:len(again)]) {
				t.Errorf("%X is read as %X", msg, again)
			}
		}
	})
}
