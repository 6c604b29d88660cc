package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// axis is something about a backup that can be chosen, and what can be chosen.
type axis struct {
	name   string
	values []string
}

// choice is one value for each axis, by its number; unset is none yet.
type choice []int

const unset = -1

// pairs returns choices that hold, between them, every pair of values of two
// axes that can occur together. rule is false for a choice that is impossible; it
// is also asked about choices that are not complete, and has to be sure.
//
// It is greedy: of many random completions of a pair that is missing, it takes
// the one with the most pairs that are. The same question has the same answer.
func pairs(axes []axis, rule func(choice) bool) []choice {
	random := rand.New(rand.NewPCG(20, 26))
	missing := make(map[[4]int]bool)
	for i, a := range axes {
		for j, b := range axes[:i] {
			for v := range a.values {
				for w := range b.values {
					missing[[4]int{j, w, i, v}] = true
				}
			}
		}
	}
	var chosen []choice
	for _, pair := range sortedPairs(missing) {
		if !missing[pair] {
			continue
		}
		var best choice
		most := 0
		for range 60 {
			c := slices.Repeat(choice{unset}, len(axes))
			c[pair[0]], c[pair[2]] = pair[1], pair[3]
			if !complete(c, axes, rule, random) {
				break // which no completion can mend
			}
			if n := countMissing(c, missing); n > most {
				best, most = c, n
			}
		}
		delete(missing, pair)
		if best == nil {
			continue
		}
		chosen = append(chosen, best)
		for i := range best {
			for j := range i {
				delete(missing, [4]int{j, best[j], i, best[i]})
			}
		}
	}
	return chosen
}

func sortedPairs(set map[[4]int]bool) [][4]int {
	var list [][4]int
	for pair := range set {
		list = append(list, pair)
	}
	slices.SortFunc(list, func(a, b [4]int) int { return slices.Compare(a[:], b[:]) })
	return list
}

// complete sets what is unset in c, at random, and tells whether the rule allows that.
func complete(c choice, axes []axis, rule func(choice) bool, random *rand.Rand) bool {
	if !rule(c) {
		return false
	}
	next := slices.Index(c, unset)
	if next < 0 {
		return true
	}
	for _, value := range random.Perm(len(axes[next].values)) {
		c[next] = value
		if complete(c, axes, rule, random) {
			return true
		}
	}
	c[next] = unset
	return false
}

func countMissing(c choice, missing map[[4]int]bool) (n int) {
	for i := range c {
		for j := range i {
			if missing[[4]int{j, c[j], i, c[i]}] {
				n++
			}
		}
	}
	return n
}

// every returns each possible choice along the given axes. On the others it has
// what chance says.
func every(axes []axis, rule func(choice) bool, along ...string) []choice {
	var all []choice
	turn := uint64(0)
	var walk func(c choice, rest []string)
	walk = func(c choice, rest []string) {
		if !rule(c) {
			return
		}
		if len(rest) == 0 {
			turn++
			if complete(c, axes, rule, rand.New(rand.NewPCG(20, turn))) {
				all = append(all, c)
			}
			return
		}
		next := slices.IndexFunc(axes, func(a axis) bool { return a.name == rest[0] })
		for value := range axes[next].values {
			with := slices.Clone(c)
			with[next] = value
			walk(with, rest[1:])
		}
	}
	walk(slices.Repeat(choice{unset}, len(axes)), along)
	return all
}

func TestPairs(t *testing.T) {
	axes := []axis{
		{"a", []string{"0", "1", "2"}},
		{"b", []string{"0", "1"}},
		{"c", []string{"0", "1", "2", "3"}},
		{"d", []string{"0", "1"}},
	}
	rule := func(c choice) bool {
		return !(c[0] == 2 && c[1] == 1) && !(c[1] == 0 && c[2] == 3) // so 2 of a never goes with 3 of c
	}
	got := pairs(axes, rule)
	if len(got) > 16 {
		t.Errorf("%d choices for what 12 can do", len(got))
	}
	seen := make(map[string]bool)
	for _, c := range got {
		if slices.Contains(c, unset) || !rule(c) {
			t.Errorf("impossible choice %v", c)
		}
		for i := range c {
			for j := range i {
				seen[fmt.Sprintf("%s%d %s%d", axes[j].name, c[j], axes[i].name, c[i])] = true
			}
		}
	}
	impossible := strings.Fields("b0c3 a2b1 a2c3")
	for i, a := range axes {
		for _, b := range axes[:i] {
			for v := range a.values {
				for w := range b.values {
					pair := fmt.Sprintf("%s%d %s%d", b.name, w, a.name, v)
					possible := !slices.Contains(impossible, strings.ReplaceAll(pair, " ", ""))
					if seen[pair] != possible {
						t.Errorf("pair %s: covered %v, possible %v", pair, seen[pair], possible)
					}
				}
			}
		}
	}
	if n := len(every(axes, rule, "a", "b", "c")); n != 3*2*4-4-3 {
		t.Errorf("%d choices along a, b and c", n)
	}
}
