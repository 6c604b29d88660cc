package backup

import "io"

// Updater is a reader of a file that knows beforehand what its bytes are, so that of a file that is
// there already only what differs need be read from elsewhere and written.
type Updater interface {
	io.Reader
	// Update makes file what Read would have yielded, and as long. It returns how many bytes it
	// wrote. After an error the file is neither what it was nor what it was to be, and Update may
	// be called on it again by another reader. Read and Update exclude each other.
	Update(file Updated) (written int64, err error)
}

// Updated is a file that is there, such as an *os.File that is open for both.
type Updated interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
}
