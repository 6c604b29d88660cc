package pgdata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// controlFile returns a control file of a version, the checksum of which is at a place.
func controlFile(version uint32, at int) []byte {
	p := binary.LittleEndian.AppendUint64(nil, 7561234567890123456)
	p = binary.LittleEndian.AppendUint32(p, version)
	p = append(p, bytes.Repeat([]byte("x"), at-len(p))...)
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
	return append(p, make([]byte, ControlSize-len(p))...)
}

func TestControlOfEachVersion(t *testing.T) {
	for version, at := range map[uint32]int{1002: 288, 1100: 280, 1201: 288, 1300: 288, 1700: 288, 1800: 292} {
		content := controlFile(version, at)
		for _, p := range [][]byte{content, content[:512]} {
			if c, err := ParseControl(p); err != nil || c.SystemID != 7561234567890123456 || c.Version != version {
				t.Errorf("%d: %+v, %v", version, c, err)
			}
		}
		for i := range at + 4 {
			damaged := bytes.Clone(content)
			damaged[i] ^= 4
			if _, err := ParseControl(damaged); !errors.Is(err, ErrControlChecksum) {
				t.Errorf("%d with byte %d changed: %v", version, i, err)
			}
		}
	}
}

func TestControlThatIsNone(t *testing.T) {
	for _, content := range [][]byte{nil, make([]byte, ControlSize), controlFile(1800, 292)[:511], bytes.Repeat([]byte("x"), ControlSize)} {
		if _, err := ParseControl(content); !errors.Is(err, ErrControlChecksum) {
			t.Errorf("%d bytes: %v", len(content), err)
		}
	}
	if _, err := ParseControl(controlFile(1900, 292)); !errors.Is(err, ErrControlVersion) {
		t.Error(err)
	}
}

// TestNonce compares with what pg_controldata shows.
func TestNonce(t *testing.T) {
	for _, major := range []int{15, 17, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major})
			content, err := os.ReadFile(filepath.Join(s.DataDir, ControlPath))
			if err != nil {
				t.Fatal(err)
			}
			c, err := ParseControl(content)
			if err != nil {
				t.Fatal(err)
			}
			out, err := pgtest.Command(t, major, "pg_controldata", s.DataDir).Output()
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("%x", c.Nonce); !strings.Contains(string(out), want) {
				t.Errorf("%s is not in\n%s", want, out)
			}
		})
	}
}
