package pgdata

import "golang.org/x/sys/cpu"

// mixRowsAVX2 is mixRows for n rows, of which there is one at least.
//
//go:noescape
func mixRowsAVX2(sums *[lanes]uint32, rows *byte, n int)

// mixRows mixes rows, of which there is one at least, into the sums. The compiler makes no
// use of the registers that hold several of them: with these it takes a fifth of the time.
func mixRows(sums *[lanes]uint32, rows []byte) {
	if cpu.X86.HasAVX2 {
		mixRowsAVX2(sums, &rows[0], len(rows)/rowSize)
		return
	}
	mixRowsPlain(sums, rows)
}
