package object_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/object"
	"basin/internal/object/objecttest"
)

func TestRetryContract(t *testing.T) {
	objecttest.Run(t, func(*testing.T) object.Store { return object.Retry(new(object.Memory), object.RetryOptions{}) })
}

// Every second call fails, in each way, and nobody notices. Those of Create have
// a table of their own: a lost answer makes the same bytes of others ours.
func TestRetryContractWithFaults(t *testing.T) {
	for reason, fault := range map[string]object.Fault{"before": object.Before, "after": object.After, "half": object.Half} {
		t.Run(reason, func(t *testing.T) {
			objecttest.Run(t, func(*testing.T) object.Store {
				failing := &object.Failing{Store: new(object.Memory), Fail: func(_ context.Context, c object.Call) object.Fault {
					if c.Number%2 == 1 && c.Method != object.CallCreate {
						return fault
					}
					return object.None
				}}
				return object.Retry(failing, object.RetryOptions{Attempts: 50, Wait: time.Nanosecond, MaxWait: time.Nanosecond})
			})
		})
	}
}

// script returns the faults of the first calls.
func script(faults ...object.Fault) func(context.Context, object.Call) object.Fault {
	return func(_ context.Context, c object.Call) object.Fault {
		if c.Number > len(faults) {
			return object.None
		}
		return faults[c.Number-1]
	}
}

func TestRetryCreate(t *testing.T) {
	const none, before, after = object.None, object.Before, object.After
	for _, test := range []struct {
		reason string
		there  string // what is there at the start
		faults []object.Fault
		want   error
		calls  string
	}{
		{"at once", "", nil, nil, "create"},
		{"at the second attempt", "", []object.Fault{before}, nil, "create create"},
		{"lost answer", "", []object.Fault{after}, nil, "create create get"},
		{"lost answers", "", []object.Fault{after, none, before}, nil, "create create get get"},
		{"taken", "other", nil, fs.ErrExist, "create"},
		{"taken by the same", "mine", nil, fs.ErrExist, "create"}, // for which nobody has asked us before
		{"lost answer, taken by others", "other", []object.Fault{after}, fs.ErrExist, "create create get"},
		{"lost answer, taken by the same", "mine", []object.Fault{after}, nil, "create create get"},
		{"never", "", []object.Fault{before, before, before, before}, object.ErrFault, "create create create create"},
		{"lost to the end", "", []object.Fault{after, before, before, before}, object.ErrFault, "create create create create"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := new(object.Memory)
				if test.there != "" {
					if err := memory.Create(t.Context(), "name", []byte(test.there)); err != nil {
						t.Fatal(err)
					}
				}
				failing := &object.Failing{Store: memory, Fail: script(test.faults...)}
				err := object.Retry(failing, object.RetryOptions{Attempts: 4}).Create(t.Context(), "name", []byte("mine"))
				if !errors.Is(err, test.want) {
					t.Errorf("%v, want %v", err, test.want)
				}
				var calls []string
				for _, c := range failing.Calls() {
					calls = append(calls, c.Method)
				}
				if got := strings.Join(calls, " "); got != test.calls {
					t.Errorf("calls: %s; want %s", got, test.calls)
				}
			})
		})
	}
}

// TestRetryCreateFrom has the answer be lost to who makes an object of a file, which is compared with what is there.
func TestRetryCreateFrom(t *testing.T) {
	content := objecttest.Content(1, 33<<20) // so large that it is not read back at once
	other := bytes.Clone(content)
	other[len(other)-1]++
	for _, test := range []struct {
		reason string
		there  []byte // at the start
		want   error
	}{
		{"nothing is there", nil, nil},
		{"the same", content, nil},
		{"the last byte is another", other, fs.ErrExist},
		{"it is shorter", content[:len(content)-1], fs.ErrExist},
		{"it is much shorter", content[:1000], fs.ErrExist},
		{"it is longer", append(bytes.Clone(content), 0), fs.ErrExist},
	} {
		for _, size := range []int{len(content), 1 << 20} {
			synctest.Test(t, func(t *testing.T) {
				memory := new(object.Memory)
				if test.there != nil {
					if err := memory.Create(t.Context(), "name", test.there); err != nil {
						t.Fatal(err)
					}
				}
				want := test.want
				if test.there != nil && len(test.there) != size && size < len(content) { // its beginning alone is that
					want = fs.ErrExist
				}
				failing := &object.Failing{Store: memory, Fail: script(object.After)}
				err := object.CreateFrom(t.Context(), object.Retry(failing, object.RetryOptions{Attempts: 4}), "name", bytes.NewReader(content), int64(size))
				if !errors.Is(err, want) {
					t.Errorf("%s, %d bytes: %v, want %v", test.reason, size, err, want)
				}
			})
		}
	}
}

func TestRetryWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing := object.CrashAt(new(object.Memory), 1, object.Before)
		var waits []time.Duration
		began := time.Now()
		_, err := object.Retry(failing, object.RetryOptions{
			Attempts: 6, Wait: time.Second, MaxWait: 5 * time.Second,
			Tell: func(_ error, wait time.Duration) { waits = append(waits, wait) },
		}).Get(t.Context(), "x", 0, -1)
		if !errors.Is(err, object.ErrFault) || !strings.Contains(err.Error(), "after 6 attempts") {
			t.Error(err)
		}
		var all time.Duration
		most := []time.Duration{1, 2, 4, 5, 5}
		for i, wait := range waits {
			if most := most[i] * time.Second; wait < most/2 || wait > most {
				t.Errorf("wait %d: %v, want %v to %v", i, wait, most/2, most)
			}
			all += wait
		}
		if len(waits) != len(most) || time.Since(began) != all {
			t.Errorf("waited %v, in all %v", waits, time.Since(began))
		}
	})
}

// A store that does not answer is asked again after the timeout of an attempt.
func TestRetryTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := new(object.Memory)
		if err := memory.Create(t.Context(), "a", []byte("x")); err != nil {
			t.Fatal(err)
		}
		hangs := object.SlowBy(time.Hour)
		failing := &object.Failing{Store: memory, Fail: func(ctx context.Context, c object.Call) object.Fault {
			if c.Number%2 == 1 {
				return hangs(ctx, c)
			}
			return object.None
		}}
		s := object.Retry(failing, object.RetryOptions{Timeout: time.Minute})
		began := time.Now()
		if data, err := s.Get(t.Context(), "a", 0, -1); err != nil || !bytes.Equal(data, []byte("x")) {
			t.Errorf("get: %q, %v", data, err)
		}
		if got := objecttest.Names(t, s, "", ""); !slices.Equal(got, []string{"a"}) {
			t.Errorf("list: %q", got)
		}
		if took := time.Since(began); took < 2*time.Minute || took > 3*time.Minute {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Delete(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("delete: %v, want the deadline of who calls", err)
		}
	})
}

// The time that who reads a list takes is no matter of the store.
func TestRetryListSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := new(object.Memory)
		for _, name := range []string{"a", "b", "c"} {
			if err := memory.Create(t.Context(), name, nil); err != nil {
				t.Fatal(err)
			}
		}
		failing := &object.Failing{Store: memory}
		count := 0
		for _, err := range object.Retry(failing, object.RetryOptions{Timeout: time.Second}).List(t.Context(), "", "") {
			if err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Hour) // of fake time
			count++
		}
		if count != 3 || len(failing.Calls()) != 1 {
			t.Errorf("%d objects, %v", count, failing.Calls())
		}
	})
}

// Each list yields half of what is left before it fails: that is progress.
func TestRetryListGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := new(object.Memory)
		var want []string
		for name := range strings.SplitSeq("a b c d e f g h i j k l m n o p", " ") {
			want = append(want, name)
			if err := memory.Create(t.Context(), name, nil); err != nil {
				t.Fatal(err)
			}
		}
		failing := &object.Failing{Store: memory, Fail: script(object.Half, object.Half, object.Half, object.Half)}
		if got := objecttest.Names(t, object.Retry(failing, object.RetryOptions{Attempts: 2}), "", ""); !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
		failing = object.CrashAt(memory, 1, object.Half)
		var names []string
		var last error
		for info, err := range object.Retry(failing, object.RetryOptions{Attempts: 3}).List(t.Context(), "", "") {
			if err == nil {
				names = append(names, info.Name)
			}
			last = err
		}
		if !errors.Is(last, object.ErrFault) || !slices.Equal(names, want[:8]) {
			t.Errorf("%q, %v; want the first eight and %v", names, last, object.ErrFault)
		}
	})
}

func TestCrashAt(t *testing.T) {
	for _, test := range []struct {
		reason string
		fault  object.Fault
		want   []string
	}{
		{"before", object.Before, []string{"1"}},
		{"after", object.After, []string{"1", "2"}},
	} {
		memory := new(object.Memory)
		s := object.CrashAt(memory, 2, test.fault)
		for i, name := range []string{"1", "2", "3"} {
			if err := s.Create(t.Context(), name, nil); (err == nil) != (i == 0) || err != nil && (!errors.Is(err, object.ErrFault) || object.IsAnswer(err)) {
				t.Errorf("%s: create %s: %v", test.reason, name, err)
			}
		}
		if got := objecttest.Names(t, memory, "", ""); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.reason, got, test.want)
		}
		if got := s.Calls(); len(got) != 3 || got[2] != (object.Call{Number: 3, Method: object.CallCreate, Name: "3"}) {
			t.Errorf("%s: calls %v", test.reason, got)
		}
	}
}
