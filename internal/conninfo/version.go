package conninfo

import (
	"fmt"
	"strconv"
	"strings"
)

// ServerVersion returns the number that stands for a server's version text, as
// server_version_num has it: 180006 for "18.6", 90624 for "9.6.24". What
// follows the numbers, such as a distributor's name or "beta1", is ignored.
//
// Source: pqSaveParameterStatus in src/interfaces/libpq/fe-exec.c, PostgreSQL 18.
func ServerVersion(text string) (int, error) {
	var parts []int
	for rest, more := text, true; more && len(parts) < 3; {
		n := 0
		for n < len(rest) && '0' <= rest[n] && rest[n] <= '9' {
			n++
		}
		number, err := strconv.ParseUint(rest[:n], 10, 16)
		if err != nil {
			break
		}
		parts = append(parts, int(number))
		rest, more = strings.CutPrefix(rest[n:], ".")
	}
	switch {
	case len(parts) == 0:
		return 0, fmt.Errorf("server version \"%s\" is not a number", text)
	case parts[0] >= 10 && len(parts) == 1:
		return parts[0] * 10000, nil
	case parts[0] >= 10:
		return parts[0]*10000 + parts[1], nil
	}
	parts = append(parts, 0, 0)
	return (parts[0]*100+parts[1])*100 + parts[2], nil
}
