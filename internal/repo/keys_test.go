package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"sync"
	"testing"

	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// newLocked makes an encrypted repository whose private key is wrapped so often.
func newLocked(t *testing.T, store object.Store, wrapped ...string) *Repository {
	t.Helper()
	private, err := seal.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	public := private.Public()
	o := InitOptions{PublicKey: &public}
	for _, text := range wrapped {
		o.Keys = append(o.Keys, []byte(text))
	}
	if _, err := Init(t.Context(), store, o); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), store, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// contents returns what is in the wrapped keys, sorted.
func contents(t *testing.T, r *Repository) []string {
	t.Helper()
	keys, err := r.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for i, k := range keys {
		all = append(all, string(k.Content))
		if i > 0 && slices.Compare(keys[i-1].ID[:], k.ID[:]) >= 0 {
			t.Error("the keys are not sorted")
		}
	}
	slices.Sort(all)
	return all
}

func TestKeys(t *testing.T) {
	r := newLocked(t, new(object.Memory), "a", "b")
	var want []string
	for i := range 40 { // so that some come before those of data, and some after
		text := fmt.Sprintf("key %02d", i)
		if _, err := r.AddKey(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
		want = append(want, text)
	}
	for range 3 {
		r.own = ownKey{} // as another process
		if _, err := r.packKey(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := contents(t, r); !slices.Equal(got, append([]string{"a", "b"}, want...)) {
		t.Errorf("the keys are %q", got)
	}
	if err := r.RemoveKey(t.Context(), NewID()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that is not there: %v", err)
	}
	keys, err := r.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range keys {
		if err := r.RemoveKey(t.Context(), k.ID); (err != nil) != (i == len(keys)-1) {
			t.Errorf("key %d of %d: %v", i, len(keys), err)
		}
	}
	if got := contents(t, r); len(got) != 1 {
		t.Errorf("left are %q", got)
	}
}

// slowDelete is a store in which all wait for each other before they delete.
type slowDelete struct {
	object.Store
	arrived *sync.WaitGroup
}

func (s slowDelete) Delete(ctx context.Context, name string) error {
	s.arrived.Done()
	s.arrived.Wait()
	return s.Store.Delete(ctx, name)
}

// However many remove keys at the same time, one is left.
func TestLastKeyStays(t *testing.T) {
	var arrived sync.WaitGroup
	r := newLocked(t, new(object.Memory), "a", "b", "c")
	keys, err := r.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	arrived.Add(len(keys))
	r.store = slowDelete{r.store, &arrived}
	var removing sync.WaitGroup
	for _, k := range keys {
		removing.Go(func() { _ = r.RemoveKey(t.Context(), k.ID) })
	}
	removing.Wait()
	if got := contents(t, r); len(got) == 0 {
		t.Error("no key is left")
	}
}

func TestNoKeysWithoutEncryption(t *testing.T) {
	c := newCluster(t, false)
	if _, err := c.repo.Keys(t.Context()); err == nil {
		t.Error("keys were listed")
	}
	if _, err := c.repo.AddKey(t.Context(), nil); err == nil {
		t.Error("a key was added")
	}
}

// Of many who make a repository in the same place one does, and its keys are those that are there.
func TestInitAtTheSameTime(t *testing.T) {
	store := new(object.Memory)
	made := make(chan string, 8)
	var working sync.WaitGroup
	for i := range cap(made) {
		working.Go(func() {
			private, err := seal.NewPrivateKey()
			if err != nil {
				t.Error(err)
				return
			}
			public, text := private.Public(), fmt.Sprint(i)
			if _, err := Init(t.Context(), store, InitOptions{PublicKey: &public, Keys: [][]byte{[]byte(text)}}); err == nil {
				made <- text
			}
		})
	}
	working.Wait()
	close(made)
	winner, ok := <-made
	if !ok {
		t.Fatal("none made it")
	}
	if other, ok := <-made; ok {
		t.Errorf("%s and %s made it", winner, other)
	}
	r, err := Open(t.Context(), store, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, r); !slices.Equal(got, []string{winner}) {
		t.Errorf("the keys are %q, want that of %s", got, winner)
	}
}

func TestInitWhereSomethingIs(t *testing.T) {
	for _, name := range []string{infoName, "main/1/backups/x/commit", "keys/00", "zzz"} {
		store := new(object.Memory)
		if err := store.Create(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := Init(t.Context(), store, InitOptions{}); (name == infoName) != errors.Is(err, fs.ErrExist) || err == nil {
			t.Errorf("where %s is: %v", name, err)
		}
	}
}

// TestInitBrokenOff has Init die at each operation. The next one makes the repository, finds it made, or says what to remove
// so that it can be.
func TestInitBrokenOff(t *testing.T) {
	private, err := seal.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	public := private.Public()
	o := InitOptions{PublicKey: &public, Keys: [][]byte{[]byte("a"), []byte("b")}}
	outcomes := make(map[string]int)
	for k := 1; ; k++ {
		store := new(object.Memory)
		if _, err := Init(t.Context(), object.CrashAt(store, k, object.After), o); err == nil {
			break
		}
		_, err := Init(t.Context(), store, o)
		switch names := leftKeys.FindAllString(usererr.Hint(err), -1); {
		case err == nil:
			outcomes["made"]++
		case errors.Is(err, fs.ErrExist):
			outcomes["there"]++
		case len(names) > 0:
			outcomes["said"]++
			for _, name := range names {
				if err := store.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Init(t.Context(), store, o); err != nil {
				t.Errorf("operation %d: when all was removed: %v", k, err)
			}
		default:
			t.Errorf("operation %d: %v", k, err)
		}
		r, err := Open(t.Context(), store, Options{PrivateKey: &private})
		if err != nil {
			t.Fatal(err)
		}
		if got := contents(t, r); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("operation %d: the keys are %q", k, got)
		}
	}
	if outcomes["made"] == 0 || outcomes["there"] == 0 || outcomes["said"] < 2 {
		t.Errorf("%v", outcomes)
	}
}

var leftKeys = regexp.MustCompile(`keys/[0-9a-f]{32}`)
