package repo

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/manifest"
	"basin/internal/wal"
)

// damagedRepository is a cluster of two backups, the older one of segment 2 and the newer one of 5, with log from 1 to 8.
type damagedRepository struct {
	*Cluster
	older, newer *Commit
}

// at returns the name of an object of the log.
func (r damagedRepository) at(t *testing.T, name string) string {
	t.Helper()
	at, err := r.logName(name)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// remove removes an object.
func (r damagedRepository) remove(t *testing.T, name string) {
	t.Helper()
	if err := r.repo.store.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

// push pushes the part of a segment that ends at an offset.
func (r damagedRepository) push(t *testing.T, number uint64, end int64) {
	t.Helper()
	name := PartialName(wal.Segment{Timeline: 1, Number: number}.Name(logSize), end)
	if err := r.PushLog(t.Context(), name, forgedLog(number, rng(number))[:end], logSize); err != nil {
		t.Fatal(err)
	}
}

// pruneLog removes log that is not needed.
func (r damagedRepository) pruneLog(t *testing.T, within time.Duration) {
	t.Helper()
	if _, err := r.PruneLog(t.Context(), PruneLogOptions{Now: time.Now().Add(90 * time.Hour), Within: within}); err != nil {
		t.Fatal(err)
	}
}

// forget removes the older backup.
func (r damagedRepository) forget(t *testing.T) {
	t.Helper()
	if err := r.Forget(t.Context(), r.older.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// packOf returns the name of a pack that a backup needs.
func (r damagedRepository) packOf(t *testing.T, k *Commit) (name string) {
	t.Helper()
	err := r.eachExtent(t.Context(), k, func(_ key, x extent) error {
		name = r.packName(x.at.pack)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// newDamaged makes the cluster.
func newDamaged(t *testing.T) damagedRepository {
	t.Helper()
	r := damagedRepository{Cluster: newCluster(t, true)}
	begun := time.Now().Add(-48 * time.Hour)
	take := func(content string, segment wal.LSN, when time.Time) *Commit {
		at := wal.Position{LSN: segment*logSize + 0x28, Timeline: 1}
		k := takeFrom(t, r.Cluster, tree{{path: "a"}: []byte(content), {path: "global/pg_control"}: []byte(content)}, at, when)
		k.Stop.LSN, k.Ranges = at.LSN+0x1000, []manifest.Range{{Timeline: 1, Start: at.LSN, End: at.LSN + 0x1000}} // that of the test's source is another
		putAnew(t, r.Cluster, k)
		return k
	}
	r.older, r.newer = take("a", 2, begun), take("b", 5, begun.Add(24*time.Hour))
	putLog(t, r.Cluster, 1, 1, 2, 3, 4, 5, 6, 7, 8)
	return r
}

// TestStillDamaged has damage be found, and something become of it: it is told as long as what is damaged is there, or is needed.
func TestStillDamaged(t *testing.T) {
	segment := func(number uint64) string { return wal.Segment{Timeline: 1, Number: number}.Name(logSize) }
	part := PartialName(segment(8), 0x2000)
	pack := func(k func(damagedRepository) *Commit) func(*testing.T, damagedRepository) string {
		return func(t *testing.T, r damagedRepository) string { return r.packOf(t, k(r)) }
	}
	older := pack(func(r damagedRepository) *Commit { return r.older })
	newer := pack(func(r damagedRepository) *Commit { return r.newer })
	log := func(name string) func(*testing.T, damagedRepository) string {
		return func(t *testing.T, r damagedRepository) string { return r.at(t, name) }
	}
	for _, test := range []struct {
		reason  string
		object  func(*testing.T, damagedRepository) string
		missing bool // it is, when verify looks
		then    func(t *testing.T, r damagedRepository)
		is      bool
	}{
		{"log is needed", log(segment(4)), false, func(*testing.T, damagedRepository) {}, true},
		{"log is needed, and prune lets it be", log(segment(4)), false, func(t *testing.T, r damagedRepository) { r.pruneLog(t, 0) }, true},
		{"log is needed, and is gone", log(segment(4)), false, func(t *testing.T, r damagedRepository) { r.remove(t, r.at(t, segment(4))) }, true},
		{"log was pushed anew", log(segment(4)), false, func(t *testing.T, r damagedRepository) {
			r.remove(t, r.at(t, segment(4)))
			putLog(t, r.Cluster, 1, 4)
		}, false},
		{"log before the oldest backup was pruned", log(segment(1)), false, func(t *testing.T, r damagedRepository) { r.pruneLog(t, 0) }, false},
		{"log of a backup that was forgotten was pruned", log(segment(2)), false, func(t *testing.T, r damagedRepository) {
			r.forget(t)
			r.pruneLog(t, 0)
		}, false},
		{"log was thinned", log(segment(4)), false, func(t *testing.T, r damagedRepository) { r.pruneLog(t, time.Hour) }, false},
		{"log was thinned that is kept for longer now", log(segment(4)), false, func(t *testing.T, r damagedRepository) {
			r.pruneLog(t, time.Hour)
			r.pruneLog(t, 1000*time.Hour)
		}, false},
		{"log was thinned, and a backup needs it", log(segment(2)), false, func(t *testing.T, r damagedRepository) {
			r.pruneLog(t, time.Hour)
			r.remove(t, r.at(t, segment(2)))
		}, true},
		{"a backup needs log that is missing", log(segment(2)), true, func(t *testing.T, r damagedRepository) { r.pruneLog(t, 0) }, true},
		{"it came", log(segment(2)), true, func(t *testing.T, r damagedRepository) { putLog(t, r.Cluster, 1, 2) }, false},
		{"a part of it came that leads to the end of the backup", log(segment(2)), true, func(t *testing.T, r damagedRepository) {
			r.push(t, 2, 0x2000)
		}, false},
		{"a part of it came that does not", log(segment(2)), true, func(t *testing.T, r damagedRepository) {
			r.push(t, 2, 0x800)
		}, true},
		{"the backup was forgotten", log(segment(2)), true, func(t *testing.T, r damagedRepository) { r.forget(t) }, false},
		{"a part of a segment that is there was removed", log(part), false, func(t *testing.T, r damagedRepository) { r.remove(t, r.at(t, part)) }, false},
		{"a part of a segment that is not was removed", log(part), false, func(t *testing.T, r damagedRepository) {
			r.remove(t, r.at(t, segment(8)))
			r.remove(t, r.at(t, part))
		}, true},
		{"a longer part is there", log(part), false, func(t *testing.T, r damagedRepository) {
			r.push(t, 8, 0x4000)
			r.remove(t, r.at(t, segment(8)))
			r.remove(t, r.at(t, part))
		}, false},
		{"a history is gone", log("00000002.history"), false, func(t *testing.T, r damagedRepository) { r.remove(t, r.at(t, "00000002.history")) }, true},
		{"a pack is needed", newer, false, func(*testing.T, damagedRepository) {}, true},
		{"a pack is needed and missing", newer, true, func(*testing.T, damagedRepository) {}, true},
		{"a pack of a backup that was forgotten was pruned", older, false, func(t *testing.T, r damagedRepository) {
			r.forget(t)
			prune(t, r.Cluster, PruneOptions{})
		}, false},
		{"a pack is missing, and the backup was forgotten", older, true, func(t *testing.T, r damagedRepository) { r.forget(t) }, false},
		{"a commit is gone", func(_ *testing.T, r damagedRepository) string { return r.commitName(r.older.ID) }, false,
			func(t *testing.T, r damagedRepository) { r.remove(t, r.commitName(r.older.ID)) }, false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			r := newDamaged(t)
			name := test.object(t, r)
			if test.missing {
				r.remove(t, name)
			} else {
				r.Cluster = reopen(t, r.Cluster, with(t, memory(r.Cluster), name, []byte("nothing of that kind")))
			}
			if found, _ := verify(t, r.Cluster, VerifyOptions{}); len(found) != 1 || found[name].Err == nil {
				t.Fatalf("found are %v", found)
			}
			test.then(t, r)
			check := func(when string) {
				t.Helper()
				v, err := r.Verification(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				still, err := r.StillDamaged(t.Context(), v)
				if err != nil || slices.Contains(still, name) != test.is || len(still) > 1 {
					t.Errorf("%s still damaged is %q, %v", when, still, err)
				}
			}
			check("now")
			verify(t, r.Cluster, VerifyOptions{Sample: 1e-9}) // which looks at little, and remembers the rest
			check("after a sample")
		})
	}
}

// TestOldDamages is of what older programs noted, who kept no heads: what is there is damaged as far as is known.
func TestOldDamages(t *testing.T) {
	r := newDamaged(t)
	name := r.at(t, wal.Segment{Timeline: 1, Number: 1}.Name(logSize))
	if _, err := r.putFact(t.Context(), factVerified, json.RawMessage(fmt.Appendf(nil, `{"packs":{},"at":"2026-11-26T20:00:00Z","damages":[%q]}`, name))); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{name, ""} {
		v, err := r.Verification(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if still, err := r.StillDamaged(t.Context(), v); err != nil || strings.Join(still, " ") != want {
			t.Errorf("still damaged is %q, %v, want %q", still, err, want)
		}
		r.pruneLog(t, 0)
	}
}
