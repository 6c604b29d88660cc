package seal

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRequest(t *testing.T) {
	for option, want := range map[string]Request{
		"":                          {Unspecified, "none", "", false}, // zero to strtol
		"0":                         {Unspecified, "none", "", false},
		"-0":                        {Unspecified, "none", "", false},
		" 0":                        {Unspecified, "none", "", false},
		"6":                         {Unspecified, "gzip", "6", true},
		" +6":                       {Unspecified, "gzip", " +6", true},
		"-7":                        {Unspecified, "gzip", "-7", true},
		"6 ":                        {Unspecified, "6 ", "", false}, // no whole integer
		"+":                         {Unspecified, "+", "", false},
		" ":                         {Unspecified, " ", "", false},
		"0x1":                       {Unspecified, "0x1", "", false},
		"none":                      {Unspecified, "none", "", false},
		"gzip":                      {Unspecified, "gzip", "", false},
		"gzip:":                     {Unspecified, "gzip", "", true},
		"zstd:level=3,workers=2":    {Unspecified, "zstd", "level=3,workers=2", true},
		"zstd:long:1":               {Unspecified, "zstd", "long:1", true},
		"GZIP":                      {Unspecified, "GZIP", "", false},
		":":                         {Unspecified, "", "", true},
		"client-lz4:1":              {Client, "lz4", "1", true},
		"client-5":                  {Client, "gzip", "5", true},
		"client-":                   {Client, "none", "", false},
		"server-zstd":               {Server, "zstd", "", false},
		"server-0":                  {Server, "none", "", false},
		"server-bogus:mumble":       {Server, "bogus", "mumble", true},
		"server-client-gzip":        {Server, "client-gzip", "", false},
		"Server-gzip":               {Unspecified, "Server-gzip", "", false},
		"99999999999999999999":      {Unspecified, "gzip", "99999999999999999999", true},
		"gzip:99999999999999999999": {Unspecified, "gzip", "99999999999999999999", true},
	} {
		if diff := cmp.Diff(want, ParseRequest(option)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", option, diff)
		}
	}
}

func TestSpec(t *testing.T) {
	for option, want := range map[string]Spec{
		"none":                   {},
		"none:0":                 {LevelSet: true},
		"gzip":                   {Algorithm: Gzip, Level: -1},
		"lz4":                    {Algorithm: LZ4},
		"zstd":                   {Algorithm: Zstd, Level: 3},
		"1":                      {Algorithm: Gzip, Level: 1, LevelSet: true},
		"gzip:9":                 {Algorithm: Gzip, Level: 9, LevelSet: true},
		"gzip:-1":                {Algorithm: Gzip, Level: -1, LevelSet: true}, // the default is always legal
		"gzip:level=5":           {Algorithm: Gzip, Level: 5, LevelSet: true},
		"gzip:level=5,level=6":   {Algorithm: Gzip, Level: 6, LevelSet: true},
		"gzip:level= 5":          {Algorithm: Gzip, Level: 5, LevelSet: true},
		"gzip:4294967297":        {Algorithm: Gzip, Level: 1, LevelSet: true},  // low 32 bits
		"9223372036854775807":    {Algorithm: Gzip, Level: -1, LevelSet: true}, // low 32 bits of LONG_MAX
		"99999999999999999999":   {Algorithm: Gzip, Level: -1, LevelSet: true},
		"lz4:0":                  {Algorithm: LZ4, LevelSet: true},
		"lz4:12":                 {Algorithm: LZ4, Level: 12, LevelSet: true},
		"zstd:22":                {Algorithm: Zstd, Level: 22, LevelSet: true},
		"zstd:0":                 {Algorithm: Zstd, LevelSet: true},
		"zstd:-131072":           {Algorithm: Zstd, Level: -131072, LevelSet: true},
		"zstd:workers=2,level=1": {Algorithm: Zstd, Level: 1, LevelSet: true, Workers: 2, WorkersSet: true},
		"zstd:workers=0":         {Algorithm: Zstd, Level: 3, WorkersSet: true},
		"zstd:workers=-3":        {Algorithm: Zstd, Level: 3, Workers: -3, WorkersSet: true},
		"zstd:long":              {Algorithm: Zstd, Level: 3, Long: true, LongSet: true},
		"zstd:long=YES":          {Algorithm: Zstd, Level: 3, Long: true, LongSet: true},
		"zstd:long=On":           {Algorithm: Zstd, Level: 3, Long: true, LongSet: true},
		"zstd:long=1":            {Algorithm: Zstd, Level: 3, Long: true, LongSet: true},
		"zstd:long=no":           {Algorithm: Zstd, Level: 3, LongSet: true},
		"zstd:long=OFF":          {Algorithm: Zstd, Level: 3, LongSet: true},
		"zstd:long=0":            {Algorithm: Zstd, Level: 3, LongSet: true},
		"zstd:long,long=0":       {Algorithm: Zstd, Level: 3, LongSet: true},
		"server-gzip:3":          {Algorithm: Gzip, Level: 3, LevelSet: true},
	} {
		got, err := ParseRequest(option).Spec()
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", option, err, diff)
		}
	}
}

