package getopt

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// table returns options that write down how they were called.
func table(seen *[]string) []Option {
	flag := func(long string, short byte) Option {
		return Option{Long: long, Short: short, Flag: func() error {
			*seen = append(*seen, long)
			return nil
		}}
	}
	value := func(long string, short byte) Option {
		return Option{Long: long, Short: short, Value: func(v string) error {
			*seen = append(*seen, long+"="+v)
			return nil
		}}
	}
	whole := flag("compress-wal", 0)
	whole.Whole = true
	return []Option{
		value("pgdata", 'D'),
		value("checkpoint", 'c'),
		value("compress", 'Z'),
		whole,
		flag("create-slot", 'C'),
		flag("no-clean", 'n'),
		flag("no-sync", 'N'),
		flag("password", 'W'),
		flag("verbose", 'v'),
		flag("manifest-force-encode", 0),
		value("manifest-checksums", 0),
	}
}

// The answers are those of getopt_long of glibc 2.36, but for the option marked whole.
func TestParse(t *testing.T) {
	for _, test := range []struct {
		reason   string
		args     []string
		seen     []string
		operands []string
		err      string
	}{
		{reason: "nothing"},
		{reason: "argument joined to a letter", args: []string{"-cfast"}, seen: []string{"checkpoint=fast"}},
		{reason: "argument apart from a letter", args: []string{"-c", "fast"}, seen: []string{"checkpoint=fast"}},
		{reason: "argument joined to a name", args: []string{"--checkpoint=fast"}, seen: []string{"checkpoint=fast"}},
		{reason: "argument apart from a name", args: []string{"--checkpoint", "fast"}, seen: []string{"checkpoint=fast"}},
		{reason: "argument with an equals sign", args: []string{"--pgdata=a=b"}, seen: []string{"pgdata=a=b"}},
		{reason: "equals sign belongs to a short option's argument", args: []string{"-D=a"}, seen: []string{"pgdata==a"}},
		{reason: "empty argument joined", args: []string{"--pgdata="}, seen: []string{"pgdata="}},
		{reason: "empty argument apart", args: []string{"-D", ""}, seen: []string{"pgdata="}},
		{reason: "two dashes as an argument", args: []string{"-D", "--", "-v"}, seen: []string{"pgdata=--", "verbose"}},
		{reason: "option as an argument", args: []string{"--pgdata", "-v"}, seen: []string{"pgdata=-v"}},
		{reason: "cluster", args: []string{"-nNv"}, seen: []string{"no-clean", "no-sync", "verbose"}},
		{reason: "cluster that ends in an argument", args: []string{"-nDx"}, seen: []string{"no-clean", "pgdata=x"}},
		{reason: "cluster that ends before its argument", args: []string{"-nD", "x"}, seen: []string{"no-clean", "pgdata=x"}},
		{reason: "unique beginning", args: []string{"--check=fast"}, seen: []string{"checkpoint=fast"}},
		{reason: "whole name that begins another", args: []string{"--compress=gzip"}, seen: []string{"compress=gzip"}},
		{reason: "beginning shared with a whole one only", args: []string{"--comp", "gzip"}, seen: []string{"compress=gzip"}},
		{reason: "whole one by its name", args: []string{"--compress-wal"}, seen: []string{"compress-wal"}},
		{reason: "whole one cut short", args: []string{"--compress-w"}, err: "unrecognized option '--compress-w'"},
		{reason: "operands among options", args: []string{"a", "-v", "b"}, seen: []string{"verbose"}, operands: []string{"a", "b"}},
		{reason: "options end at two dashes", args: []string{"a", "--", "-v", "--"}, operands: []string{"a", "-v", "--"}},
		{reason: "one dash is an operand", args: []string{"-", "-v"}, seen: []string{"verbose"}, operands: []string{"-"}},
		{reason: "empty word is an operand", args: []string{""}, operands: []string{""}},

		{reason: "unknown name", args: []string{"--bogus"}, err: "unrecognized option '--bogus'"},
		{reason: "unknown name is quoted with its argument", args: []string{"--bogus=1"}, err: "unrecognized option '--bogus=1'"},
		{reason: "unknown letter", args: []string{"-q"}, err: "invalid option -- 'q'"},
		{reason: "unknown letter after known ones", args: []string{"-nq"}, seen: []string{"no-clean"}, err: "invalid option -- 'q'"},
		{reason: "unknown byte of a longer character", args: []string{"-\xc3\xa9"}, err: "invalid option -- '\xc3'"},
		{reason: "dash within a cluster", args: []string{"-n-"}, seen: []string{"no-clean"}, err: "invalid option -- '-'"},
		{reason: "letter without its argument", args: []string{"-D"}, err: "option requires an argument -- 'D'"},
		{reason: "name without its argument", args: []string{"--pgdata"}, err: "option '--pgdata' requires an argument"},
		{reason: "short name without its argument is quoted in full", args: []string{"--pg"}, err: "option '--pgdata' requires an argument"},
		{reason: "argument not wanted", args: []string{"--verb=1"}, err: "option '--verbose' doesn't allow an argument"},
		{reason: "ambiguous", args: []string{"--man"}, err: "option '--man' is ambiguous; possibilities: '--manifest-force-encode' '--manifest-checksums'"},
		{reason: "ambiguous is quoted with its argument", args: []string{"--c=fast"}, err: "option '--c=fast' is ambiguous; possibilities: '--checkpoint' '--compress' '--create-slot'"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			var seen []string
			operands, err := Parsing{}.Parse(append([]string{"/bin/program"}, test.args...), table(&seen))
			if !slices.Equal(seen, test.seen) {
				t.Errorf("options %q, want %q", seen, test.seen)
			}
			if !slices.Equal(operands, test.operands) {
				t.Errorf("operands %q, want %q", operands, test.operands)
			}
			switch {
			case test.err == "" && err != nil:
				t.Errorf("error %v", err)
			case test.err != "" && (err == nil || err.Error() != "/bin/program: "+test.err):
				t.Errorf("error %v, want %s", err, test.err)
			}
		})
	}
}

func TestStopAtOperand(t *testing.T) {
	var seen []string
	operands, err := Parsing{StopAtOperand: true}.Parse([]string{"program", "-v", "a", "-n", "--"}, table(&seen))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"verbose"}; !slices.Equal(seen, want) {
		t.Errorf("options %q, want %q", seen, want)
	}
	if want := []string{"a", "-n", "--"}; !slices.Equal(operands, want) {
		t.Errorf("operands %q, want %q", operands, want)
	}
}

func TestErrorOfAnOptionEndsParsing(t *testing.T) {
	refused := errors.New("refused")
	var seen []string
	options := append(table(&seen), Option{Short: 'x', Flag: func() error { return refused }})
	_, err := Parsing{}.Parse([]string{"program", "-vx", "-n"}, options)
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	if want := []string{"verbose"}; !slices.Equal(seen, want) {
		t.Errorf("options %q, want %q", seen, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"-nNv\x00--man\x00x", "--=a", "-D\x00--\x00-", "\x00", "-\x00--pgdata", "--compress-wal=\x00-\xc3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, "\x00")
		var seen []string
		operands, err := Parsing{}.Parse(append([]string{"program"}, words...), table(&seen))
		if err != nil && !strings.HasPrefix(err.Error(), "program: ") {
			t.Errorf("error %q", err)
		}
		if len(operands) > len(words) {
			t.Errorf("%d operands from %d words", len(operands), len(words))
		}
	})
}
