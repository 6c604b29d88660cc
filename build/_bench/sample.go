package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// sample is what one run of one program took.
type sample struct {
	Case    string        // a key of the table of cases
	Program string        // "stock" or "ours"
	Wall    time.Duration // from start to exit
	CPU     time.Duration // user and system, of the process and all it waited for
	Largest int64         // bytes, peak resident memory of its largest process
	Sum     int64         // bytes, sum of the peaks of all its processes
	Output  int64         // bytes in the files it made
	Load    load          // what went on beside it; zero if nothing did
}

func (s sample) String() string {
	line := fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%d\t%d",
		s.Case, s.Program, s.Wall.Microseconds(), s.CPU.Microseconds(), s.Largest, s.Sum, s.Output)
	if s.Load != (load{}) {
		line += "\t" + s.Load.String()
	}
	return line
}

// parseSample reads what String wrote.
func parseSample(line string) (sample, error) {
	var s sample
	fields := strings.Split(line, "\t")
	if len(fields) < 7 || fields[0] == "" || fields[1] != "stock" && fields[1] != "ours" {
		return s, fmt.Errorf("sample %q: not case, program and five numbers", line)
	}
	s.Case, s.Program = fields[0], fields[1]
	numbers, err := parseNumbers(fields[2:7])
	if err != nil {
		return s, fmt.Errorf("sample %q: %w", line, err)
	}
	s.Wall, s.CPU = microseconds(numbers[0]), microseconds(numbers[1])
	s.Largest, s.Sum, s.Output = numbers[2], numbers[3], numbers[4]
	if len(fields) > 7 {
		if s.Load, err = parseLoad(fields[7:]); err != nil {
			return s, fmt.Errorf("sample %q: %w", line, err)
		}
	}
	return s, nil
}

// parseNumbers reads counts, which are not negative.
func parseNumbers(fields []string) ([]int64, error) {
	numbers := make([]int64, len(fields))
	for i, field := range fields {
		n, err := strconv.ParseUint(field, 10, 63)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number", field)
		}
		numbers[i] = int64(n)
	}
	return numbers, nil
}

func microseconds(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// readSamples reads samples, one a line, in the order in which they were taken.
func readSamples(r io.Reader) ([]sample, error) {
	var all []sample
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		s, err := parseSample(lines.Text())
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, lines.Err()
}
