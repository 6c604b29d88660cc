package main

import (
	"bufio"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/seal"
	"basin/internal/usererr"
)

const usageHint = `Try "pg_basebackup --help" for more information.`

func parse(args ...string) (baseBackupOptions, error) {
	return parseBaseBackup(call{argv: append([]string{"pg_basebackup"}, args...), called: "pg_basebackup"})
}

func TestParseBaseBackup(t *testing.T) {
	for _, test := range []struct {
		reason string
		args   string
		change func(*baseBackupOptions) // of what no option but -D asks for
	}{
		{"the least", "-D d", func(*baseBackupOptions) {}},
		{"plain format", "-D d -Fp", func(*baseBackupOptions) {}},
		{"tar format", "-D d --format=tar", func(o *baseBackupOptions) { o.Format = formatTar }},
		{"last format counts", "-D d -Ft -Fplain", func(*baseBackupOptions) {}},
		{"standard output", "-D - -Ft -Xn", func(o *baseBackupOptions) { o.Directory, o.Format, o.WALMethod = "-", formatTar, walNone }},
		{"directory named dash", "-D -", func(o *baseBackupOptions) { o.Directory = "-" }},
		{"fast checkpoint in any case", "-D d -c FaSt", func(o *baseBackupOptions) { o.FastCheckpoint = true }},
		{"spread checkpoint after all", "-D d -cfast --check spread", func(*baseBackupOptions) {}},
		{"log fetched", "-D d -Xf", func(o *baseBackupOptions) { o.WALMethod = walFetch }},
		{"log streamed", "-D d --wal-method stream", func(*baseBackupOptions) {}},
		{"cluster", "-nNPvRD d", func(o *baseBackupOptions) {
			o.NoClean, o.NoSync, o.Progress, o.Verbose, o.WriteRecoveryConf = true, true, true, true, true
		}},
		{"connection", "-D d -d user=x -h /tmp -p 1 -U me -W", func(o *baseBackupOptions) {
			o.ConnectionString, o.Host, o.Port, o.User, o.Password = "user=x", "/tmp", "1", "me", promptAlways
		}},
		{"last password option counts", "-D d -W -w", func(o *baseBackupOptions) { o.Password = promptNever }},
		{"slot made", "-D d -C -S s", func(o *baseBackupOptions) { o.CreateSlot, o.Slot = true, "s" }},
		{"status never", "-D d -s0", func(o *baseBackupOptions) { o.StatusInterval = 0 }},
		{"longest status interval", "-D d -s 2147483", func(o *baseBackupOptions) { o.StatusInterval = 2147483 * time.Second }},
		{"rate in megabytes", "-D d -r 1.5M", func(o *baseBackupOptions) { o.MaxRate = 1536 }},
		{"directory for the log is canonical", "-D d --waldir=//w/./x/../y/", func(o *baseBackupOptions) { o.WALDirectory = "/w/y" }},
		{"tablespaces in order", "-D d -T /a=/b -T /c=/d", func(o *baseBackupOptions) {
			o.TablespaceMapping = []tablespaceMapping{{"/a", "/b"}, {"/c", "/d"}}
		}},
		{"target client is none", "-D d -t client", func(*baseBackupOptions) {}},
		{"target", "-t server:/b -Xf", func(o *baseBackupOptions) {
			o.Directory, o.Target, o.WALMethod = "", "server:/b", walFetch
			o.Compression.Location = seal.Server
		}},
		{"server's compression goes unread", "-D d -Z server-sand:wich", func(o *baseBackupOptions) {
			o.Compression = compression{Request: seal.Request{Location: seal.Server, Algorithm: "sand", Detail: "wich", HasDetail: true}}
		}},
		{"gzip of the client", "-D d -Ft -z", func(o *baseBackupOptions) {
			o.Format = formatTar
			o.Compression = compression{
				Request: seal.Request{Location: seal.Client, Algorithm: "gzip"},
				Client:  seal.Spec{Algorithm: seal.Gzip, Level: -1},
			}
		}},
		{"log compressed too", "-D d -Ft -Z lz4 --compress-wal", func(o *baseBackupOptions) {
			o.Format, o.CompressWAL = formatTar, true
			o.Compression = compression{
				Request: seal.Request{Location: seal.Client, Algorithm: "lz4"},
				Client:  seal.Spec{Algorithm: seal.LZ4},
			}
		}},
		{"fsync", "-D d --sync-method=fsync", func(*baseBackupOptions) {}},
		{"syncfs", "-D d --sync-method=syncfs", func(o *baseBackupOptions) { o.SyncMethod = localfs.Syncfs }},
		{"manifest", "-D d --manifest-checksums=sha256 --manifest-force", func(o *baseBackupOptions) {
			o.ManifestChecksums, o.ManifestForceEncode = "sha256", true
		}},
		{"the rest", "-D d -i m --no-manifest --no-slot --no-verify-checksums --no-estimate-size -l x", func(o *baseBackupOptions) {
			o.Incremental, o.Label = "m", "x"
			o.NoManifest, o.NoSlot, o.NoVerifyChecksums, o.NoEstimateSize = true, true, true, true
		}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			want := baseBackupOptions{
				Directory:      "d",
				Label:          "pg_basebackup base backup",
				StatusInterval: 10 * time.Second,
				Compression:    compression{Request: seal.Request{Location: seal.Client, Algorithm: "none"}},
			}
			test.change(&want)
			got, err := parse(strings.Fields(test.args)...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(baseBackupOptions{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseMaxRate(t *testing.T) {
	for _, test := range []struct {
		in   string
		want int
		err  string
	}{
		{"32", 32, ""},
		{"1048576", 1048576, ""},
		{"1024M", 1048576, ""},
		{" 100 k ", 100, ""},
		{"100.9", 100, ""},
		{"1e3", 1000, ""},
		{".5M", 512, ""},
		{"100.", 100, ""},
		{"+100", 100, ""},
		{"0.03125M", 32, ""},
		{"31", 0, `transfer rate "31" is out of range`},
		{"31.999", 0, `transfer rate "31.999" is out of range`},
		{"1048577", 0, `transfer rate "1048577" is out of range`},
		{"1025M", 0, `transfer rate "1025M" is out of range`},
		{"4294967295", 0, `transfer rate "4294967295" is out of range`},
		{"4294967296", 0, `transfer rate "4294967296" exceeds integer range`},
		{"1e999", 0, `invalid transfer rate "1e999": Numerical result out of range`},
		{"", 0, `transfer rate "" is not a valid value`},
		{".", 0, `transfer rate "." is not a valid value`},
		{"k", 0, `transfer rate "k" is not a valid value`},
		{"1_0", 0, `invalid --max-rate unit: "_0"`},
		{"0", 0, "transfer rate must be greater than zero"},
		{"-100", 0, "transfer rate must be greater than zero"},
		{"100kM", 0, `invalid --max-rate unit: "kM"`},
		{"100 foo", 0, `invalid --max-rate unit: "foo"`},
		{"100K", 0, `invalid --max-rate unit: "K"`},
		{"100e", 0, `invalid --max-rate unit: "e"`},
		{"100e+", 0, `invalid --max-rate unit: "e+"`},
	} {
		got, err := parseMaxRate(test.in)
		if got != test.want || message(err) != test.err {
			t.Errorf("parseMaxRate(%q) = %d, %q, want %d, %q", test.in, got, message(err), test.want, test.err)
		}
	}
}

func TestParseInt(t *testing.T) {
	for _, test := range []struct {
		in   string
		want int
		err  string
	}{
		{"0", 0, ""},
		{" 10 ", 10, ""},
		{"+10", 10, ""},
		{"", 0, ""},
		{"100", 100, ""},
		{"101", 0, "-x must be in range 0..100"},
		{"-1", 0, "-x must be in range 0..100"},
		{"99999999999999999999", 0, "-x must be in range 0..100"},
		{"1x", 0, `invalid value "1x" for option -x`},
		{"x", 0, `invalid value "x" for option -x`},
		{"1 0", 0, `invalid value "1 0" for option -x`},
		{"-", 0, `invalid value "-" for option -x`},
	} {
		got, err := parseInt(test.in, "-x", 0, 100)
		if got != test.want || message(err) != test.err {
			t.Errorf("parseInt(%q) = %d, %q, want %d, %q", test.in, got, message(err), test.want, test.err)
		}
	}
}

func TestParseTablespaceMapping(t *testing.T) {
	long := "/" + strings.Repeat("x", 1023) // one byte more than fits with its end
	for _, test := range []struct {
		in   string
		want tablespaceMapping
		err  string
	}{
		{"/a=/b", tablespaceMapping{"/a", "/b"}, ""},
		{`/a\=1=/b\=2`, tablespaceMapping{"/a=1", "/b=2"}, ""},
		{"//a/./b/../c/=/d//", tablespaceMapping{"/a/c", "/d"}, ""},
		{`C:\a=/b`, tablespaceMapping{`C:\a`, "/b"}, ""},
		{`\\host\a=/b`, tablespaceMapping{`\\host\a`, "/b"}, ""},
		{"/a==/b", tablespaceMapping{"/a", "/b"}, ""}, // the new name had not begun
		{`/a\b=/c`, tablespaceMapping{`/a\b`, "/c"}, ""},
		{"/a=/b=/c", tablespaceMapping{}, `multiple "=" signs in tablespace mapping`},
		{"/a", tablespaceMapping{}, `invalid tablespace mapping format "/a", must be "OLDDIR=NEWDIR"`},
		{"/a=", tablespaceMapping{}, `invalid tablespace mapping format "/a=", must be "OLDDIR=NEWDIR"`},
		{"=/b", tablespaceMapping{}, `invalid tablespace mapping format "=/b", must be "OLDDIR=NEWDIR"`},
		{"", tablespaceMapping{}, `invalid tablespace mapping format "", must be "OLDDIR=NEWDIR"`},
		{`/a\=/b`, tablespaceMapping{}, `invalid tablespace mapping format "/a\=/b", must be "OLDDIR=NEWDIR"`},
		{"a=/b", tablespaceMapping{}, "old directory is not an absolute path in tablespace mapping: a"},
		{"C:a=/b", tablespaceMapping{}, "old directory is not an absolute path in tablespace mapping: C:a"},
		{"/a=b", tablespaceMapping{}, "new directory is not an absolute path in tablespace mapping: b"},
		{`/a=C:\b`, tablespaceMapping{}, `new directory is not an absolute path in tablespace mapping: C:\b`},
		{long + "=/b", tablespaceMapping{}, "directory name too long"},
	} {
		got, err := parseTablespaceMapping(test.in)
		if got != test.want || message(err) != test.err {
			t.Errorf("parseTablespaceMapping(%q) = %q, %q, want %q, %q", test.in, got, message(err), test.want, test.err)
		}
		if again, err := parseTablespaceMapping(got.String()); test.err == "" && (err != nil || again != got) {
			t.Errorf("%q is written as %q, which is %q, %v", test.in, got.String(), again, err)
		}
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Each case breaks the rule it names and the next one, which must wait: the
// order of the checks is what programs see.
func TestChecksInOrder(t *testing.T) {
	for _, test := range []struct {
		args string
		err  string
		hint bool
	}{
		{"-t x -Ft op", `too many command-line arguments (first is "op")`, true},
		{"-t x -Fp -D d", "cannot specify both format and backup target", true},
		{"-Z x", "must specify output directory or backup target", true},
		{"-t x -D d -Z client-x", "cannot specify both output directory and backup target", true},
		{"-t x -Z client-x", `unrecognized compression algorithm: "x"`, false},
		{"-t x -Z client-gzip:99", `invalid compression specification: compression algorithm "gzip" expects a compression level between 1 and 9 (default at -1)`, false},
		{"-t x -Z client-gzip", "client-side compression is not possible when a backup target is specified", true},
		{"-D d -Z 5 -Xn -S s", "only tar mode backups can be compressed", true},
		{"-t x -S s", "WAL cannot be streamed when a backup target is specified", true},
		{"-D - -Ft -C", "cannot stream write-ahead logs in tar mode to stdout", true},
		{"-D d -Xn -S s --no-slot", "replication slots can only be used with WAL streaming", true},
		{"-D d -S s --no-slot -C", "--no-slot cannot be used with slot name", true},
		{"-D d -C --no-slot", "--create-slot needs a slot to be specified using --slot", true},
		{"-D d -C --waldir x", "--create-slot needs a slot to be specified using --slot", true},
		{"-t x -Xn --waldir x", "WAL directory location cannot be specified along with a backup target", true},
		{"-D d -Ft --waldir x", "WAL directory location can only be specified in plain mode", true},
		{"-D d --waldir x -P --no-estimate-size", "WAL directory location must be an absolute path", true},
		{"-D d --waldir= -P --no-estimate-size", "WAL directory location must be an absolute path", true},
		{"-D d -P --no-estimate-size --no-manifest --manifest-checksums=x", "--progress and --no-estimate-size are incompatible options", true},
		{"-D d --no-manifest --manifest-checksums=x --manifest-force-encode", "--no-manifest and --manifest-checksums are incompatible options", true},
		{"-D d --no-manifest --manifest-force-encode --compress-wal", "--no-manifest and --manifest-force-encode are incompatible options", true},

		{"-D d --compress-wal", "--compress-wal can only be used in tar mode with WAL streaming", true},
		{"-D d -Ft -Xf -z --compress-wal", "--compress-wal can only be used in tar mode with WAL streaming", true},
		{"-D d -Ft --compress-wal", "--compress-wal needs client-side compression to be specified using --compress", true},
		{"-D d -Ft -Z server-lz4 --compress-wal", "--compress-wal needs client-side compression to be specified using --compress", true},
		{"--pgdata=", `could not create directory "": No such file or directory`, false},
		{"-D d --incremental=", `could not open file "": No such file or directory`, false},
		{"-Xn --target=", `unrecognized target: ""`, false},
		{"-D d --slot=", `replication slot name "" is too short`, false},
		{"-D d --manifest-checksums=", `unrecognized checksum algorithm: ""`, false},

		{"-F x -c y", `invalid output format "x", must be "plain" or "tar"`, false}, // the first mistake, from left to right
		{"-c y -F x", `invalid checkpoint argument "y", must be "fast" or "spread"`, false},
		{"-X x", `invalid wal-method option "x", must be "fetch", "stream", or "none"`, false},
		{"-X Fetch", `invalid wal-method option "Fetch", must be "fetch", "stream", or "none"`, false},
		{"-s 2147484", "-s/--status-interval must be in range 0..2147483", false},
		{"-s a", `invalid value "a" for option -s/--status-interval`, false},
		{"-r a", `transfer rate "a" is not a valid value`, false},
		{"-T a", `invalid tablespace mapping format "a", must be "OLDDIR=NEWDIR"`, false},
		{"--sync-method=x", "unrecognized sync method: x", false},
		{"-D d --help", "", true},
		{"-D d --version", "", true},
		{"-D d -?", "pg_basebackup: invalid option -- '?'", true},
		{"-D d -V", "pg_basebackup: invalid option -- 'V'", true},
	} {
		t.Run(test.args, func(t *testing.T) {
			_, err := parse(strings.Fields(test.args)...)
			if err == nil {
				t.Fatal("no error")
			}
			if err.Error() != test.err {
				t.Errorf("error %q, want %q", err, test.err)
			}
			if got := usererr.Hint(err); (got == usageHint) != test.hint {
				t.Errorf("hint %q, wanted: %v", got, test.hint)
			}
		})
	}
}

// helpLines returns the lines of help under both names.
func helpLines(t *testing.T, called string) []string {
	t.Helper()
	var b strings.Builder
	if err := helpBaseBackup(&b, called); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for s := bufio.NewScanner(strings.NewReader(b.String())); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

// PostgreSQL's own tests hold its programs to this width.
func TestHelpIsNarrow(t *testing.T) {
	for _, called := range []string{"pg_basebackup", "basin basebackup"} {
		for _, line := range helpLines(t, called) {
			if len(line) > 95 {
				t.Errorf("%d columns: %s", len(line), line)
			}
		}
	}
	var b strings.Builder
	if err := helpBasin(&b, "basin"); err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(b.String(), "\n") {
		if len(line) > 95 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

func TestHelpHasEveryOption(t *testing.T) {
	help := strings.Join(helpLines(t, "pg_basebackup"), "\n")
	for _, option := range stockAndOwn() {
		form := "      --" + option.Long
		if option.Short != 0 {
			form = "  -" + string(rune(option.Short)) + ", --" + option.Long
		}
		switch option.Long { // their letters are for the first argument alone, and not in the table
		case "help":
			form = "  -?, --help"
		case "version":
			form = "  -V, --version"
		}
		if option.Value != nil {
			form += "="
		} else {
			help += "\n"
		}
		if !strings.Contains(help, "\n"+form) {
			t.Errorf("help does not have %q", form)
		}
	}
}

func stockAndOwn() []getopt.Option {
	return baseBackupTable(&baseBackupOptions{given: make(map[string]bool)}, call{called: "pg_basebackup"})
}

// What pg_basebackup 18 understands, basin must: our own options may not make
// an abbreviation ambiguous, nor be one.
func TestAbbreviationsStayUnique(t *testing.T) {
	var stock []string
	for _, option := range stockAndOwn() {
		if !option.Whole {
			stock = append(stock, option.Long)
		}
	}
	if len(stock) != 35 {
		t.Errorf("%d options of pg_basebackup, which has 35", len(stock))
	}
	for _, name := range stock {
		for n := 1; n <= len(name); n++ {
			want := 0
			for _, other := range stock {
				if other == name[:n] { // a whole name counts alone
					want = 1
					break
				}
				if strings.HasPrefix(other, name[:n]) {
					want++
				}
			}
			_, err := getopt.Parsing{}.Parse([]string{"x", "--" + name[:n], "1"}, stockAndOwn())
			var complaint *getopt.Error
			ambiguous := errors.As(err, &complaint) && strings.Contains(err.Error(), "ambiguous")
			if ambiguous != (want > 1) {
				t.Errorf("--%s: %v, but it begins %s options of pg_basebackup", name[:n], err, strconv.Itoa(want))
			}
		}
	}
}

func FuzzParseBaseBackup(f *testing.F) {
	f.Add("-D\x00d\x00-r\x001.5M")
	f.Add("-D\x00-\x00-Ft\x00-T/a\\==/b\x00-s\x00 1 ")
	f.Add("-t\x00x\x00-Zclient-zstd:level=3,long")
	f.Fuzz(func(t *testing.T, line string) {
		if _, err := parse(strings.Split(line, "\x00")...); err == nil {
			return
		} else if strings.ContainsRune(usererr.Hint(err), '\n') {
			t.Errorf("hint of %q has lines", err)
		}
	})
}
