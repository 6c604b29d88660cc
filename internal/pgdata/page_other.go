//go:build !amd64

package pgdata

// mixRows mixes rows, of which there is one at least, into the sums.
func mixRows(sums *[lanes]uint32, rows []byte) { mixRowsPlain(sums, rows) }
