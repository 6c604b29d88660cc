package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"basin/internal/repo"
	"basin/internal/usererr"
)

// defaultConfig is the configuration that is read if it is there.
const defaultConfig = "/etc/basin/basin.toml"

// configuration is what a file says of repositories and clusters, by the names that it gives them.
type configuration struct {
	Repository map[string]repositorySettings `toml:"repository"`
	Cluster    map[string]clusterSettings    `toml:"cluster"`
}

// repositorySettings say where a repository is and how to get there. Each is also an option, --s3-region
// for s3_region, and a variable of the environment, BASIN_S3_REGION.
type repositorySettings struct {
	Location         string `toml:"location"`           // a path, or s3://BUCKET/PREFIX
	KeyFile          string `toml:"key_file"`           // of the unlocked private key; empty for none
	KeyCommand       string `toml:"key_command"`        // unwraps the private key where there is no file; empty for none
	Fingerprint      string `toml:"fingerprint"`        // of the public key; empty takes any
	S3Endpoint       string `toml:"s3_endpoint"`        // URL; empty is Amazon
	S3Region         string `toml:"s3_region"`          // empty is that of Amazon's settings
	S3PathStyle      bool   `toml:"s3_path_style"`      // the bucket is in the path, not in the host's name
	S3CAFile         string `toml:"s3_ca_file"`         // PEM; empty is what the system trusts
	S3StorageClass   string `toml:"s3_storage_class"`   // empty is the bucket's
	S3Encryption     string `toml:"s3_encryption"`      // AES256 or aws:kms; empty is the bucket's
	S3KMSKey         string `toml:"s3_kms_key"`         // for aws:kms; empty is the account's
	S3LockMode       string `toml:"s3_lock_mode"`       // governance or compliance; empty locks nothing
	S3LockFor        string `toml:"s3_lock_for"`        // how long backups are locked: 30d
	S3FewerChecksums bool   `toml:"s3_fewer_checksums"` // for stores that do not know S3's newer ones
}

// clusterSettings say of a cluster what is the same each time.
type clusterSettings struct {
	Repositories  []string `toml:"repositories"`   // names of the file; without --repository the first is meant
	Success       any      `toml:"success"`        // how many of them: "all", "any" or a number; nil is all
	Connection    string   `toml:"connection"`     // conninfo
	DataDirectory string   `toml:"data_directory"` // if it is on this host
	Spool         string   `toml:"spool"`          // folder for what basin wal knows between calls; empty for none
	PushJobs      int      `toml:"push_jobs"`      // files of the log that are pushed at once; zero is defaultPushJobs
	QueueWarn     string   `toml:"queue_warn"`     // size of the log that waits past which is warned; empty is half of the next
	QueueMax      string   `toml:"queue_max"`      // size past which queue_full counts; empty for none
	QueueFull     string   `toml:"queue_full"`     // "keep" the log, or "drop" it; empty keeps it
}

// setting is one of a repository that an option and a variable can set too.
type setting struct {
	name string // of the option, without dashes
	text *string
	flag *bool // if it is not a text
}

// settings returns what options and variables can set, but for the location, which they name
// otherwise.
func (s *repositorySettings) settings() []setting {
	return []setting{
		{name: "key-file", text: &s.KeyFile},
		{name: "key-command", text: &s.KeyCommand},
		{name: "fingerprint", text: &s.Fingerprint},
		{name: "s3-endpoint", text: &s.S3Endpoint},
		{name: "s3-region", text: &s.S3Region},
		{name: "s3-path-style", flag: &s.S3PathStyle},
		{name: "s3-ca-file", text: &s.S3CAFile},
		{name: "s3-storage-class", text: &s.S3StorageClass},
		{name: "s3-encryption", text: &s.S3Encryption},
		{name: "s3-kms-key", text: &s.S3KMSKey},
		{name: "s3-lock-mode", text: &s.S3LockMode},
		{name: "s3-lock-for", text: &s.S3LockFor},
		{name: "s3-fewer-checksums", flag: &s.S3FewerChecksums},
	}
}

