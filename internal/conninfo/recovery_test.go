package conninfo

import (
	"slices"
	"strings"
	"testing"
)

// The lines of the first two cases are what pg_basebackup 18 wrote.
func TestRecoveryConf(t *testing.T) {
	for _, c := range []struct {
		name    string
		in      string
		env     facts
		more    Recovery
		want    string
		omitted []string
	}{
		{
			"by address", "user=postgres host=127.0.0.1 port=56010", nil, Recovery{ServerVersion: 180006},
			`primary_conninfo = 'user=postgres passfile=''/home/me/.pgpass'' channel_binding=prefer host=127.0.0.1 port=56010 sslmode=prefer sslnegotiation=postgres sslcompression=0 sslcertmode=allow sslsni=1 ssl_min_protocol_version=TLSv1.2 gssencmode=disable krbsrvname=postgres gssdelegation=0 target_session_attrs=any load_balance_hosts=disable'` + "\n",
			nil,
		},
		{
			"with everything", "user=postgres connect_timeout=7 host=h port=1 application_name=myapp sslmode=disable",
			facts{"PGPASSWORD": `it's x\y`, "PGOPTIONS": "-c geqo=off"},
			Recovery{Slot: "s1", Database: "my db", ServerVersion: 180006},
			`primary_conninfo = 'user=postgres password=''it\\''s x\\\\y'' channel_binding=prefer connect_timeout=7 host=h port=1 options=''-c geqo=off'' application_name=myapp sslmode=disable sslnegotiation=postgres sslcompression=0 sslcertmode=allow sslsni=1 ssl_min_protocol_version=TLSv1.2 gssencmode=disable krbsrvname=postgres gssdelegation=0 target_session_attrs=any load_balance_hosts=disable dbname=''my db'''` + "\nprimary_slot_name = 's1'\n",
			nil,
		},
		{
			"the standby is older", "user=u password=p port=1 require_auth=scram-sha-256", nil, Recovery{ServerVersion: 130020},
			`primary_conninfo = 'user=u password=p channel_binding=prefer port=1 sslmode=prefer sslcompression=0 ssl_min_protocol_version=TLSv1.2 gssencmode=disable krbsrvname=postgres target_session_attrs=any'` + "\n",
			[]string{"require_auth"},
		},
		{
			"the standby has a recovery.conf", "user=u port=1", nil, Recovery{Slot: "s1", ServerVersion: 110022},
			"standby_mode = 'on'\n" + `primary_conninfo = 'user=u passfile=''/home/me/.pgpass'' port=1 sslmode=prefer sslcompression=0 krbsrvname=postgres target_session_attrs=any'` + "\nprimary_slot_name = 's1'\n",
			nil,
		},
	} {
		given, err := Request{ConnString: c.in, Program: "pg_basebackup"}.Params()
		if err != nil {
			t.Fatal(err)
		}
		p, err := given.Complete(System{User: "me", Home: "/home/me", Getenv: environment(c.env)})
		if err != nil {
			t.Fatal(err)
		}
		text, omitted := RecoveryConf(p, c.more)
		if text != c.want || !slices.Equal(omitted, c.omitted) {
			t.Errorf("%s:\n got %s, without %v\nwant %s, without %v", c.name, text, omitted, c.want, c.omitted)
		}
	}
}

func TestStandbyDatabase(t *testing.T) {
	for _, c := range []struct {
		in   string
		env  facts
		want string
	}{
		{"", nil, ""},
		{"host=h", facts{"PGDATABASE": "e"}, "e"},
		{"dbname=d", facts{"PGDATABASE": "e"}, "d"},
	} {
		got, err := Request{ConnString: c.in}.StandbyDatabase(System{Getenv: environment(c.env)})
		if err != nil || got != c.want {
			t.Errorf("%q, %v: got %q, %v, want %q", c.in, c.env, got, err, c.want)
		}
	}
}

// What -R writes has to say the same after a configuration file and a
// connection string were read back.
func FuzzRecoveryConf(f *testing.F) {
	f.Add(`it's x\y`, "my db")
	f.Fuzz(func(t *testing.T, password, database string) {
		if strings.ContainsRune(password+database, 0) || password == "" || database == "" {
			return
		}
		var p Params
		p.set("password", password)
		text, _ := RecoveryConf(p, Recovery{Database: database, ServerVersion: 180000})
		text = strings.TrimSuffix(strings.TrimPrefix(text, "primary_conninfo = '"), "'\n")
		text = strings.NewReplacer(`''`, `'`, `\\`, `\`).Replace(text)
		again, err := Parse(text)
		if err != nil || again.Value("password") != password || again.Value("dbname") != database {
			t.Errorf("%q: %v, %v", text, again, err)
		}
	})
}
