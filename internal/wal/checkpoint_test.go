package wal

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// stampOf returns a time as TimestampTz.
func stampOf(t time.Time) uint64 {
	return uint64(t.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds())
}

// checkpoint10 adds a CheckPoint of 10 and 11: epoch and number of the next transaction apart.
func checkpoint10(p *parts) *parts {
	p.u64(0x300028).u32(3, 2).u8(1).skip(3)         // redo, timelines, full page writes
	p.u32(5, 1000).u32(16384, 1, 0, 700, 1, 1, 1)   // epoch and XID; OID, multixacts, oldest ones
	return p.u64(1709210096).u32(0, 0, 900).skip(4) // time; commit timestamps, oldest active XID
}

// checkpoint12 adds one of 12 to 18, with the wal_level that is there since 17.
func checkpoint12(p *parts) *parts {
	p.u64(0x300028).u32(3, 2).u8(1).skip(3).u32(2)
	p.u64(5<<32|1000).u32(16384, 1, 0, 700, 1, 1, 1).skip(4)
	return p.u64(1709210096).u32(0, 0, 900).skip(4)
}

// restorePoint adds an xl_restore_point.
func restorePoint(p *parts, name string) *parts {
	at := time.Date(2024, 2, 29, 12, 34, 56, 789012000, time.UTC)
	p.u64(stampOf(at)).u8([]byte(name)...)
	return p.u8(make([]byte, max(0, restorePointName-len(name)))...)
}

func TestCheckpoint(t *testing.T) {
	const want = " redo 0/300028 timeline 3 after 2 images true next 5:1000 at 2024-02-29T12:34:56Z"
	old, since12 := []int{10, 11}, []int{12, 13, 14, 15, 16, 17, 18}
	for _, c := range []struct {
		why           string
		manager, info uint8
		majors        []int
		main          func(*parts)
		want          string
	}{
		{"online, of old", 0, 0x10, old, func(p *parts) { checkpoint10(p) }, "online" + want},
		{"online", 0, 0x10, since12, func(p *parts) { checkpoint12(p) }, "online" + want},
		{"shutdown, of old", 0, 0x00, old, func(p *parts) { checkpoint10(p) }, "shutdown" + want},
		{"shutdown", 0, 0x00, since12, func(p *parts) { checkpoint12(p) }, "shutdown" + want},
		{"info of the caller", 0, 0x11, since12, func(p *parts) { checkpoint12(p) }, "online" + want},
		{"longer than any yet", 0, 0x10, since12, func(p *parts) { checkpoint12(p).skip(8) }, "online" + want},
		{"redo of one alone", 0, 0xE0, nil, func(p *parts) { p.u32(2) }, "none"},
		{"of another manager", 1, 0x00, nil, func(p *parts) { checkpoint12(p) }, "none"},
		{"cut off in the time", 0, 0x10, nil, func(p *parts) { checkpoint12(p); p.p = p.p[:63] }, "none"},
		{"nothing", 0, 0x00, nil, func(*parts) {}, "none"},
	} {
		t.Run(c.why, func(t *testing.T) {
			eachLayout(t, c.majors, c.manager, c.info, c.main, func(r Record) string {
				c, ok := r.Checkpoint()
				if !ok {
					return "none"
				}
				return fmt.Sprintf("%s redo %s timeline %d after %d images %t next %d:%d at %s",
					map[bool]string{true: "shutdown", false: "online"}[c.IsShutdown],
					c.Redo, c.Timeline, c.PreviousTimeline, c.FullPageWrites, c.NextXID>>32, uint32(c.NextXID), c.Time.Format(time.RFC3339Nano))
			}, c.want)
		})
	}
}

func TestEndOfRecovery(t *testing.T) {
	at := stampOf(time.Date(2024, 2, 29, 12, 34, 56, 789012000, time.UTC))
	const want = "timeline 3 after 2 at 2024-02-29T12:34:56.789012Z"
	for _, c := range []struct {
		why           string
		manager, info uint8
		main          func(*parts)
		want          string
	}{
		{"before 17", 0, 0x90, func(p *parts) { p.u64(at).u32(3, 2) }, want},
		{"with wal_level, since 17", 0, 0x90, func(p *parts) { p.u64(at).u32(3, 2, 1) }, want},
		{"cut off", 0, 0x90, func(p *parts) { p.u64(at).u32(3).skip(3) }, "none"},
		{"of another manager", 10, 0x90, func(p *parts) { p.u64(at).u32(3, 2) }, "none"},
		{"another record", 0, 0x80, func(p *parts) { p.u64(at).u32(3, 2) }, "none"},
	} {
		t.Run(c.why, func(t *testing.T) {
			eachLayout(t, nil, c.manager, c.info, c.main, func(r Record) string {
				e, ok := r.EndOfRecovery()
				if !ok {
					return "none"
				}
				return fmt.Sprintf("timeline %d after %d at %s", e.Timeline, e.PreviousTimeline, e.Time.Format(time.RFC3339Nano))
			}, c.want)
		})
	}
}

func TestRestorePoint(t *testing.T) {
	for _, c := range []struct {
		why           string
		manager, info uint8
		main          func(*parts)
		want          string
	}{
		{"named", 0, 0x70, func(p *parts) { restorePoint(p, "before the release") }, `"before the release" at 2024-02-29T12:34:56.789012Z`},
		{"without a name", 0, 0x70, func(p *parts) { restorePoint(p, "") }, `"" at 2024-02-29T12:34:56.789012Z`},
		{"bytes that are no text", 0, 0x70, func(p *parts) { restorePoint(p, "caf\xE9") }, `"caf\xe9" at 2024-02-29T12:34:56.789012Z`},
		{"of what was in memory before", 0, 0x70, func(p *parts) { restorePoint(p, "a\x00b") }, `"a" at 2024-02-29T12:34:56.789012Z`},
		{"the longest", 0, 0x70, func(p *parts) { restorePoint(p, strings.Repeat("n", 63)) },
			fmt.Sprintf("%q at 2024-02-29T12:34:56.789012Z", strings.Repeat("n", 63))},
		{"without an end", 0, 0x70, func(p *parts) { restorePoint(p, strings.Repeat("n", 64)) }, "none"},
		{"cut off", 0, 0x70, func(p *parts) { restorePoint(p, "n"); p.p = p.p[:71] }, "none"},
		{"of another manager", 10, 0x70, func(p *parts) { restorePoint(p, "n") }, "none"},
		{"another record", 0, 0x60, func(p *parts) { restorePoint(p, "n") }, "none"},
	} {
		t.Run(c.why, func(t *testing.T) {
			eachLayout(t, nil, c.manager, c.info, c.main, func(r Record) string {
				p, ok := r.RestorePoint()
				if !ok {
					return "none"
				}
				return fmt.Sprintf("%q at %s", p.Name, p.Time.Format(time.RFC3339Nano))
			}, c.want)
		})
	}
}
