package hba

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParseOptions say how rules are read. The zero value is the careful one.
type ParseOptions struct {
	// TrustAnywhere allows the method trust for addresses beyond the machine's
	// own.
	TrustAnywhere bool
}

// Parse reads rules, one a line: type, database, user, address, perhaps a mask,
// method, perhaps options. name is that of the file, for errors, each of which
// is an *Error. Rules of which there is none are an error too.
//
// Source: load_hba and parse_hba_line in src/backend/libpq/hba.c, PostgreSQL 18.
func Parse(name string, text []byte, o ParseOptions) (Rules, error) {
	var rules Rules
	lines := strings.Split(string(text), "\n")
	for i := 0; i < len(lines); i++ {
		p := parser{file: name, line: i + 1}
		line := strings.TrimSuffix(lines[i], "\r")
		for strings.HasSuffix(line, `\`) && i+1 < len(lines) { // it goes on in the next one
			i++
			line = line[:len(line)-1] + strings.TrimSuffix(lines[i], "\r")
		}
		fields, err := p.split(line)
		if err != nil {
			return Rules{}, err
		}
		if len(fields) == 0 {
			continue
		}
		rule, err := p.parse(fields, o)
		if err != nil {
			return Rules{}, err
		}
		rules.rules = append(rules.rules, rule)
	}
	if len(rules.rules) == 0 {
		return Rules{}, &Error{
			File: name, Reason: "configuration file contains no entries",
			Hint: `a line such as "hostssl replication all all scram-sha-256" lets users with a password in`,
		}
	}
	return rules, nil
}

// parser is at one line of a file.
type parser struct {
	file string
	line int
}

// fail returns an error of this line. The reason is as for fmt.Sprintf.
func (p parser) fail(hint, reason string, args ...any) error {
	return &Error{File: p.file, Line: p.line, Reason: fmt.Sprintf(reason, args...), Hint: hint}
}

// split cuts a line into fields, each a list of words with commas between them.
// A quote that is not closed is an error here, and the line's end in PostgreSQL.
//
// Source: next_token and next_field_expand in src/backend/libpq/hba.c, PostgreSQL 18.
func (p parser) split(line string) (fields [][]word, err error) {
	if strings.IndexByte(line, 0) >= 0 {
		return nil, p.fail("", "there is a zero byte")
	}
	goesOn := false // the last word ended with a comma
	for {
		line = strings.TrimLeft(line, " \t\r\v\f,")
		if line == "" || line[0] == '#' {
			return fields, nil
		}
		w, comma, rest, err := p.word(line)
		if err != nil {
			return nil, err
		}
		if !goesOn {
			fields = append(fields, nil)
		}
		last := &fields[len(fields)-1]
		*last = append(*last, w)
		line, goesOn = rest, comma
	}
}

// word takes one from the front of a line, and the comma after it.
func (p parser) word(line string) (w word, comma bool, rest string, err error) {
	var text strings.Builder
	inside := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"' && inside && strings.HasPrefix(line[i+1:], `"`): // stands for one
			text.WriteByte(c)
			i++
		case c == '"':
			inside = !inside
			w.quoted = w.quoted || i == 0
		case inside:
			text.WriteByte(c)
		case c == ',':
			w.text = text.String()
			return w, true, line[i+1:], nil
		case strings.IndexByte(" \t\r\v\f#", c) >= 0:
			w.text = text.String()
			return w, false, line[i:], nil
		default:
			text.WriteByte(c)
		}
	}
	if inside {
		return word{}, false, "", p.fail("", "a quote is not closed")
	}
	w.text = text.String()
	return w, false, "", nil
}

