package lookup

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// TestAllAreFound looks for what is in memory alone, in the file alone, and in both.
func TestAllAreFound(t *testing.T) {
	for _, n := range []int{0, 1, 1000, runEntries, 2*runEntries + 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			table := New(dir)
			defer table.Close()
			for i := range n {
				if err := table.Add(fmt.Sprintf("base/5/%d", i), int64(i)*100); err != nil {
					t.Fatal(err)
				}
			}
			table.Finish()
			for i := 0; i < n; i += 1 + n/5000 {
				found, err := table.Find(fmt.Sprintf("base/5/%d", i))
				if err != nil || !slices.Contains(found, int64(i)*100) || len(found) > 2 {
					t.Fatalf("%d: %v, %v", i, found, err)
				}
			}
			for i := range 1000 {
				if found, err := table.Find(fmt.Sprintf("base/6/%d", i)); err != nil || len(found) > 0 {
					t.Fatalf("what is not there: %v, %v", found, err)
				}
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("the file has a name: %v, %v", left, err)
			}
		})
	}
}

// TestOneNameTwice has more things of one name than a block of the file holds.
func TestOneNameTwice(t *testing.T) {
	t.Parallel()
	table := New(t.TempDir())
	defer table.Close()
	const n = 3*blockEntries + 7
	for i := range runEntries + 10 {
		name := "same"
		if i >= n && i < runEntries {
			name = fmt.Sprint(i)
		}
		if err := table.Add(name, int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	table.Finish()
	if found, err := table.Find("same"); err != nil || len(found) != n+10 {
		t.Errorf("%d of %d, %v", len(found), n+10, err)
	}
}

// TestNoRoomForTheFile has a directory that is not there.
func TestNoRoomForTheFile(t *testing.T) {
	t.Parallel()
	table := New(t.TempDir() + "/missing")
	for i := range runEntries {
		err := table.Add("x", int64(i))
		if isLast := i == runEntries-1; isLast != (err != nil) {
			t.Fatalf("%d: %v", i, err)
		}
	}
}
