package pgdata

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"basin/internal/wal"
)

// LabelPath is where the backup label is, below a data directory: it tells a server that
// starts there from where on it needs the log.
const LabelPath = "backup_label"

// MaxLabelSize is how many bytes a backup label has at most; real ones have far fewer.
//
// Source: check_backup_label_files in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
const MaxLabelSize = 10000 + 1024

// Label is what a backup label says.
type Label struct {
	Start wal.Position
	// Previous is where the backup begins that this one, an incremental one, is to be laid
	// over. It is zero for a full one.
	Previous wal.Position
}

// The lines of a backup label that are read.
const (
	startLine            = "START WAL LOCATION"
	timelineLine         = "START TIMELINE"
	previousLine         = "INCREMENTAL FROM LSN"
	previousTimelineLine = "INCREMENTAL FROM TLI"
)

// ParseLabel reads a backup label, of which name is what errors call it. Lines that it does
// not know are passed over.
//
// Source: parse_backup_label in src/bin/pg_combinebackup/backup_label.c, PostgreSQL 18.
func ParseLabel(content []byte, name string) (Label, error) {
	p := labelParser{name: name, given: make(map[string]bool)}
	for line := range bytes.Lines(content) {
		key, value, ok := strings.Cut(string(line), ": ")
		if !ok || p.err != nil {
			continue
		}
		switch key {
		case startLine:
			p.lsn(key, value, " ", &p.label.Start.LSN)
		case timelineLine:
			p.timeline(key, value, &p.label.Start.Timeline)
		case previousLine:
			p.lsn(key, value, "\n", &p.label.Previous.LSN)
		case previousTimelineLine:
			p.timeline(key, value, &p.label.Previous.Timeline)
		}
	}
	switch {
	case p.err != nil:
		return Label{}, p.err
	case !p.given[startLine]:
		return Label{}, fmt.Errorf("%s: could not find %s", name, startLine)
	case !p.given[timelineLine]:
		return Label{}, fmt.Errorf("%s: could not find %s", name, timelineLine)
	case p.given[previousLine] && !p.given[previousTimelineLine]:
		return Label{}, fmt.Errorf("%s: %s requires %s", name, previousLine, previousTimelineLine)
	case p.given[previousTimelineLine] && !p.given[previousLine]:
		return Label{}, fmt.Errorf("%s: %s requires %s", name, previousTimelineLine, previousLine)
	}
	return p.label, nil
}

// LabelLine returns what a line of a backup label says that ParseLabel does not read, such as LABEL, which the
// backup is called, and START TIME, in the zone of the server's log. Without such a line it is empty.
func LabelLine(content []byte, key string) string {
	for line := range bytes.Lines(content) {
		if value, ok := strings.CutPrefix(string(line), key+": "); ok {
			return strings.TrimSuffix(value, "\n")
		}
	}
	return ""
}

type labelParser struct {
	name  string
	label Label
	given map[string]bool
	err   error
}

// lsn reads a position in the log that ends with end.
func (p *labelParser) lsn(key, value, end string, field *wal.LSN) {
	text := value
	if i := strings.IndexAny(value, " \n"); i >= 0 {
		text = value[:i]
	}
	lsn, err := wal.ParseLSN(text)
	switch {
	case err != nil:
		p.err = fmt.Errorf("%s: could not parse %s", p.name, key)
	case !strings.HasPrefix(value[len(text):], end):
		p.err = fmt.Errorf("%s: improper terminator for %s", p.name, key)
	}
	*field = lsn
	p.given[key] = true
}

// timeline reads a timeline, which ends its line.
func (p *labelParser) timeline(key, value string, field *wal.Timeline) {
	text, ended := strings.CutSuffix(value, "\n")
	n, err := strconv.ParseUint(text, 10, 32)
	switch {
	case err != nil || !ended:
		p.err = fmt.Errorf("%s: could not parse TLI for %s", p.name, key)
	case n == 0:
		p.err = fmt.Errorf("%s: invalid TLI", p.name)
	}
	*field = wal.Timeline(n)
	p.given[key] = true
}

// LabelOfFull returns the backup label of a full backup that an incremental one was laid
// over another for: without the lines that make it an incremental one.
//
// Source: write_backup_label in src/bin/pg_combinebackup/backup_label.c, PostgreSQL 18.
func LabelOfFull(content []byte) []byte {
	var full []byte
	for line := range bytes.Lines(content) {
		if !bytes.HasPrefix(line, []byte(previousLine+": ")) && !bytes.HasPrefix(line, []byte(previousTimelineLine+": ")) {
			full = append(full, line...)
		}
	}
	return full
}
