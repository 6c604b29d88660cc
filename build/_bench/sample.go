package main

import (
	"bufio"
	"fmt"
	"io"
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
}

func (s sample) String() string {
	return fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%d\t%d",
		s.Case, s.Program, s.Wall.Microseconds(), s.CPU.Microseconds(), s.Largest, s.Sum, s.Output)
}

// parseSample reads what String wrote.
func parseSample(line string) (sample, error) {
	var s sample
	var wall, cpu int64
	fields := strings.Split(line, "\t")
	if len(fields) != 7 || fields[0] == "" || fields[1] != "stock" && fields[1] != "ours" {
		return s, fmt.Errorf("sample %q: not case, program and five numbers", line)
	}
	s.Case, s.Program = fields[0], fields[1]
	for i, number := range []*int64{&wall, &cpu, &s.Largest, &s.Sum, &s.Output} {
		if _, err := fmt.Sscanf(fields[2+i], "%d", number); err != nil || *number < 0 {
			return s, fmt.Errorf("sample %q: field %d is not a number", line, 3+i)
		}
	}
	s.Wall, s.CPU = time.Duration(wall)*time.Microsecond, time.Duration(cpu)*time.Microsecond
	return s, nil
}

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
