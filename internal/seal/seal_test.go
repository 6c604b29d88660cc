package seal

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBySuffix(t *testing.T) {
	for name, want := range map[string]Algorithm{
		"base.tar":         None,
		"base.tar.gz":      Gzip,
		"16384.tar.lz4":    LZ4,
		"pg_wal.tar.zst":   Zstd,
		"base.tar.zstd":    None,
		"base.tar.GZ":      None,
		"gz":               None,
		"":                 None,
		"base.gz.tar":      None,
		"base.tar.zst.bak": None,
	} {
		got := BySuffix(name)
		if got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
	for a := None; a <= Zstd; a++ {
		if got := BySuffix("base.tar" + Suffix(a)); got != a {
			t.Errorf("the suffix of %v is that of %v", a, got)
		}
	}
}
