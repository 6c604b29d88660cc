package main

import (
	"math"
	"slices"
)

// confidence is what an interval is to have, if there are pairs enough.
const confidence = 0.95

// median returns the middle of at least one number, of an even count the mean of two.
func median(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	half := len(all) / 2
	if len(all)%2 == 1 {
		return all[half]
	}
	return (all[half-1] + all[half]) / 2
}

// interval returns numbers of a sample, at least one, between which the median of what
// it was drawn from lies, and with what probability.
//
// It supposes nothing of how that is distributed: a number is as likely below the
// median as above it, so that how many are below is as with coins. From both ends as
// many numbers are left out as the confidence allows; if it does not even allow the
// smallest and the largest to be the bounds, they are.
func interval(all []float64) (low, high, level float64) {
	all = slices.Sorted(slices.Values(all))
	n := len(all)
	chance := math.Ldexp(1, -n) // that just so many are below the median as are left out
	beyond := 0.0               // that not more are
	for out := 0; out == 0 || 2*out+1 < n; out++ {
		beyond += chance
		if out > 0 && 1-2*beyond < confidence {
			break
		}
		low, high, level = all[out], all[n-1-out], 1-2*beyond
		chance *= float64(n-out) / float64(out+1)
	}
	return low, high, level
}