// parse makes a rule of the fields of a line.
func (p parser) parse(fields [][]word, o ParseOptions) (Rule, error) {
	rule := Rule{Line: p.line}
	kind, err := p.single(fields, 0, "connection type")
	if err != nil {
		return Rule{}, err
	}
	switch kind {
	case "host", "hostnogssenc":
	case "hostssl":
		rule.encryption = encryptionTLS
	case "hostnossl":
		rule.encryption = encryptionNone
	case "local":
		return Rule{}, p.fail("delete the line: this server listens on no Unix-domain socket", `connection type "local" is not supported`)
	case "hostgssenc":
		return Rule{}, p.fail("delete the line: this server knows no GSSAPI", `connection type "hostgssenc" is not supported`)
	case "include", "include_if_exists", "include_dir":
		return Rule{}, p.fail("put the lines of the other file here", `"%s" is not supported`, kind)
	default:
		return Rule{}, p.fail("it is one of host, hostssl and hostnossl", `invalid connection type "%s"`, kind)
	}
	if rule.databases, err = p.names(fields, 1, "database"); err != nil {
		return Rule{}, err
	}
	if rule.users, err = p.names(fields, 2, "role"); err != nil {
		return Rule{}, err
	}
	next, err := p.address(&rule, fields)
	if err != nil {
		return Rule{}, err
	}
	method, err := p.single(fields, next, "authentication method")
	if err != nil {
		return Rule{}, err
	}
	if err := p.method(&rule, method, o); err != nil {
		return Rule{}, err
	}
	for _, field := range fields[next+1:] {
		for _, option := range field {
			if err := p.option(&rule, option.text); err != nil {
				return Rule{}, err
			}
		}
	}
	return rule, nil
}

// single returns the field at i, which has to be there and to be one word.
func (p parser) single(fields [][]word, i int, what string) (string, error) {
	switch {
	case i >= len(fields):
		return "", p.fail("a line is: type database user address method", "end-of-line before %s", what)
	case len(fields[i]) > 1:
		return "", p.fail("specify exactly one, and a line for each", "multiple values specified for %s", what)
	}
	return fields[i][0].text, nil
}

// names returns the field at i, a list of names and keywords.
func (p parser) names(fields [][]word, i int, what string) ([]word, error) {
	if i >= len(fields) {
		return nil, p.fail("a line is: type database user address method", "end-of-line before %s specification", what)
	}
	for _, w := range fields[i] {
		switch {
		case w.text == "":
			return nil, p.fail("", "the name of a %s is empty", what)
		case w.quoted:
		case w.text[0] == '@':
			return nil, p.fail("put the names of that file here, with commas between them", `"%s": names in another file are not supported`, w.text)
		case w.text[0] == '/':
			return nil, p.fail("name them one by one, or write all", `"%s": regular expressions are not supported`, w.text)
		case what == "role" && w.text[0] == '+':
			return nil, p.fail("name the users one by one", `"%s": members of a role are not known here`, w.text)
		case what == "database" && (w.text == "sameuser" || w.text == "samerole" || w.text == "samegroup"):
			return nil, p.fail("name the databases one by one, or write all; in quotes it is a name", `"%s" is not supported`, w.text)
		}
	}
	return fields[i], nil
}

// address sets the addresses that a rule is for, and returns the place of the
// field after them.
func (p parser) address(r *Rule, fields [][]word) (next int, err error) {
	const hint = "an address is 192.0.2.0/24, 192.0.2.0 255.255.255.0, 2001:db8::/32 or all"
	text, err := p.single(fields, 3, "host address")
	switch {
	case err != nil:
		return 0, err
	case fields[3][0].is("all"):
		return 4, nil
	case fields[3][0].is("samehost"), fields[3][0].is("samenet"):
		return 0, p.fail("write the network's address: "+hint, `"%s" is not supported`, text)
	}
	bare, _, hasLength := strings.Cut(text, "/")
	a, err := netip.ParseAddr(bare)
	if err != nil {
		if strings.Trim(bare, "0123456789.") == "" || strings.Contains(bare, ":") {
			return 0, p.fail(hint, `invalid IP address "%s"`, text)
		}
		return 0, p.fail("write the host's address: "+hint, `host name "%s" is not supported`, text)
	}
	if a.Zone() != "" || a.Is4In6() {
		return 0, p.fail(hint, `invalid IP address "%s"`, text)
	}
	var network netip.Prefix
	next = 4
	if hasLength {
		if network, err = netip.ParsePrefix(text); err != nil {
			return 0, p.fail(hint, `invalid CIDR mask in address "%s"`, text)
		}
	} else {
		mask, err := p.single(fields, 4, "netmask specification")
		if err != nil {
			return 0, p.fail("specify an address range in CIDR notation, or provide a separate netmask: "+hint, "end-of-line before netmask specification")
		}
		m, err := netip.ParseAddr(mask)
		if err != nil || m.Zone() != "" {
			return 0, p.fail(hint, `invalid IP mask "%s"`, mask)
		}
		length, ok := maskLength(m)
		switch {
		case m.BitLen() != a.BitLen():
			return 0, p.fail(hint, "IP address and mask do not match")
		case !ok:
			return 0, p.fail(hint, `IP mask "%s" has a gap`, mask)
		}
		network, next = netip.PrefixFrom(a, length), 5
	}
	r.networks = []netip.Prefix{network.Masked()}
	return next, nil
}

