package repo

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// growthMost is how many bytes a backup with two workers may take, whatever the size of the cluster.
const growthMost = 256 << 20

// TestGrowth makes backups of clusters that are simulated, of which each three times as large as the one before takes no more memory
// to speak of. With a file named by BASIN_GROWTH the clusters are large, and a page is written there: that is for make growth.
func TestGrowth(t *testing.T) {
	if page := os.Getenv("BASIN_GROWTH"); page != "" {
		writeGrowth(t, page)
		return
	}
	t.Parallel()
	const more = 32 << 20 // bytes: the index of the parent that is kept, and what differs by chance
	small := measureGrowth(t, growth{Files: 50_000, Pages: 1, Listed: true, Garbage: 10, Spill: 1 << 20}, time.Minute)
	large := measureGrowth(t, growth{Files: 150_000, Pages: 1, Listed: true, Garbage: 10, Spill: 1 << 20}, time.Minute)
	if large.Second.Peak > small.Second.Peak+more || large.Second.Peak > growthMost {
		t.Errorf("three times as many files take %d bytes of memory, and not about %d", large.Second.Peak, small.Second.Peak)
	}
	if b := large.Second; b.Index > 1000*b.Changed || b.Changed == 0 {
		t.Errorf("a backup with %d changed pages made %d bytes of index", b.Changed, b.Index)
	}
}

// writeGrowth measures large clusters, and writes a page.
func writeGrowth(t *testing.T, page string) {
	const intro = `# Memory and growth of the repository

Written by ` + "`make growth`" + `. Clusters are simulated: a source makes files whose pages are distinct, each a number with zeros behind
it, and packs are counted and not kept. The rest is the repository's own: digests, compression, index, commit. Each line is a process of its own,
with two workers, one processor and the limit of memory that ` + "`basin backup`" + ` sets. In the second backup, which reads and compares
everything, a thousandth of the pages are others. Files come with a manifest, whole clusters of gigabytes without one. Memory is the
most that was resident (VmHWM) up to the end of each backup.

| cluster | memory, first | then second | time, first | second | index | of that a file | a GiB | commit | changed pages | index of the second | temporary files |
|---|---|---|---|---|---|---|---|---|---|---|---|
`
	const outro = `
Memory is not the same in all lines: what can be collected is left until the limit, 240 MiB, is near. What grows with the size of a cluster
is the number of temporary files that its index waits in, of which there are fewer than 16 for each factor of 16, and the list of
their parts and of the index's.

The index waits in temporary files, below TMPDIR, uncompressed, and is there twice while many are merged: the last column is the most that they took at once,
seen each second.
`
	var out strings.Builder
	out.WriteString(intro)
	for _, c := range []struct {
		name string
		growth
	}{
		{"50 GiB", growth{Files: 50, Pages: 131072}},
		{"200 GiB", growth{Files: 200, Pages: 131072}},
		{"1 million files of 8 KiB", growth{Files: 1_000_000, Pages: 1, Listed: true}},
		{"10 million files of 8 KiB", growth{Files: 10_000_000, Pages: 1, Listed: true}},
		{"10 million empty files", growth{Files: 10_000_000, Listed: true}},
		{"10 TB", growth{Files: 9313, Pages: 131072}},
	} {
		r := measureGrowth(t, c.growth, 5*time.Hour)
		perGiB := "-"
		if bytes := c.Files * c.Pages * BlockSize; bytes > 0 {
			perGiB = fmt.Sprintf("%.2f MiB", mebibytes(r.First.Index)/(float64(bytes)/(1<<30)))
		}
		fmt.Fprintf(&out, "| %s | %.0f MiB | %.0f MiB | %.0f s | %.0f s | %.1f MiB | %.1f bytes | %s | %.1f KiB | %d | %.2f MiB | %.1f MiB |\n", c.name,
			mebibytes(r.First.Peak), mebibytes(r.Second.Peak), r.First.Seconds, r.Second.Seconds, mebibytes(r.First.Index),
			float64(r.First.Index)/float64(c.Files), perGiB, float64(r.First.Commit)/1024, r.Second.Changed, mebibytes(r.Second.Index), mebibytes(r.Temporary))
		if r.Second.Peak > growthMost {
			t.Errorf("%s: %d bytes of memory", c.name, r.Second.Peak)
		}
		if err := os.WriteFile(page, []byte(out.String()+outro), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
