package checkup

import (
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/shell"
)

// good is a server about which nothing is wrong.
func good() Server {
	archived := time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC)
	return Server{
		Version: 180006, ServerVersion: "18.6", User: "basin", IsReplication: true,
		Settings: map[string]string{
			"wal_level": "replica", "archive_mode": "on", "archive_command": "/usr/bin/basin wal push --repository=/srv/b %p", "archive_timeout": "60",
			"max_wal_senders": "10", "max_replication_slots": "10", "max_slot_wal_keep_size": "1024", "summarize_wal": "on",
			"data_checksums": "on", "full_page_writes": "on", "fsync": "on",
		},
		Archiver: Archiver{Archived: 7, LastArchived: "000000010000000000000007", ArchivedAt: archived},
	}
}

// TestRules changes one thing of a server that is as it should be.
func TestRules(t *testing.T) {
	set := func(name, value string) func(*Server) { return func(s *Server) { s.Settings[name] = value } }
	command := func(value string) func(*Server) { return set("archive_command", value) }
	for _, test := range []struct {
		reason string
		change func(*Server)
		item   string
		level  Level
		text   string
	}{
		{"as it should be", func(*Server) {}, "", OK, ""},
		{"of a version that is not tested", func(s *Server) { s.Version = 120004 }, "server version", Warning, "not tested"},
		{"with indexes that may lack rows", func(s *Server) { s.Version = 140003 }, "server version", Warning, "14.4"},
		{"with summaries that are not relied on", func(s *Server) { s.Version = 170011 }, "server version", Warning, "17.12"},
		{"the same without summaries", func(s *Server) { s.Version = 170011; s.Settings["summarize_wal"] = "off" }, "", OK, ""},
		{"the first on which they are", func(s *Server) { s.Version = 170012 }, "", OK, ""},
		{"a role that may not", func(s *Server) { s.IsReplication = false }, "privileges", Error, "lacks REPLICATION"},
		{"a superuser may", func(s *Server) { s.IsReplication, s.IsSuperuser = false, true }, "", OK, ""},
		{"of minimal log", set("wal_level", "minimal"), "wal_level", Error, "no backup"},
		{"that archives nothing", set("archive_mode", "off"), "archive_mode", Warning, "only the ends of backups"},
		{"a standby need not archive", func(s *Server) { s.InRecovery = true; s.Archiver = Archiver{} }, "", OK, ""},
		{"without a command", command(""), "archive_command", Error, "until the disk is full"},
		{"with another library", set("archive_library", "basic_archive"), "archive_command", Warning, "basic_archive"},
		{"with another program", command("cp %p /srv/%f"), "archive_command", Warning, "is not basin wal push"},
		{"with another command of it", command("basin wal get %f %p"), "archive_command", Warning, "is not basin wal push"},
		{"with variables before it", command("BASIN_CONFIG=/etc/b.toml basin wal push %p"), "", OK, ""},
		{"without the file", command("basin wal push --repository=/srv/b"), "archive_command", Error, "%p is missing"},
		{"with success whatever happens", command("basin wal push %p || true"), "archive_command", Warning, "more than one command"},
		{"with another repository", command("basin wal push --repository /srv/other %p"), "archive_command", Warning, "/srv/other"},
		{"with its name in the configuration", command("basin wal push --repository='local' %p"), "", OK, ""},
		{"with quotes", command(`basin wal push "--repository=/srv/it's here/100%%" %p`), "archive_command", Warning, "/srv/it's here/100%, and"},
		{"with its place in quotes", command(`'/usr/bin/basin' wal push --repository="/srv/b" %p`), "", OK, ""},
		{"with another cluster", command("basin wal push --repository=/srv/b --cluster=blog %p"), "archive_command", Warning, "of cluster blog, and"},
		{"with its cluster", command("basin wal push --repository=/srv/b --cluster main %p"), "", OK, ""},
		{"with another cluster before it", command("BASIN_CLUSTER=blog basin wal push --repository=/srv/b %p"), "archive_command", Warning, "of cluster blog, and"},
		{"whose archiving fails", func(s *Server) { s.Archiver.FailedAt = s.Archiver.ArchivedAt.Add(time.Second) }, "archiver", Error, "fails"},
		{"whose archiving failed once", func(s *Server) { s.Archiver.FailedAt = s.Archiver.ArchivedAt.Add(-time.Second) }, "", OK, ""},
		{"that has not archived", func(s *Server) { s.Archiver = Archiver{} }, "archiver", Warning, "nothing was archived"},
		{"without room for a backup", func(s *Server) { s.Senders = 9 }, "max_wal_senders", Error, "a backup needs 2"},
		{"with room for one", func(s *Server) { s.Senders = 8 }, "", OK, ""},
		{"without a slot to be had", set("max_replication_slots", "0"), "max_replication_slots", Error, "all are in use"},
		{"with a slot that nobody reads", func(s *Server) { s.Slots = []Slot{{"old", true, false, 2 << 30, "extended"}} }, "slot old", Warning, "2.0 GiB"},
		{"with a slot that has lost log", func(s *Server) { s.Slots = []Slot{{"old", true, false, 0, "lost"}} }, "slot old", Warning, "lost"},
		{"with a slot that is read", func(s *Server) { s.Slots = []Slot{{"new", true, true, 2 << 30, "extended"}} }, "", OK, ""},
		{"with slots without a limit", func(s *Server) {
			s.Slots = []Slot{{"new", true, true, 0, "reserved"}}
			s.Settings["max_slot_wal_keep_size"] = "-1"
		}, "max_slot_wal_keep_size", Warning, "fills the disk"},
		{"without checksums", set("data_checksums", "off"), "data_checksums", Warning, "nobody sees it"},
		{"without full pages", set("full_page_writes", "off"), "full_page_writes", Warning, "damaged"},
		{"of another time", func(s *Server) { s.Clock = -time.Minute }, "server's clock", Warning, "1m0s behind"},
		{"of nearly the same time", func(s *Server) { s.Clock = 4 * time.Second }, "", OK, ""},
	} {
		t.Run(test.reason, func(t *testing.T) {
			s := good()
			test.change(&s)
			found := test.item == ""
			for _, item := range s.Items(Wanted{Repository: []string{"/srv/b", "local"}, Cluster: "main", Unsaid: "main"}) {
				if item.Name == test.item && item.Level == test.level && strings.Contains(item.Text, test.text) {
					found = true
				} else if item.Level != OK {
					t.Errorf("also: %v %s: %s", item.Level, item.Name, item.Text)
				}
				if item.Level != OK && item.Advice == "" {
					t.Errorf("%s has no advice", item.Name)
				}
			}
			if !found {
				t.Errorf("%s is no %v with %q", test.item, test.level, test.text)
			}
		})
	}
}

