package main

import (
	"math"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		reason string
		all    []float64
		want   float64
	}{
		{"one", []float64{3}, 3},
		{"odd, in no order", []float64{9, 1, 4}, 4},
		{"even: between the middle two", []float64{8, 1, 2, 4}, 3},
		{"one run that was disturbed", []float64{1, 1, 50, 1, 1}, 1},
	} {
		if got := median(test.all); got != test.want {
			t.Errorf("%s: got %v, want %v", test.reason, got, test.want)
		}
	}
}

func TestInterval(t *testing.T) {
	upTo := func(n int) []float64 {
		all := make([]float64, n)
		for i := range all {
			all[i] = float64(n - i) // in no order that matters
		}
		return all
	}
	for _, test := range []struct {
		reason           string
		all              []float64
		low, high, level float64
	}{
		{"one is above or below, no one knows", []float64{3}, 3, 3, 0},
		{"two on the same side half of the time", upTo(2), 1, 2, 0.5},
		{"five are too few for the level: all of them, and what it is", upTo(5), 1, 5, 1 - 2.0/32},
		{"seven are just enough", upTo(7), 1, 7, 1 - 2.0/128},
		{"of nine one may be left out at each end", upTo(9), 2, 8, 1 - 2*10.0/512},
		{"of fourteen two", upTo(14), 3, 12, 1 - 2*106.0/16384},
		{"one run that was disturbed", []float64{1, 1, 50, 1, 1, 1, 1, 1, 1}, 1, 1, 1 - 2*10.0/512},
	} {
		low, high, level := interval(test.all)
		if low != test.low || high != test.high || math.Abs(level-test.level) > 1e-12 {
			t.Errorf("%s: got %v to %v with %v, want %v to %v with %v",
				test.reason, low, high, level, test.low, test.high, test.level)
		}
	}
}
