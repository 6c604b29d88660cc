package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/usererr"
)

const wholeConfig = `
[repository.local]
location = "/srv/backups"
key_file = "/etc/basin/local.key"

[repository.offsite]
location = "s3://backups/prod"
s3_endpoint = "https://s3.example.org"
s3_region = "eu-central-1"
s3_path_style = true
s3_ca_file = "/etc/ssl/s3.pem"
s3_storage_class = "STANDARD_IA"

[cluster.shop]
repositories = ["offsite", "local"]
connection = "host=db1 user=basin"
data_directory = "/srv/pg/shop"
`

func TestParseConfig(t *testing.T) {
	for _, test := range []struct {
		reason, text string
		want, hint   string // what the error has; empty for none
	}{
		{"all that there is", wholeConfig, "", ""},
		{"nothing", "", "", ""},
		{"a slip of the finger", "[repository.a]\nlocaton = \"/a\"\n", `f.toml:2: unknown key "repository.a.locaton"`, `Did you mean "location"?`},
		{"as the option is written", "[repository.a]\nlocation = \"/a\"\nkey-file = \"/k\"\n", `f.toml:3: unknown key "repository.a.key-file"`, `Did you mean "key_file"?`},
		{"a cluster's", "[cluster.a]\ndata_directry = \"/a\"\n", `f.toml:2: unknown key "cluster.a.data_directry"`, `Did you mean "data_directory"?`},
		{"a table", "[repositories.a]\nlocation = \"/a\"\n", `f.toml:1: unknown key "repositories.a"`, `Did you mean "repository"?`},
		{"nothing like it", "[cluster.a]\nxyzzy = 1\n", `unknown key "cluster.a.xyzzy"`, "Known are repositories, success, connection, data_directory, spool, push_jobs, queue_warn, queue_max, queue_full."},
		{"no TOML", "[repository.a]\nlocation = /a\n", "f.toml:2:", ""},
		{"another type", "[repository.a]\nlocation = 1\n", "f.toml:2:", ""},
		{"twice", "[repository.a]\nlocation = \"/a\"\nlocation = \"/b\"\n", "f.toml:3:", ""},
		{"no place", "[repository.a]\nkey_file = \"/k\"\n", "repository.a has no location", ""},
		{"relative to what", "[repository.a]\nlocation = \"a\"\n", `location must be an absolute path, not "a"`, ""},
		{"no name of a cluster", "[cluster.Shop]\n", `"Shop" cannot be the name of a cluster`, "a letter first"},
		{"a repository that is not there", "[cluster.shop]\nrepositories = [\"a\"]\n", "there is no [repository.a]", ""},
	} {
		t.Run(test.reason, func(t *testing.T) {
			_, err := parseConfig("f.toml", []byte(test.text))
			switch {
			case (err != nil) != (test.want != ""):
				t.Errorf("got %v", err)
			case err != nil && (!strings.Contains(err.Error(), test.want) || !strings.Contains(usererr.Hint(err), test.hint)):
				t.Errorf("got %q, hint %q", err, usererr.Hint(err))
			}
		})
	}
}

// clearEnvironment lets nothing that is set outside be seen.
func clearEnvironment(t *testing.T) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "BASIN_") || strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "") // which puts it back at the end
			os.Unsetenv(name)
		}
	}
}

