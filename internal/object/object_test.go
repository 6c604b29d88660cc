package object_test

import (
	"testing"

	"basin/internal/object"
	"basin/internal/object/objecttest"
)

func TestMemory(t *testing.T) {
	objecttest.Run(t, func(*testing.T) object.Store { return new(object.Memory) })
}

func TestMemoryClone(t *testing.T) {
	first := new(object.Memory)
	if err := first.Create(t.Context(), "both", nil); err != nil {
		t.Fatal(err)
	}
	second := first.Clone()
	for store, name := range map[*object.Memory]string{first: "first", second: "second"} {
		if err := store.Create(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
		if got := objecttest.Names(t, store, "", ""); len(got) != 2 || got[0] != "both" || got[1] != name {
			t.Errorf("%s has %q", name, got)
		}
	}
}
