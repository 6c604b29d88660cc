package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// logCase is a line of the table of cases of bench-log.sh: what is compared, the name,
// the target and the bytes of log, apart by tabs.
//
// The name of a case in the samples is KIND-NAME. Of bulk the target is the part of
// stock's rate of receiving that ours has to have at least, of load the same for the
// rate of transactions beside it, and of commit the part of stock's time of a commit
// that ours may take. Zero is no target.
type logCase struct {
	Kind   string
	Name   string
	Target float64
	Log    int64
}

func readLogCases(r io.Reader) ([]logCase, error) {
	var cases []logCase
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var c logCase
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) != 4 || !slices.Contains([]string{"bulk", "load", "commit"}, fields[0]) {
			return nil, fmt.Errorf("case %q: not bulk, load or commit, name, target and bytes", lines.Text())
		}
		c.Kind, c.Name = fields[0], fields[1]
		if _, err := fmt.Sscan(fields[2]+" "+fields[3], &c.Target, &c.Log); err != nil {
			return nil, fmt.Errorf("case %s-%s: %w", c.Kind, c.Name, err)
		}
		cases = append(cases, c)
	}
	return cases, lines.Err()
}

// runLogReport prints the report on receivers of the log, of samples from the standard input.
func runLogReport(args []string) error {
	flags := flag.NewFlagSet("log", flag.ContinueOnError)
	memory := flags.Float64("memory", 0, "MiB that ours may need")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || *memory <= 0 {
		return errors.New("log: want -memory and the file of cases")
	}
	file, err := os.Open(flags.Arg(0))
	if err != nil {
		return err
	}
	defer file.Close()
	cases, err := readLogCases(file)
	if err != nil {
		return err
	}
	samples, err := readSamples(os.Stdin)
	if err != nil {
		return err
	}
	_, err = io.WriteString(os.Stdout, logReport(cases, samples, *memory))
	return err
}

// compared is a case that has samples of both programs, the ith of the one beside the
// ith of the other.
type compared struct {
	logCase
	stock, ours []sample
}

// logReport returns the tables of what has samples, in Markdown.
func logReport(cases []logCase, samples []sample, memoryTarget float64) string {
	byKind := make(map[string][]compared)
	var all []compared
	for _, c := range cases {
		var of []sample
		for _, s := range samples {
			if s.Case == c.Kind+"-"+c.Name {
				of = append(of, s)
			}
		}
		stock, ours := split(of)
		if n := min(len(stock), len(ours)); n > 0 {
			pair := compared{c, stock[:n], ours[:n]}
			byKind[c.Kind] = append(byKind[c.Kind], pair)
			all = append(all, pair)
		}
	}
	var parts []string
	for _, part := range []struct {
		of    []compared
		title string
		write func([]compared) ([][]string, string)
	}{
		{byKind["bulk"], "Catching up", reportBulk},
		{byKind["load"], "Beside a load", reportLoads},
		{byKind["commit"], "Commits that wait for the receiver", reportCommits},
		{all, "Memory", func(all []compared) ([][]string, string) { return reportReceivers(all, memoryTarget) }},
	} {
		if len(part.of) > 0 {
			table, findings := part.write(part.of)
			parts = append(parts, "## "+part.title+"\n\n"+markdown(table)+"\n"+findings)
		}
	}
	return strings.Join(parts, "\n")
}

// reportBulk is about the rate of receiving.
func reportBulk(cases []compared) ([][]string, string) {
	table := [][]string{{"case", "pairs", "log", "stock", "basin", "ratio", "target", "CPU stock", "CPU basin", "output stock", "output basin"}}
	var findings strings.Builder
	for _, c := range cases {
		rate := func(s sample) float64 { return float64(c.Log) / s.Wall.Seconds() }
		ratio := c.ratio(rate)
		table = append(table, []string{c.Name, c.pairs(), megabytes(float64(c.Log)),
			megabytes(medianOf(c.stock, rate)) + "/s", megabytes(medianOf(c.ours, rate)) + "/s",
			ratio.String(), target("≥", c.Target),
			seconds(medianOf(c.stock, cpu)), seconds(medianOf(c.ours, cpu)),
			megabytes(medianOf(c.stock, output)), megabytes(medianOf(c.ours, output))})
		if c.Target > 0 {
			fmt.Fprintf(&findings, "- **%s** receives at %.2f of stock's rate, at least %.2f: %s.\n",
				c.Name, ratio.median, ratio.low, judgeAtLeast(ratio.low, c.Target))
		}
	}
	return table, findings.String()
}