// maskLength returns the number of bits that a mask begins with, if they are
// the only ones.
func maskLength(mask netip.Addr) (length int, ok bool) {
	for _, b := range mask.AsSlice() {
		for bit := byte(0x80); bit > 0; bit >>= 1 {
			switch {
			case b&bit == 0:
				ok = true // there must be no further one
			case ok:
				return 0, false
			default:
				length++
			}
		}
	}
	return length, true
}

// method sets how a rule has its users prove who they are.
func (p parser) method(r *Rule, name string, o ParseOptions) error {
	found := false
	for _, known := range methods {
		if known.name == name {
			r.Method, found = known.method, true
		}
	}
	if !found {
		hint := "it is one of scram-sha-256, cert, reject and trust"
		switch name {
		case "md5", "password":
			hint = "write scram-sha-256, and give each user a SCRAM secret: others send or keep what is as good as the password"
		case "peer", "ident", "gss", "sspi", "pam", "bsd", "ldap", "radius", "oauth":
			hint = "that method is PostgreSQL's alone; " + hint
		}
		return p.fail(hint, `authentication method "%s" is not supported`, name)
	}
	switch {
	case r.Method == Certificate && r.encryption != encryptionTLS:
		return p.fail("make it hostssl", "cert authentication is only supported on hostssl connections")
	case r.Method == Certificate:
		r.ClientCert = ClientCertFull
	case r.Method == Trust && !o.TrustAnywhere && !r.isLoopback():
		return p.fail("write scram-sha-256, or an address such as 127.0.0.1/32",
			"trust would give everything to anyone at that address: it is allowed for the machine itself only")
	}
	return nil
}

// isLoopback tells whether a rule is for the machine itself alone.
func (r Rule) isLoopback() bool {
	for _, network := range r.networks {
		inside := false
		for _, l := range loopback {
			inside = inside || l.Contains(network.Addr()) && network.Bits() >= l.Bits()
		}
		if !inside {
			return false
		}
	}
	return len(r.networks) > 0
}

// option takes one of what follows the method.
//
// Source: parse_hba_auth_opt in src/backend/libpq/hba.c, PostgreSQL 18.
func (p parser) option(r *Rule, text string) error {
	name, value, ok := strings.Cut(text, "=")
	switch {
	case !ok:
		return p.fail("", "authentication option not in name=value format: %s", text)
	case name != "clientcert":
		return p.fail("the one option there is, is clientcert", `authentication option "%s" is not supported`, name)
	case r.encryption != encryptionTLS:
		return p.fail("make it hostssl", `clientcert can only be configured for "hostssl" rows`)
	}
	switch {
	case value == "verify-full":
		r.ClientCert = ClientCertFull
	case value == "verify-ca" && r.Method == Certificate:
		return p.fail("", `clientcert only accepts "verify-full" when using "cert" authentication`)
	case value == "verify-ca":
		r.ClientCert = ClientCertCA
	default:
		return p.fail("it is verify-ca or verify-full", `invalid value for clientcert: "%s"`, value)
	}
	return nil
}
