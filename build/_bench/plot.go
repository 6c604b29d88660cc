package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Sizes of the picture, in its own units.
const (
	plotName  = 110 // width of the names
	plotWidth = 520 // of the bars
	plotRow   = 34
	plotTop   = 44
)

// runPlot prints a picture of samples from the standard input, for a file of cases.
func runPlot(args []string) error {
	cases, samples, err := readInput(args)
	if err != nil {
		return err
	}
	_, err = io.WriteString(os.Stdout, plot(cases, samples))
	return err
}

// plot draws a bar for each case that has pairs: the median of their ratios, with a line from the
// least to the most, and a mark at the target. It is SVG that is legible on white and on black.
func plot(cases []benchCase, samples []sample) string {
	byCase := make(map[string][]sample)
	for _, s := range samples {
		byCase[s.Case] = append(byCase[s.Case], s)
	}
	type bar struct {
		benchCase
		ratios []float64
	}
	var bars []bar
	scale := 1.25
	for _, c := range cases {
		stock, ours := split(byCase[c.Name])
		b := bar{benchCase: c}
		for i := range min(len(stock), len(ours)) {
			b.ratios = append(b.ratios, float64(ours[i].Wall)/float64(stock[i].Wall))
		}
		if len(b.ratios) > 0 {
			bars = append(bars, b)
			scale = max(scale, slices.Max(b.ratios)*1.1)
		}
	}
	x := func(ratio float64) float64 { return plotName + ratio/scale*plotWidth }
	height := plotTop + plotRow*len(bars) + 24
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotName+plotWidth+70, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fff"/>`+"\n")
	fmt.Fprintf(&b, `<text x="8" y="20" font-weight="bold">Time of basin to that of pgBackRest: shorter is better</text>`+"\n")
	for i, one := range bars {
		y, ratio := plotTop+i*plotRow, median(one.ratios)
		fill := "#2a7f62"
		if hundredths(ratio) > hundredths(one.Target) {
			fill = "#b5651d"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotName-8, y+17, one.Name)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="22" fill="%s"/>`+"\n", plotName, y, x(ratio)-plotName, fill)
		fmt.Fprintf(&b, `<path d="M%.1f %dH%.1f" stroke="#222" stroke-width="2"/>`+"\n", x(slices.Min(one.ratios)), y+11, x(slices.Max(one.ratios)))
		fmt.Fprintf(&b, `<path d="M%.1f %dv28" stroke="#c00" stroke-width="2"/>`+"\n", x(one.Target), y-3)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%.2f</text>`+"\n", max(x(slices.Max(one.ratios)), x(one.Target))+8, y+17, ratio)
	}
	fmt.Fprintf(&b, `<path d="M%.1f %dV%d" stroke="#888" stroke-dasharray="4 3"/>`+"\n", x(1), plotTop-8, height-20)
	fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555">pgBackRest</text>`+"\n", x(1), height-6)
	fmt.Fprintf(&b, `<text x="8" y="%d" fill="#c00">| target</text>`+"\n</svg>\n", height-6)
	return b.String()
}