// reportLoads is about the rate of transactions while a receiver follows.
func reportLoads(cases []compared) ([][]string, string) {
	table := [][]string{{"case", "pairs", "log", "transactions stock", "transactions basin", "ratio", "target",
		"behind stock", "behind basin", "CPU stock", "CPU basin"}}
	var findings strings.Builder
	for _, c := range cases {
		rate := func(s sample) float64 { return s.Load.rate() }
		behind := func(s sample) float64 { return s.Load.Behind.Seconds() }
		written := func(s sample) float64 { return float64(s.Load.Log) }
		ratio := c.ratio(rate)
		table = append(table, []string{c.Name, c.pairs(), megabytes(medianOf(slices.Concat(c.stock, c.ours), written)),
			fmt.Sprintf("%.0f/s", medianOf(c.stock, rate)), fmt.Sprintf("%.0f/s", medianOf(c.ours, rate)),
			ratio.String(), target("≥", c.Target),
			seconds(medianOf(c.stock, behind)), seconds(medianOf(c.ours, behind)),
			seconds(medianOf(c.stock, cpu)), seconds(medianOf(c.ours, cpu))})
		fmt.Fprintf(&findings, "- **%s** leaves its load %.2f of the rate that stock's has, at least %.2f: %s.\n",
			c.Name, ratio.median, ratio.low, judgeAtLeast(ratio.low, c.Target))
	}
	return table, findings.String()
}

// reportCommits is about the time of a commit that waits for the receiver.
func reportCommits(cases []compared) ([][]string, string) {
	table := [][]string{{"case", "pairs", "p50 stock", "p50 basin", "ratio", "p99 stock", "p99 basin", "ratio", "target",
		"commits stock", "commits basin"}}
	var findings strings.Builder
	for _, c := range cases {
		p50 := func(s sample) float64 { return s.Load.Median.Seconds() }
		p99 := func(s sample) float64 { return s.Load.P99.Seconds() }
		rate := func(s sample) float64 { return s.Load.rate() }
		half, most := c.ratio(p50), c.ratio(p99)
		table = append(table, []string{c.Name, c.pairs(),
			milliseconds(medianOf(c.stock, p50)), milliseconds(medianOf(c.ours, p50)), half.String(),
			milliseconds(medianOf(c.stock, p99)), milliseconds(medianOf(c.ours, p99)), most.String(),
			target("≤", c.Target),
			fmt.Sprintf("%.0f/s", medianOf(c.stock, rate)), fmt.Sprintf("%.0f/s", medianOf(c.ours, rate))})
		for _, of := range []struct {
			name string
			ratio
		}{{"p50", half}, {"p99", most}} {
			fmt.Fprintf(&findings, "- **%s, %s** takes %.2f of stock's time, at most %.2f: %s.\n",
				c.Name, of.name, of.median, of.high, judge(of.high, c.Target))
		}
	}
	return table, findings.String()
}

// reportReceivers is about the memory of all of them. The target is in MiB.
func reportReceivers(cases []compared, most float64) ([][]string, string) {
	table := [][]string{{"case", "stock", "basin", "target"}}
	peak := func(samples []sample) float64 {
		var peak int64
		for _, s := range samples {
			peak = max(peak, s.Largest)
		}
		return float64(peak) / (1 << 20)
	}
	var missed []string
	for _, c := range cases {
		name, ours := c.Kind+", "+c.Name, peak(c.ours)
		table = append(table, []string{name, fmt.Sprintf("%.1f MiB", peak(c.stock)), fmt.Sprintf("%.1f MiB", ours), fmt.Sprintf("≤ %.0f MiB", most)})
		if ours > most {
			missed = append(missed, fmt.Sprintf("- **%s** needs %.1f MiB: the target of %.0f MiB is missed by %.0f %%.\n", name, ours, most, (ours/most-1)*100))
		}
	}
	if len(missed) == 0 {
		return table, fmt.Sprintf("- The target of %.0f MiB is met in each case.\n", most)
	}
	return table, strings.Join(missed, "")
}

// pairs says how many there are, and how sure that makes an interval.
func (c compared) pairs() string {
	_, _, level := interval(make([]float64, len(c.ours)))
	return fmt.Sprintf("%d (%.1f %%)", len(c.ours), level*100)
}

// ratio is that of ours to stock's in pairs, and the bounds of its interval.
type ratio struct{ median, low, high float64 }

func (c compared) ratio(of func(sample) float64) ratio {
	ratios := make([]float64, len(c.ours))
	for i := range ratios {
		ratios[i] = of(c.ours[i]) / of(c.stock[i])
	}
	low, high, _ := interval(ratios)
	return ratio{median(ratios), low, high}
}

func (r ratio) String() string { return fmt.Sprintf("%.2f (%.2f–%.2f)", r.median, r.low, r.high) }

func target(sign string, target float64) string {
	if target == 0 {
		return "–"
	}
	return fmt.Sprintf("%s %.2f", sign, target)
}

// judgeAtLeast compares a ratio with the least that it should be, as both are printed.
func judgeAtLeast(ratio, target float64) string {
	ratio, target = hundredths(ratio), hundredths(target)
	if ratio >= target {
		return fmt.Sprintf("the target of %.2f is met", target)
	}
	return fmt.Sprintf("the target of %.2f is missed by %.0f %%", target, (1-ratio/target)*100)
}

func milliseconds(s float64) string { return fmt.Sprintf("%.2f ms", s*1e3) }