// variable returns the name that the setting has in the environment.
func (s setting) variable() string {
	return "BASIN_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// set sets it to what the environment or an option says.
func (s setting) set(value string) error {
	if s.flag == nil {
		*s.text = value
		return nil
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf("%s is %q, and must be true or false", s.variable(), value)
	}
	*s.flag = on
	return nil
}

// readConfig reads a configuration. Without a path it is the usual one, if that is there.
func readConfig(path string) (configuration, error) {
	content, err := os.ReadFile(cmp.Or(path, defaultConfig))
	if path == "" && errors.Is(err, fs.ErrNotExist) {
		return configuration{}, nil
	}
	if err != nil {
		return configuration{}, fmt.Errorf("read the configuration: %w", err)
	}
	return parseConfig(cmp.Or(path, defaultConfig), content)
}

// parseConfig reads a configuration, of which path is what messages call it.
func parseConfig(path string, content []byte) (configuration, error) {
	var c configuration
	err := toml.NewDecoder(bytes.NewReader(content)).DisallowUnknownFields().Decode(&c)
	if strict := (*toml.StrictMissingError)(nil); errors.As(err, &strict) {
		var unknown []error
		for i := range strict.Errors {
			unknown = append(unknown, unknownKey(path, &strict.Errors[i]))
		}
		return c, errors.Join(unknown...)
	}
	if wrong := (*toml.DecodeError)(nil); errors.As(err, &wrong) {
		line, column := wrong.Position()
		return c, fmt.Errorf("%s:%d:%d: %s", path, line, column, strings.TrimPrefix(wrong.Error(), "toml: "))
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// unknownKey returns an error that names the key most like an unknown one.
func unknownKey(path string, e *toml.DecodeError) error {
	key := e.Key()
	unknown, known := key[0], tomlKeys(reflect.TypeFor[configuration]())
	if slices.Contains(known, key[0]) {
		unknown, known = key[len(key)-1], tomlKeys(reflect.TypeFor[repositorySettings]())
		if key[0] == "cluster" {
			known = tomlKeys(reflect.TypeFor[clusterSettings]())
		}
	}
	hint := "Known are " + strings.Join(known, ", ") + "."
	if nearest := nearestName(unknown, known); nearest != "" {
		hint = fmt.Sprintf("Did you mean %q?", nearest)
	}
	line, _ := e.Position()
	return usererr.Hinted(hint, "%s:%d: unknown key %q", path, line, strings.Join(key, "."))
}

// tomlKeys returns the keys that a struct is read from.
func tomlKeys(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		keys = append(keys, t.Field(i).Tag.Get("toml"))
	}
	return keys
}

// check sees that what the file says goes together.
func (c configuration) check() error {
	for _, name := range slices.Sorted(maps.Keys(c.Repository)) {
		r := c.Repository[name]
		if r.Location == "" {
			return fmt.Errorf("repository.%s has no location", name)
		}
		for _, path := range []struct{ key, value string }{
			{"location", r.Location}, {"key_file", r.KeyFile}, {"s3_ca_file", r.S3CAFile},
		} {
			if path.value != "" && !strings.Contains(path.value, "://") && !filepath.IsAbs(path.value) {
				return fmt.Errorf("repository.%s: %s must be an absolute path, not %q", name, path.key, path.value)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Cluster)) {
		if err := repo.CheckName(name); err != nil {
			return fmt.Errorf("cluster.%s: %w", name, err)
		}
		k := c.Cluster[name]
		for _, r := range k.Repositories {
			if _, ok := c.Repository[r]; !ok {
				return fmt.Errorf("cluster.%s: there is no [repository.%s]", name, r)
			}
		}
		if _, err := k.needed(); err != nil {
			return fmt.Errorf("cluster.%s: %w", name, err)
		}
		if _, err := k.queueLimits(); err != nil {
			return fmt.Errorf("cluster.%s: %w", name, err)
		}
		if k.PushJobs < 0 || k.PushJobs > maxJobs {
			return fmt.Errorf("cluster.%s: push_jobs must be 1 to %d, not %d", name, maxJobs, k.PushJobs)
		}
		for _, path := range []struct{ key, value string }{{"data_directory", k.DataDirectory}, {"spool", k.Spool}} {
			if path.value != "" && !filepath.IsAbs(path.value) {
				return fmt.Errorf("cluster.%s: %s must be an absolute path, not %q", name, path.key, path.value)
			}
		}
	}
	return nil
}
