package conninfo

import "strings"

// Recovery says what a standby's configuration is to hold beside the
// connection.
type Recovery struct {
	Slot          string // primary_slot_name; empty writes none
	Database      string // dbname of primary_conninfo; empty writes none
	ServerVersion int    // of the standby, as server_version_num: 180006; from 10 on
}

// RecoveryConf returns the text that -R of pg_basebackup adds to a standby's
// postgresql.auto.conf or, before release 12, writes to its recovery.conf. p
// is what the connection was made with, complete with defaults and with the
// password if one was asked for.
//
// omitted are the keywords that were left out although they do not have their
// default value, since the standby's libpq is too old to know them and would
// not connect at all. The user may want to hear of them.
//
// Source: GenerateRecoveryConfig in src/fe_utils/recovery_gen.c, PostgreSQL 18.
func RecoveryConf(p Params, r Recovery) (text string, omitted []string) {
	var pairs []string
	for _, o := range options {
		v := p.Value(o.keyword)
		switch {
		case v == "", o.keyword == "replication", o.keyword == "dbname", o.keyword == "fallback_application_name":
			continue
		case r.ServerVersion < o.since:
			if v != o.byDefault {
				omitted = append(omitted, o.keyword)
			}
			continue
		}
		pairs = append(pairs, o.keyword+"="+quote(v))
	}
	if r.Database != "" {
		pairs = append(pairs, "dbname="+quote(r.Database))
	}
	var b strings.Builder
	if r.ServerVersion < 120000 {
		b.WriteString("standby_mode = 'on'\n")
	}
	b.WriteString("primary_conninfo = '" + escapeSetting(strings.Join(pairs, " ")) + "'\n")
	if r.Slot != "" {
		b.WriteString("primary_slot_name = '" + r.Slot + "'\n") // a slot's name has no quotes
	}
	return b.String(), omitted
}

// escapeSetting doubles what a configuration file's string literal needs
// doubled.
//
// Source: escape_single_quotes_ascii in src/port/quotes.c, PostgreSQL 18.
func escapeSetting(s string) string {
	return strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(s)
}
