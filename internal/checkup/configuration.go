package checkup

import (
	"fmt"
	"path"
	"strings"
)

// readers are the functions by which files outside of the data directory are read.
var readers = []string{
	"pg_read_binary_file(text, bigint, bigint, boolean)", "pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)",
}

// MayReadFiles is a statement that tells whether the role that runs it may read configuration that is outside of the
// data directory. It is for servers from 11 on.
const MayReadFiles = `SELECT pg_catalog.pg_has_role('pg_read_server_files', 'USAGE')
	AND pg_catalog.has_function_privilege('pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)', 'EXECUTE')
	AND pg_catalog.has_function_privilege('pg_catalog.pg_ls_dir(text, boolean, boolean)', 'EXECUTE')
	AND pg_catalog.has_function_privilege('pg_catalog.pg_stat_file(text, boolean)', 'EXECUTE')`

// FileGrants returns the statements by which a role may read configuration that is outside of the data directory.
func FileGrants(role string) string {
	role = quotedRole(role)
	script := "  GRANT pg_read_all_settings, pg_read_server_files TO " + role + ";\n"
	for _, f := range readers {
		script += "  GRANT EXECUTE ON FUNCTION pg_catalog." + f + " TO " + role + ";\n"
	}
	return strings.TrimSuffix(script, "\n")
}

func quotedRole(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// configuration says whether backups have all of the configuration.
func (s Server) configuration(w Wanted) []Item {
	const item = "configuration"
	directory := s.Settings["data_directory"]
	if directory == "" || s.Settings["config_file"] == "" {
		return []Item{ok(item, "role %s may not see where it is; if postgresql.conf is not in the data directory, each backup says so", s.User)}
	}
	var outside []string
	for _, name := range []string{"config_file", "hba_file", "ident_file"} {
		if at := s.Settings[name]; at != "" && !strings.HasPrefix(path.Clean(at), path.Clean(directory)+"/") {
			outside = append(outside, at)
		}
	}
	switch {
	case len(outside) == 0:
		return []Item{ok(item, "in the data directory, but for what it may include")}
	case s.ReadsFiles || s.IsSuperuser:
		return []Item{ok(item, "outside of the data directory, and saved with each backup: %s", strings.Join(outside, ", "))}
	case w.IsLocal:
		return []Item{ok(item, "outside of the data directory, and saved with each backup as far as this user of the system can read it: %s", strings.Join(outside, ", "))}
	}
	return []Item{{item, Warning, fmt.Sprintf("outside of the data directory, where role %s may not read it: backups do not have %s", s.User, strings.Join(outside, ", ")),
		"Keep copies of them; or run as a superuser, in the database that is connected to:\n" + FileGrants(s.User)}}
}