// The command line comes before the environment, and that before the configuration.
func TestPlace(t *testing.T) {
	config := filepath.Join(t.TempDir(), "basin.toml")
	write(t, config, wholeConfig)
	onlyRepositories := filepath.Join(t.TempDir(), "basin.toml")
	write(t, onlyRepositories, wholeConfig[:strings.Index(wholeConfig, "[cluster")])
	shop := clusterSettings{Repositories: []string{"offsite", "local"}, Connection: "host=db1 user=basin", DataDirectory: "/srv/pg/shop"}
	for _, test := range []struct {
		reason string
		args   string
		env    string // separated by blanks
		check  func(p place) bool
		want   string // what the error has; empty for none
	}{
		{"the only cluster's first", "--config=" + config, "", func(p place) bool {
			return p.Cluster == "shop" && p.Location == "s3://backups/prod" && p.S3PathStyle && p.Connection == shop.Connection
		}, ""},
		{"by its name", "--repository=local --config=" + config, "", func(p place) bool {
			return p.Location == "/srv/backups" && p.KeyFile == "/etc/basin/local.key"
		}, ""},
		{"by its location", "--repository=/srv/backups", "BASIN_CONFIG=" + config, func(p place) bool { return p.KeyFile == "/etc/basin/local.key" }, ""},
		{"elsewhere", "--repository=/other", "BASIN_CONFIG=" + config, func(p place) bool { return p.Location == "/other" && p.KeyFile == "" }, ""},
		{"the environment comes first", "--config=" + config, "BASIN_REPOSITORY=local BASIN_KEY_FILE=/k BASIN_CLUSTER=blog", func(p place) bool {
			return p.Location == "/srv/backups" && p.KeyFile == "/k" && p.Cluster == "blog" && p.Connection == ""
		}, ""},
		{"the command line comes first", "--config=" + config + " --repository=offsite --key-file=/c --cluster=wiki --s3-region=us-east-2", "BASIN_REPOSITORY=local BASIN_KEY_FILE=/k BASIN_CLUSTER=blog BASIN_S3_REGION=x", func(p place) bool {
			return p.Location == "s3://backups/prod" && p.KeyFile == "/c" && p.Cluster == "wiki" && p.S3Region == "us-east-2" && p.S3Endpoint == "https://s3.example.org"
		}, ""},
		{"the environment turns off", "--config=" + config, "BASIN_S3_PATH_STYLE=false", func(p place) bool { return !p.S3PathStyle }, ""},
		{"an option turns on", "--config=" + config + " --s3-path-style", "BASIN_S3_PATH_STYLE=false", func(p place) bool { return p.S3PathStyle }, ""},
		{"neither on nor off", "--config=" + config, "BASIN_S3_PATH_STYLE=perhaps", nil, `BASIN_S3_PATH_STYLE is "perhaps"`},
		{"several and no cluster", "--config=" + onlyRepositories, "", nil, "several repositories"},
		{"nothing says it", "", "BASIN_CONFIG=" + os.DevNull, nil, "no repository is named"},
		{"no such file", "--config=/nowhere/basin.toml", "", nil, "read the configuration"},
		{"no name of a cluster", "--repository=/x --cluster=../x", "BASIN_CONFIG=" + os.DevNull, nil, "cannot be the name"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			clearEnvironment(t)
			for variable := range strings.FieldsSeq(test.env) {
				name, value, _ := strings.Cut(variable, "=")
				t.Setenv(name, value)
			}
			var o repositoryOptions
			if _, err := (call{argv: append([]string{"basin"}, strings.Fields(test.args)...)}).parse(o.options()); err != nil {
				t.Fatal(err)
			}
			p, err := o.place()
			switch {
			case (err != nil) != (test.want != ""):
				t.Errorf("got %v", err)
			case err != nil && !strings.Contains(err.Error(), test.want):
				t.Errorf("got %v", err)
			case err == nil && !test.check(p):
				t.Errorf("got %+v", p)
			}
		})
	}
}

func TestRepositoryOptionsAreChecked(t *testing.T) {
	for _, args := range []string{"--system-id=0", "--system-id=x", "--system-id=-1", "--repo=/x", "--s3-path-style=1"} {
		var o repositoryOptions
		if _, err := (call{argv: []string{"basin", args}}).parse(o.options()); err == nil {
			t.Errorf("%s was taken", args)
		}
	}
}

func TestRepositoryHelp(t *testing.T) {
	var init initOptions
	options := map[string][]string{}
	for _, o := range append(init.repositoryOptions.options(), init.recipientOptions.options()...) {
		options["init"] = append(options["init"], o.Long)
	}
	for _, o := range init.repositoryOptions.options() {
		options["list"] = append(options["list"], o.Long)
	}
	options["init"] = append(options["init"], "encrypt")
	options["key"] = append(options["init"][:len(options["init"])-1:len(options["init"])-1], "identity")
	options["list"] = append(options["list"], "json")
	options["show"] = options["list"]
	for _, c := range commands() {
		if options[c.name] == nil {
			continue
		}
		var b strings.Builder
		if err := c.help(&b, "basin "+c.name); err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(b.String(), "\n") {
			if len(line) > 95 || strings.Contains(line, "%!") {
				t.Errorf("%s, %d columns: %s", c.name, len(line), line)
			}
		}
		for _, long := range options[c.name] {
			if !strings.Contains(b.String(), "\n      --"+long) {
				t.Errorf("%s does not tell of --%s", c.name, long)
			}
		}
	}
}
