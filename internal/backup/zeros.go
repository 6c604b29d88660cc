package backup

import "io"

// Zeros is the reader of a member that is zeros and nothing else: who can makes room for them instead of writing them.
type Zeros struct {
	Left int64 // bytes that are yet to be read
}

// Read reads zeros.
func (z *Zeros) Read(p []byte) (int, error) {
	if z.Left <= 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.Left))
	clear(p[:n])
	z.Left -= int64(n)
	return n, nil
}
