package backup

import (
	"sync/atomic"
)

// Progress counts what a copy has done. It may be read at any time from any goroutine.
type Progress struct {
	Done       atomic.Int64 // bytes of the backup, as the source counts them
	Total      atomic.Int64 // estimate in bytes; zero if not known
	Tablespace atomic.Int32 // archives finished, the main directory among them
	Count      atomic.Int32 // archives there are
	path       atomic.Pointer[string]
}

// Path returns the path of the member in hand, or an empty string.
func (p *Progress) Path() string {
	if s := p.path.Load(); s != nil {
		return *s
	}
	return ""
}

// SetPath says which member is in hand.
func (p *Progress) SetPath(s string) { p.path.Store(&s) }
