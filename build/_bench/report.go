package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// benchCase is a line of the table of cases: its name, its target and its options,
// apart by tabs.
//
// A case beside the stock program is named for itself, and its target is a ratio: ours
// may take that much of stock's time. Two cases NAME@SIZE and NAME@10xSIZE, in this
// order, are a case of memory, and the target is the ratio of the second to the first.
type benchCase struct {
	Name    string
	Target  float64
	Options string
}

func readCases(r io.Reader) ([]benchCase, error) {
	var cases []benchCase
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) != 3 {
			return nil, fmt.Errorf("case %q: not name, target and options", lines.Text())
		}
		target, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return nil, fmt.Errorf("case %q: target: %w", fields[0], err)
		}
		cases = append(cases, benchCase{fields[0], target, fields[2]})
	}
	return cases, lines.Err()
}

// runReport prints the report on samples from the standard input.
func runReport(args []string) error {
	cases, samples, err := readInput(args)
	if err != nil {
		return err
	}
	return report(os.Stdout, cases, samples)
}

// readInput reads the cases of the file that is the only argument, and samples from the standard input.
func readInput(args []string) ([]benchCase, []sample, error) {
	if len(args) != 1 {
		return nil, nil, fmt.Errorf("%d arguments, want the file of cases", len(args))
	}
	file, err := os.Open(args[0])
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	cases, err := readCases(file)
	if err != nil {
		return nil, nil, err
	}
	samples, err := readSamples(os.Stdin)
	return cases, samples, err
}

// report writes the tables of what has samples, in Markdown.
func report(w io.Writer, cases []benchCase, samples []sample) error {
	byCase := make(map[string][]sample)
	for _, s := range samples {
		byCase[s.Case] = append(byCase[s.Case], s)
	}
	var parts []string
	for _, part := range []string{reportSpeed(cases, byCase), reportMemory(cases, byCase)} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	_, err := io.WriteString(w, strings.Join(parts, "\n"))
	return err
}

// reportSpeed is about the cases beside the stock program.
func reportSpeed(cases []benchCase, samples map[string][]sample) string {
	table := [][]string{{"case", "stock", "basin", "ratio", "target", "CPU stock", "CPU basin",
		"memory stock", "memory basin", "output stock", "output basin"}}
	var findings strings.Builder
	for _, c := range cases {
		stock, ours := split(samples[c.Name])
		pairs := min(len(stock), len(ours))
		if pairs == 0 {
			continue
		}
		ratios := make([]float64, pairs)
		for i := range ratios {
			ratios[i] = float64(ours[i].Wall) / float64(stock[i].Wall)
		}
		ratio := median(ratios)
		table = append(table, []string{c.Name,
			seconds(medianOf(stock, wall)), seconds(medianOf(ours, wall)),
			fmt.Sprintf("%.2f (%.2f–%.2f)", ratio, slices.Min(ratios), slices.Max(ratios)),
			fmt.Sprintf("≤ %.2f", c.Target),
			seconds(medianOf(stock, cpu)), seconds(medianOf(ours, cpu)),
			memory(stock), memory(ours),
			megabytes(medianOf(stock, output)), megabytes(medianOf(ours, output))})
		fmt.Fprintf(&findings, "- **%s** takes %.2f of stock's time: %s.\n", c.Name, ratio, judge(ratio, c.Target))
	}
	if len(table) == 1 {
		return ""
	}
	return "## Time\n\n" + markdown(table) + "\n" + findings.String()
}

// reportMemory is about the cases of memory.
func reportMemory(cases []benchCase, samples map[string][]sample) string {
	table := [][]string{{"case", "cluster", "memory", "10 times the cluster", "memory", "ratio", "target"}}
	var findings strings.Builder
	for i, c := range cases {
		if i+1 == len(cases) {
			break
		}
		name, size, _ := strings.Cut(c.Name, "@")
		large, largeSize, _ := strings.Cut(cases[i+1].Name, "@")
		_, at := split(samples[c.Name])
		_, tenfold := split(samples[cases[i+1].Name])
		if name != large || len(at) == 0 || len(tenfold) == 0 {
			continue
		}
		ratio := medianOf(tenfold, largest) / medianOf(at, largest)
		table = append(table, []string{name, size, memory(at), largeSize, memory(tenfold),
			fmt.Sprintf("%.2f", ratio), fmt.Sprintf("≤ %.2f", c.Target)})
		fmt.Fprintf(&findings, "- **%s** needs %.2f of its memory at ten times the size: %s.\n", name, ratio, judge(ratio, c.Target))
	}
	if len(table) == 1 {
		return ""
	}
	return "## Memory\n\n" + markdown(table) + "\n" + findings.String()
}

// judge compares a ratio with its target as both are printed.
func judge(ratio, target float64) string {
	ratio, target = hundredths(ratio), hundredths(target)
	if ratio <= target {
		return fmt.Sprintf("the target of %.2f is met", target)
	}
	return fmt.Sprintf("the target of %.2f is missed by %.0f %%", target, (ratio/target-1)*100)
}

func hundredths(x float64) float64 {
	return float64(int64(x*100+0.5)) / 100
}

func split(samples []sample) (stock, ours []sample) {
	for _, s := range samples {
		if s.Program == "stock" {
			stock = append(stock, s)
		} else {
			ours = append(ours, s)
		}
	}
	return stock, ours
}

func wall(s sample) float64    { return s.Wall.Seconds() }
func cpu(s sample) float64     { return s.CPU.Seconds() }
func largest(s sample) float64 { return float64(s.Largest) }
func sum(s sample) float64     { return float64(s.Sum) }
func output(s sample) float64  { return float64(s.Output) }

func medianOf(samples []sample, of func(sample) float64) float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, of(s))
	}
	return median(all)
}

func seconds(s float64) string {
	return fmt.Sprintf("%.2f s", time.Duration(s*float64(time.Second)).Seconds())
}

func megabytes(bytes float64) string {
	return fmt.Sprintf("%.0f MB", bytes/1e6)
}

// memory is the peak of the largest process and, where there are several, of all.
func memory(samples []sample) string {
	one, all := medianOf(samples, largest), medianOf(samples, sum)
	if one == all {
		return fmt.Sprintf("%.1f MB", one/1e6)
	}
	return fmt.Sprintf("%.1f (all: %.1f) MB", one/1e6, all/1e6)
}

// markdown aligns a table, its first row the heads and its first column the names.
func markdown(rows [][]string) string {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell), 3)
		}
	}
	rule := make([]string, len(width))
	for i, n := range width {
		rule[i] = strings.Repeat("-", n-1) + ":"
	}
	rule[0] = strings.Repeat("-", width[0])
	var b strings.Builder
	for i, row := range rows {
		writeRow(&b, row, width)
		if i == 0 {
			writeRow(&b, rule, width)
		}
	}
	return b.String()
}

func writeRow(b *strings.Builder, row []string, width []int) {
	for i, cell := range row {
		fill := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
		if i == 0 {
			fmt.Fprintf(b, "| %s%s |", cell, fill)
		} else {
			fmt.Fprintf(b, " %s%s |", fill, cell)
		}
	}
	b.WriteByte('\n')
}
