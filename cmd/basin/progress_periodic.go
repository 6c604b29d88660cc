package main

import "time"

// periodicProgress prints a line that says how far something is, once a second.
type periodicProgress struct {
	out  *report
	text func() string
}

// during does something, and if wanted tells meanwhile how far that is.
func (p periodicProgress) during(wanted bool, do func() error) error {
	if !wanted {
		return do()
	}
	p.print(false)
	ended, printed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(printed)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.print(false)
			case <-ended:
				return
			}
		}
	}()
	err := do()
	close(ended)
	<-printed
	p.print(true)
	return err
}

func (p periodicProgress) print(isLast bool) {
	text := p.text()
	if !p.out.isTerminal() {
		p.out.print(text + "\n")
		return
	}
	p.out.setStatus(text)
	if isLast {
		p.out.endStatus()
	}
}