func TestGrants(t *testing.T) {
	s := good()
	s.User, s.IsReplication = `odd"name`, false
	for _, version := range []int{140000, 180006} {
		s.Version = version
		got := s.Grants(Wanted{IsLocal: true})
		want := "pg_backup_stop(boolean) TO"
		if version < 150000 {
			want = "pg_stop_backup(boolean, boolean) TO"
		}
		if !strings.Contains(got, `ALTER ROLE "odd""name" REPLICATION;`) || !strings.Contains(got, want) || !strings.Contains(got, "GRANT pg_read_all_settings") {
			t.Errorf("of %d: %s", version, got)
		}
	}
	if got := s.Grants(Wanted{}); strings.Contains(got, "GRANT") {
		t.Errorf("over the wire: %s", got)
	}
}

// TestAdvisedCommand reads the archive_command that is advised as PostgreSQL's configuration and then a shell do.
func TestAdvisedCommand(t *testing.T) {
	for _, repository := range []string{"/srv/b", "/srv/my repo's \"x\"", `/srv/back\slash`} {
		for cluster, want := range map[string][]string{"": nil, "main": nil, "shop": {"--cluster=shop"}} {
			s, w := good(), Wanted{Repository: []string{repository}, Cluster: cluster, Unsaid: "main"}
			s.Settings["archive_command"] = ""
			advice := s.archiving(w)[1].Advice
			_, value, _ := strings.Cut(advice, "archive_command = '")
			value, _, _ = strings.Cut(value, "', and reload")
			s.Settings["archive_command"] = configured(value)
			want = slices.Concat([]string{"basin", "wal", "push", "--repository=" + repository}, want, []string{"%p"})
			if got := shell.Split(s.Settings["archive_command"]); !slices.Equal(got, want) {
				t.Errorf("%s: means %q, want %q", advice, got, want)
			}
			if item := s.archiving(w)[1]; item.Level != OK {
				t.Errorf("%s is followed, and then %s: %s", advice, item.Text, item.Advice)
			}
		}
	}
	s := good()
	for _, item := range s.archiving(Wanted{Repository: []string{"/srv/b"}, Cluster: "shop", Unsaid: "main"}) {
		if item.Name == "archive_command" && (item.Level != Warning || !strings.Contains(item.Text, "of cluster main, and")) {
			t.Errorf("log that goes to another cluster is %v: %s", item.Level, item.Text)
		}
	}
}

// configured returns what is between the quotes of a setting as PostgreSQL takes it.
//
// Source: DeescapeQuotedString in guc-file.l.
func configured(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if (s[i] == '\\' || s[i] == '\'') && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
