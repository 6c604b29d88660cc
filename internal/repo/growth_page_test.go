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

// TestGrowth makes backups of a cluster that is simulated, of so many files that it would be seen if something of each were kept
// in memory. What is in use is judged, as what is resident depends on when the collector ran. With a file named by BASIN_GROWTH
// the clusters are large, and a page is written there: that is for make growth.
func TestGrowth(t *testing.T) {
	if page := os.Getenv("BASIN_GROWTH"); page != "" {
		writeGrowth(t, page)
		return
	}
	t.Parallel()
	const most = 80 << 20 // bytes: 55 to 67 million were seen of 50 000 files, and 60 to 70 of 200 000; 150 bytes more of each make 90
	r := measureGrowth(t, growth{Files: 200_000, Pages: 1, Listed: true, Folder: 10_000, Garbage: 10, Spill: 1 << 20, Kept: 6 << 20}, 3*time.Minute)
	if live := r.Second.Live; live > most {
		t.Errorf("%d bytes of memory are in use", live)
	}
	if peak := r.Second.Peak; peak > growthMost {
		t.Errorf("%d bytes of memory are resident", peak)
	}
	if b := r.Second; b.Index > 1000*b.Changed || b.Changed == 0 {
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
		{"50 GiB", growth{Folder: 100_000, Files: 50, Pages: 131072}},
		{"200 GiB", growth{Folder: 100_000, Files: 200, Pages: 131072}},
		{"1 million files of 8 KiB", growth{Folder: 100_000, Files: 1_000_000, Pages: 1, Listed: true}},
		{"10 million files of 8 KiB", growth{Folder: 100_000, Files: 10_000_000, Pages: 1, Listed: true}},
		{"10 million empty files", growth{Folder: 100_000, Files: 10_000_000, Listed: true}},
		{"10 TB", growth{Folder: 100_000, Files: 9313, Pages: 131072}},
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
