package protocol

import (
	"strings"

	"basin/internal/wal"
)

// Majors that the grammar is known of. Others are taken for the nearest.
const (
	oldestMajor = 10
	newestMajor = 18
)

// ParseCommand reads the text of a simple query on a replication connection as a
// server of the given major version does. What does not begin with the first
// word of a replication command is SQL, which is no error here; an error is a
// CommandError, in the words of that server. Options are checked as the server
// checks them before it does anything, but for what depends on its state, such as
// whether it can make an incremental backup, and for the details of compression.
//
// A text ends at its first zero byte. Identifiers are cut after 63 bytes, of which
// a server also gives notice.
//
// Source: exec_replication_command in src/backend/replication/walsender.c,
// src/backend/replication/repl_gram.y, PostgreSQL 10 to 18.
func ParseCommand(text string, major int) (Command, error) {
	text, _, _ = strings.Cut(text, "\x00")
	p := parser{lexer: lexer{text: text, major: min(max(major, oldestMajor), newestMajor)}}
	first, err := p.take()
	if err != nil {
		return nil, err
	}
	parse := p.commandOf(first)
	if parse == nil {
		return SQL{Text: text}, nil
	}
	finish, err := parse()
	if err != nil {
		return nil, err
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	return finish()
}

// A production reads what follows a command's first word. What it returns checks
// the command once all of it is read, and so comes after every syntax error.
type production func() (finish func() (Command, error), err error)

// parser reads commands by recursive descent. Like the server's it asks for a
// token only when it needs one.
type parser struct {
	lexer
	ahead    token
	hasAhead bool
}

// commandOf returns how the command goes on that begins with a token; nil if
// none does.
func (p *parser) commandOf(first token) production {
	if first.kind != tokenKeyword {
		return nil
	}
	switch first.text {
	case "IDENTIFY_SYSTEM":
		return func() (func() (Command, error), error) { return done(IdentifySystem{}), nil }
	case "UPLOAD_MANIFEST":
		return func() (func() (Command, error), error) { return done(UploadManifest{}), nil }
	case "SHOW":
		return p.show
	case "READ_REPLICATION_SLOT":
		return p.readSlot
	case "TIMELINE_HISTORY":
		return p.timelineHistory
	case "CREATE_REPLICATION_SLOT":
		return p.createSlot
	case "DROP_REPLICATION_SLOT":
		return p.dropSlot
	case "ALTER_REPLICATION_SLOT":
		return p.alterSlot
	case "START_REPLICATION":
		return p.startReplication
	case "BASE_BACKUP":
		return p.baseBackup
	}
	return nil
}

// done returns a finish for a command that needs no more checks.
func done(c Command) func() (Command, error) { return func() (Command, error) { return c, nil } }

func (p *parser) peek() (token, error) {
	if !p.hasAhead {
		t, err := p.scan()
		if err != nil {
			return t, err
		}
		p.ahead, p.hasAhead = t, true
	}
	return p.ahead, nil
}

func (p *parser) take() (token, error) {
	t, err := p.peek()
	p.hasAhead = false
	return t, err
}

// accept takes the next token if it is the given word or mark.
func (p *parser) accept(text string) (bool, error) {
	t, err := p.peek()
	if err != nil || !t.is(text) {
		return false, err
	}
	p.hasAhead = false
	return true, nil
}

// expect takes the next token, which must be the given word or mark.
func (p *parser) expect(text string) error {
	t, err := p.take()
	if err == nil && !t.is(text) {
		err = syntaxError(p.text, t)
	}
	return err
}

// expectKind takes the next token, which must be of a kind.
func (p *parser) expectKind(kind tokenKind) (token, error) {
	t, err := p.take()
	if err == nil && t.kind != kind {
		err = syntaxError(p.text, t)
	}
	return t, err
}

func (p *parser) identifier() (string, error) {
	t, err := p.expectKind(tokenIdentifier)
	return t.text, err
}

// end reads the optional semicolon and the end of the command.
func (p *parser) end() error {
	if _, err := p.accept(";"); err != nil {
		return err
	}
	_, err := p.expectKind(tokenEnd)
	return err
}

// name reads a name of identifiers with points between them.
func (p *parser) name() (string, error) {
	name, err := p.identifier()
	for err == nil {
		var more bool
		if more, err = p.accept("."); err != nil || !more {
			break
		}
		var part string
		part, err = p.identifier()
		name += "." + part
	}
	return name, err
}

func (p *parser) show() (func() (Command, error), error) {
	name, err := p.name()
	return done(Show{Name: name}), err
}

func (p *parser) readSlot() (func() (Command, error), error) {
	slot, err := p.name()
	return done(ReadReplicationSlot{Slot: slot}), err
}

func (p *parser) timelineHistory() (func() (Command, error), error) {
	t, err := p.timeline()
	return done(TimelineHistory{Timeline: t}), err
}

// timeline reads a timeline, and complains of a wrong one before it reads on.
func (p *parser) timeline() (wal.Timeline, error) {
	t, err := p.expectKind(tokenNumber)
	if err == nil && t.number == 0 {
		err = &CommandError{SQLState: stateSyntax, Message: "invalid timeline 0", Position: characterAt(p.text, t.start)}
	}
	return wal.Timeline(t.number), err
}

func (p *parser) dropSlot() (func() (Command, error), error) {
	slot, err := p.identifier()
	if err != nil {
		return nil, err
	}
	wait, err := p.accept("WAIT")
	return done(DropReplicationSlot{Slot: slot, Wait: wait}), err
}

func (p *parser) alterSlot() (func() (Command, error), error) {
	slot, err := p.identifier()
	if err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	list, err := p.optionList()
	return func() (Command, error) { return alterSlot(slot, list, p.major) }, err
}

func (p *parser) createSlot() (func() (Command, error), error) {
	slot, err := p.identifier()
	if err != nil {
		return nil, err
	}
	temporary, err := p.accept("TEMPORARY")
	if err != nil {
		return nil, err
	}
	physical, err := p.accept("PHYSICAL")
	if err != nil {
		return nil, err
	}
	var plugin string
	if !physical {
		if err := p.expect("LOGICAL"); err != nil {
			return nil, err
		}
		if plugin, err = p.identifier(); err != nil {
			return nil, err
		}
	}
	list, err := p.slotOptions()
	return func() (Command, error) {
		if physical {
			return createPhysicalSlot(CreatePhysicalSlot{Slot: slot, Temporary: temporary}, list, p.major)
		}
		return createLogicalSlot(CreateLogicalSlot{Slot: slot, Plugin: plugin, Temporary: temporary}, list, p.major)
	}, err
}

// slotOptions reads the options of a new slot, in either form.
func (p *parser) slotOptions() ([]option, error) {
	if p.major >= 15 {
		if list, err := p.accept("("); err != nil {
			return nil, err
		} else if list {
			return p.optionList()
		}
	}
	var list []option
	for {
		t, err := p.peek()
		if err != nil {
			return nil, err
		}
		o, ok := slotWords[t.text]
		if !ok || t.kind != tokenKeyword {
			return list, nil
		}
		p.hasAhead = false
		list = append(list, o)
	}
}

func (p *parser) startReplication() (func() (Command, error), error) {
	hasSlot, err := p.accept("SLOT")
	if err != nil {
		return nil, err
	}
	var slot string
	if hasSlot {
		if slot, err = p.identifier(); err != nil {
			return nil, err
		}
		if logical, err := p.accept("LOGICAL"); err != nil {
			return nil, err
		} else if logical {
			return p.startLogical(slot)
		}
	}
	if _, err := p.accept("PHYSICAL"); err != nil {
		return nil, err
	}
	from, err := p.expectKind(tokenLSN)
	if err != nil {
		return nil, err
	}
	c := StartPhysicalReplication{Slot: slot, From: wal.Position{LSN: from.lsn}}
	if given, err := p.accept("TIMELINE"); err != nil {
		return nil, err
	} else if given {
		if c.From.Timeline, err = p.timeline(); err != nil {
			return nil, err
		}
	}
	return func() (Command, error) {
		if hasSlot && slot == "" {
			return nil, optionError(stateUndefinedObject, `replication slot "" does not exist`)
		}
		return c, nil
	}, nil
}

func (p *parser) startLogical(slot string) (func() (Command, error), error) {
	from, err := p.expectKind(tokenLSN)
	if err != nil {
		return nil, err
	}
	c := StartLogicalReplication{Slot: slot, From: from.lsn}
	if list, err := p.accept("("); err != nil || !list {
		return done(c), err
	}
	for {
		name, err := p.identifier()
		if err != nil {
			return nil, err
		}
		o := PluginOption{Name: name}
		t, err := p.peek()
		if err != nil {
			return nil, err
		}
		if t.kind == tokenString {
			p.hasAhead = false
			o.Value = &t.text
		}
		c.Options = append(c.Options, o)
		if more, err := p.listGoesOn(); err != nil || !more {
			return done(c), err
		}
	}
}

// listGoesOn takes what follows an element of a list: a comma, or its end.
func (p *parser) listGoesOn() (bool, error) {
	if more, err := p.accept(","); err != nil || more {
		return more, err
	}
	return false, p.expect(")")
}

// optionList reads a list of options behind its opening parenthesis. An option is
// a name, which may be a keyword, and perhaps an identifier, a string or a number.
func (p *parser) optionList() ([]option, error) {
	var list []option
	for {
		t, err := p.take()
		if err != nil {
			return nil, err
		}
		o := option{name: t.text}
		switch {
		case t.kind == tokenIdentifier:
		case t.kind == tokenKeyword && t.text != "READ_REPLICATION_SLOT": // forgotten in the grammar
			o.name = foldCase(t.text)
		default:
			return nil, syntaxError(p.text, t)
		}
		value, err := p.peek()
		if err != nil {
			return nil, err
		}
		switch value.kind {
		case tokenIdentifier, tokenString:
			o.kind, o.text = optionText, value.text
			p.hasAhead = false
		case tokenNumber:
			o.kind, o.number = optionNumber, int32(value.number)
			p.hasAhead = false
		}
		list = append(list, o)
		if more, err := p.listGoesOn(); err != nil || !more {
			return list, err
		}
	}
}

// What a client that speaks another version's grammar is told.
const (
	hintList  = "From PostgreSQL 15 on, the options of BASE_BACKUP stand in parentheses."
	hintWords = "Before PostgreSQL 15, the options of BASE_BACKUP are words without parentheses."
)

func (p *parser) baseBackup() (func() (Command, error), error) {
	t, err := p.peek()
	if err != nil {
		return nil, err
	}
	var list []option
	switch {
	case p.major < 15 && t.is("("):
		e := syntaxError(p.text, t)
		e.Hint = hintWords
		return nil, e
	case p.major < 15:
		list, err = p.backupWords()
	case t.is("("):
		p.hasAhead = false
		list, err = p.optionList()
	case t.kind == tokenIdentifier || t.kind == tokenKeyword:
		e := syntaxError(p.text, t)
		e.Hint = hintList
		return nil, e
	}
	return func() (Command, error) { return parseBaseBackup(list, p.major) }, err
}

// backupWords reads the options of BASE_BACKUP before 15, in any order.
func (p *parser) backupWords() ([]option, error) {
	var list []option
	for {
		t, err := p.peek()
		if err != nil {
			return nil, err
		}
		kind, ok := backupWords[t.text]
		if !ok || t.kind != tokenKeyword {
			return list, nil
		}
		p.hasAhead = false
		o := option{name: foldCase(t.text), kind: kind}
		switch kind {
		case optionText:
			value, err := p.expectKind(tokenString)
			if err != nil {
				return nil, err
			}
			o.text = value.text
		case optionNumber:
			value, err := p.expectKind(tokenNumber)
			if err != nil {
				return nil, err
			}
			o.number = int32(value.number)
		}
		list = append(list, o)
	}
}