// The texts are those of compression.c; many are in 010_pg_basebackup.pl.
func TestSpecErrors(t *testing.T) {
	const invalid = "invalid compression specification: "
	for option, want := range map[string]string{
		"bogus":      `unrecognized compression algorithm: "bogus"`,
		"GZIP":       `unrecognized compression algorithm: "GZIP"`,
		":":          `unrecognized compression algorithm: ""`,
		"zlib:9":     `unrecognized compression algorithm: "zlib"`,
		"gzip:":      invalid + `found empty string where a compression option was expected`,
		"none:":      invalid + `found empty string where a compression option was expected`,
		"gzip:,":     invalid + `found empty string where a compression option was expected`,
		"gzip:=":     invalid + `found empty string where a compression option was expected`,
		"gzip:=1":    invalid + `found empty string where a compression option was expected`,
		"gzip:1,":    invalid + `unrecognized compression option: "1"`,
		"gzip:thunk": invalid + `unrecognized compression option: "thunk"`,
		"gzip:a\"b":  invalid + `unrecognized compression option: "a"b"`,
		"gzip:Level": invalid + `unrecognized compression option: "Level"`,
		"gzip:2x":    invalid + `unrecognized compression option: "2x"`,
		"gzip: ":     invalid + `unrecognized compression option: " "`,

		"gzip:level=1,":       invalid + `found empty string where a compression option was expected`,
		"gzip:level":          invalid + `compression option "level" requires a value`,
		"zstd:workers":        invalid + `compression option "workers" requires a value`,
		"gzip:level=":         invalid + `value for compression option "level" must be an integer`,
		"gzip:level=high":     invalid + `value for compression option "level" must be an integer`,
		"gzip:level=9=9":      invalid + `value for compression option "level" must be an integer`,
		"zstd:workers=1.5":    invalid + `value for compression option "workers" must be an integer`,
		"zstd:long=maybe":     invalid + `value for compression option "long" must be a Boolean value`,
		"zstd:long=":          invalid + `value for compression option "long" must be a Boolean value`,
		"zstd:long=true":      invalid + `value for compression option "long" must be a Boolean value`,
		"zstd:long=ye\u017f":  invalid + `value for compression option "long" must be a Boolean value`,
		"none:1":              invalid + `compression algorithm "none" does not accept a compression level`,
		"gzip:0":              invalid + `compression algorithm "gzip" expects a compression level between 1 and 9 (default at -1)`,
		"10":                  invalid + `compression algorithm "gzip" expects a compression level between 1 and 9 (default at -1)`,
		"-2":                  invalid + `compression algorithm "gzip" expects a compression level between 1 and 9 (default at -1)`,
		"gzip:10":             invalid + `compression algorithm "gzip" expects a compression level between 1 and 9 (default at -1)`,
		"lz4:13":              invalid + `compression algorithm "lz4" expects a compression level between 1 and 12 (default at 0)`,
		"lz4:-1":              invalid + `compression algorithm "lz4" expects a compression level between 1 and 12 (default at 0)`,
		"zstd:23":             invalid + `compression algorithm "zstd" expects a compression level between -131072 and 22 (default at 3)`,
		"zstd:-131073":        invalid + `compression algorithm "zstd" expects a compression level between -131072 and 22 (default at 3)`,
		"gzip:workers=3":      invalid + `compression algorithm "gzip" does not accept a worker count`,
		"none:workers=0":      invalid + `compression algorithm "none" does not accept a worker count`,
		"lz4:long":            invalid + `compression algorithm "lz4" does not support long-distance mode`,
		"gzip:long=no":        invalid + `compression algorithm "gzip" does not support long-distance mode`,
		"gzip:long,workers=1": invalid + `compression algorithm "gzip" does not accept a worker count`,

		// The first mistake of the detail comes before what validation finds.
		"gzip:level=99,bogus":     invalid + `unrecognized compression option: "bogus"`,
		"gzip:long,level=99":      invalid + `compression algorithm "gzip" expects a compression level between 1 and 9 (default at -1)`,
		"gzip:workers=a,level=b":  invalid + `value for compression option "workers" must be an integer`,
		"lz4:workers=1,long=what": invalid + `value for compression option "long" must be a Boolean value`,
	} {
		_, err := ParseRequest(option).Spec()
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", option, err, want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, option := range []string{"", "6", "client-gzip:9", "server-zstd:level=3,workers=2,long=off", "lz4:,"} {
		f.Add(option)
	}
	f.Fuzz(func(t *testing.T, option string) {
		request := ParseRequest(option)
		spec, err := request.Spec()
		if err != nil {
			if spec != (Spec{}) {
				t.Errorf("%q: %v and %+v", option, err, spec)
			}
			return
		}
		if err := spec.validate(); err != nil {
			t.Errorf("%q: what was accepted is not valid: %v", option, err)
		}
	})
}
