package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/repo"
	"basin/internal/shell"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// readJSON does what a command line says, and reads the object that it prints, of which no name may be unknown.
func readJSON(t *testing.T, to any, args ...string) error {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stdout bytes.Buffer
	err = dispatch(t.Context(), append(append([]string{"basin"}, args...), "--json"), &stdout, newReport("basin", file, func(string) (string, bool) { return "", false }))
	d := json.NewDecoder(&stdout)
	d.DisallowUnknownFields()
	if failed := d.Decode(to); failed != nil {
		t.Fatalf("%q: %v, error %v", args, failed, err)
	}
	if d.More() {
		t.Errorf("%q: there is more than one object", args)
	}
	noneIsNull(t, reflect.ValueOf(to))
	return err
}

// noneIsNull sees that arrays that were read are there, be they empty.
func noneIsNull(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			noneIsNull(t, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Type.Kind() == reflect.Slice && v.Field(i).IsNil() && !strings.Contains(v.Type().Field(i).Tag.Get("json"), "omitempty") {
				t.Errorf("%v: %s is null", v.Type(), v.Type().Field(i).Name)
			}
			noneIsNull(t, v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			noneIsNull(t, v.Index(i))
		}
	}
}

// fieldNames returns the names in a JSON object, sorted.
func fieldNames(t *testing.T, value any) string {
	t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(content, &all); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// The names in JSON are what programs rely on: none is changed or removed.
func TestNamesInJSON(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		value any
		names string
	}{
		{restoreResult{}, "backup cluster configuration databases directory dryRun emptied format into location log made next note problems raised recoversTo restored " +
			"seconds space standby systemID tablespaces target warnings why written"},
		{targetListing{Kind: "time", LSN: new(wal.LSN), XID: "7", Name: "x", Timeline: 1, Action: "pause"}, "action exclusive kind lsn name timeline xid"},
		{logListing{Resumes: "x"}, "fromLSN gap timeline toLSN"},
		{windowListing{gapListing: gapListing{Resumes: "x", Cause: gapLost}}, "backup from fromLSN gap gapCause to toLSN"},
		{leadListing{gapListing: gapListing{Resumes: "x", Cause: gapThinned}}, "gap gapCause timeline to toLSN"},
		{tablespacePlace{}, "directory location oid"},
		{raisedSetting{}, "from name to"},
		{confListing{Closed: "x", Saved: "x"}, "closed from made missing saved unusable without"},
		{databasesListing{}, "empty whole zeros"},
		{spaceListing{}, "directory fits free needed there"},
		{restoredPart{}, "backup bytes cluster directory dryRun files location problems restored systemID wanted wrongPages"},
		{wantedListing{Name: "x"}, "kind name path"},
		{verifiedResult{}, "backups bytes cluster complete damages logFiles packs parts problems systemID"},
		{damageListing{}, "backups files missing more object problem ranges"},
		{prunedListing{}, "backups bytes cluster failed givenUp left locked log packs parts systemID thin"},
		{keptListing{}, "bytes objects until"},
		{keysListing{}, "fingerprint keys problems repository"},
		{keyListing{}, "added for id"},
		{removedKey{}, "removed repository"},
		{unlockedKey{}, "fingerprint keyFile repository"},
		{initResult{Fingerprint: "x"}, "encrypted fingerprint keys location repository"},
		{pinResult{}, "backup cluster note pinned systemID until"},
	} {
		if got := fieldNames(t, test.value); got != test.names {
			t.Errorf("%v has %s, want %s", reflect.TypeOf(test.value), got, test.names)
		}
	}
}

// pushSegments pushes a segment of each number to the cluster shop.
func pushSegments(t *testing.T, c *repo.Cluster, numbers ...uint64) {
	t.Helper()
	for _, number := range numbers {
		segment := wal.Segment{Timeline: 3, Number: number}
		if err := c.PushLog(t.Context(), segment.Name(wal.DefaultSegmentSize), forgedSegment(7, segment, "x"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// wholeSource is a cluster of one file, in its directory.
type wholeSource struct {
	smallSource
	isBegun bool
}

func (s *wholeSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	if !s.isBegun {
		s.isBegun = true
		return backup.Member{Path: "global", Kind: backup.Dir, Mode: 0o700}, nil, nil
	}
	return s.smallSource.Next(ctx)
}

// takeWhole puts into a cluster a backup that can be restored, once segment 4 is there.
func takeWhole(t *testing.T, c *repo.Cluster) repo.Commit {
	t.Helper()
	sink := c.NewSink(repo.SinkOptions{Now: func() time.Time { return firstBackup.Add(3 * time.Hour) }})
	source := &wholeSource{smallSource: smallSource{at: 0x4000028, text: string(forgedControl(7))}}
	if err := errors.Join(backup.Copy(t.Context(), sink, source, backup.Options{}), sink.Close()); err != nil {
		t.Fatal(err)
	}
	return *sink.Written()
}

// TestRestoreJSON plans a restore, does it, and does it again where it is.
func TestRestoreJSON(t *testing.T) {
	location, ids := newRepository(t)
	c := clusterOfShop(t, location, 7)
	pushSegments(t, c, 2)
	dir := filepath.Join(t.TempDir(), "it's here")
	fast := filepath.Join(t.TempDir(), "fast")
	args := []string{"restore", "--repository=" + location, "--system-id=7", "-D", dir, "-T", "/srv/fast=" + fast}

	var plan restoreResult
	if err := readJSON(t, &plan, append(args, "--dry-run")...); err != nil {
		t.Fatal(err)
	}
	if !plan.DryRun || plan.Restored || plan.Written != nil || plan.Into != "new" || plan.Format != "plain" || len(plan.Next) != 0 || len(plan.Problems) != 0 {
		t.Errorf("%+v", plan)
	}
	if plan.Cluster != "shop" || plan.SystemID != "7" || plan.Location != location || plan.Directory != dir || plan.Backup.ID != ids[1] {
		t.Errorf("%+v", plan)
	}
	if n := len(plan.Warnings); n == 0 || !strings.Contains(plan.Warnings[n-1], "an older backup than the newest is restored: log that backup "+ids[2]) {
		t.Errorf("warnings are %q", plan.Warnings)
	}
	if want := (logListing{Timeline: 3, From: 0x2000028, To: 0x3000000}); plan.Log != want {
		t.Errorf("the log is %+v", plan.Log)
	}
	if plan.Target.Kind != "end" || plan.RecoversTo == nil || plan.RecoversTo.Kind != "end" || plan.RecoversTo.Action != "promote" || plan.RecoversTo.Timeline != 3 {
		t.Errorf("the target is %+v, %+v", plan.Target, plan.RecoversTo)
	}
	if want := []tablespacePlace{{tablespaceListing{77, "/srv/fast"}, fast}}; !slices.Equal(plan.Tablespaces, want) {
		t.Errorf("tablespaces are %+v", plan.Tablespaces)
	}
	if conf := plan.Configuration; conf == nil || !slices.Equal(conf.Made, []string{hbaFile, identFile, confFile}) || conf.Closed == "" {
		t.Errorf("the configuration is %+v", plan.Configuration)
	}
	absent(t, dir)

	whole := takeWhole(t, c)
	pushSegments(t, c, 4)
	var done restoreResult
	if err := readJSON(t, &done, args...); err != nil {
		t.Fatal(err)
	}
	quoted := shell.Quote(dir)
	if !done.Restored || done.Backup.ID != whole.ID || done.DryRun || done.Written == nil || *done.Written == 0 || !slices.Equal(done.Next, []string{"pg_ctl start -D " + quoted, "basin restored --wait=3600 " + quoted}) {
		t.Errorf("%+v", done)
	}
	present(t, filepath.Join(dir, "global", "pg_control"))

	for _, test := range []struct {
		reason string
		args   []string
		want   targetListing
		to     *targetListing
	}{
		{"the end of the backup", []string{"--target-immediate"}, targetListing{Kind: "immediate"}, &targetListing{Kind: "immediate", Timeline: 3, Action: "pause"}},
		{"a position", []string{"--target-lsn=0/2000128", "--target-exclusive", "--target-timeline=3", "--target-action=shutdown", "-b", ids[1]},
			targetListing{Kind: "lsn", LSN: lsnAt(0x2000128), Exclusive: true, Timeline: 3, Action: "shutdown"}, nil},
		{"a standby", []string{"--standby"}, targetListing{Kind: "end"}, nil},
	} {
		var r restoreResult
		err := readJSON(t, &r, append([]string{"restore", "--repository=" + location, "--system-id=7", "-D", dir + "2", "-Ft", "--dry-run"}, test.args...)...)
		if err != nil {
			t.Errorf("%s: %v", test.reason, err)
			continue
		}
		if !reflect.DeepEqual(r.Target, test.want) || r.Format != "tar" || test.to != nil && !reflect.DeepEqual(r.RecoversTo, test.to) || r.Standby != (r.RecoversTo == nil) {
			t.Errorf("%s: %+v, %+v", test.reason, r.Target, r.RecoversTo)
		}
	}
}

// lsnAt returns a position to point to.
func lsnAt(l wal.LSN) *wal.LSN { return &l }

// TestRestoreJSONFails breaks a backup of which nobody knows it yet: the report is there, and says so. What is refused before
// there is a plan prints none.
func TestRestoreJSONFails(t *testing.T) {
	location, _ := newRepository(t)
	c := clusterOfShop(t, location, 7)
	whole := takeWhole(t, c)
	pushSegments(t, c, 4)
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"restore", "--repository=" + location, "--system-id=7", "-D", dir, "-T", "/srv/fast=" + dir + "-fast"}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"-D", "-", "-Ft", "--json"}, "the standard output takes the backup"},
		{[]string{"-D", "-", "-Ft", "--dry-run"}, "can only write single tablespace to stdout, database has 2"},
		{[]string{"-b", "2025", "--json"}, `no backup "2025"`},
	} {
		got, err := callBasin(t, append(args, test.args...)...)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(got, whole.ID) {
			t.Errorf("%q: %v, printed is %s", test.args, err, got)
		}
	}
	breakObjects(t, location, "packs")
	var r restoreResult
	err := readJSON(t, &r, args...)
	if err == nil || r.Restored || len(r.Problems) != 1 || err.Error() != r.Problems[0] || r.Backup.ID != whole.ID || len(r.Next) != 0 || !strings.Contains(usererr.Hint(err), "basin verify") {
		t.Errorf("%+v, error %v, hint %q", r, err, usererr.Hint(err))
	}
}

// breakObjects changes a byte within each object of a folder of the cluster shop/7.
func breakObjects(t *testing.T, location, folder string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(location, "shop", "7", folder), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		content[len(content)/3] ^= 4
		name, err := filepath.Rel(location, path)
		names = append(names, name)
		return errors.Join(err, os.WriteFile(path, content, 0o600))
	})
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	return names
}

// TestRestoreFilesJSON restores parts of a backup, and then again, where they are in the way.
func TestRestoreFilesJSON(t *testing.T) {
	location, _ := newRepository(t)
	whole := takeWhole(t, clusterOfShop(t, location, 7))
	dir := filepath.Join(t.TempDir(), "files")
	args := []string{"restore", "--repository=" + location, "--system-id=7", "-D", dir, "--file=global/pg_control", "--file=global"}
	var plan, done, failed restoredPart
	if err := readJSON(t, &plan, append(args, "--dry-run")...); err != nil {
		t.Fatal(err)
	}
	if want := []wantedListing{{Kind: "file", Path: "global/pg_control"}, {Kind: "directory", Path: "global"}}; !slices.Equal(plan.Wanted, want) {
		t.Errorf("wanted is %+v", plan.Wanted)
	}
	if plan.Restored || !plan.DryRun || plan.Files != 0 || plan.Backup.ID != whole.ID || plan.Location != location || plan.Directory != dir {
		t.Errorf("%+v", plan)
	}
	absent(t, dir)
	if err := readJSON(t, &done, args[:len(args)-1]...); err != nil || !done.Restored || done.Files != 1 || done.Bytes != 8192 || len(done.Problems) > 0 {
		t.Errorf("%+v, %v", done, err)
	}
	present(t, filepath.Join(dir, "global", "pg_control"))
	err := readJSON(t, &failed, args...)
	if err == nil || failed.Restored || failed.Files != 0 || len(failed.Problems) != 1 || failed.Problems[0] != err.Error() {
		t.Errorf("%+v, %v", failed, err)
	}
}

// TestVerifyJSON verifies a repository that is sound, one of which packs are damaged, one of which the index is too, and
// one that cannot be read.
func TestVerifyJSON(t *testing.T) {
	location, ids := newRepository(t)
	pushSegments(t, clusterOfShop(t, location, 7), 2, 3)
	args := []string{"verify", "--repository=" + location, "--system-id=7"}
	var sound verifiedResult
	if err := readJSON(t, &sound, args...); err != nil {
		t.Fatal(err)
	}
	if !sound.Complete || sound.Cluster != "shop" || sound.SystemID != "7" || sound.Backups != 2 || sound.Packs == 0 || sound.Bytes == 0 || sound.Parts == 0 || sound.LogFiles != 3 || len(sound.Damages)+len(sound.Problems) > 0 {
		t.Errorf("%+v", sound)
	}
	var one verifiedResult
	if err := readJSON(t, &one, append(args, ids[1])...); err != nil || one.Backups != 1 || one.LogFiles != 1 {
		t.Errorf("of one: %+v, %v", one, err)
	}

	names := breakObjects(t, location, "packs")
	if err := os.Remove(filepath.Join(location, names[0])); err != nil {
		t.Fatal(err)
	}
	var broken verifiedResult
	err := readJSON(t, &broken, args...)
	if err == nil || !broken.Complete || len(broken.Damages) != len(names) || len(broken.Problems) > 0 {
		t.Fatalf("%+v, %v", broken, err)
	}
	for i, d := range broken.Damages {
		if d.Object != names[i] || d.Problem == "" || d.Missing != (i == 0) || len(d.Backups) == 0 || !slices.Contains(d.Files, "global/pg_control") {
			t.Errorf("%+v", d)
		}
	}
	breakObjects(t, location, "parts")
	var lost verifiedResult
	if err := readJSON(t, &lost, args...); err == nil || len(lost.Damages) == 0 || len(lost.Damages[0].Ranges) != 1 || lost.Damages[0].Ranges[0] != `from "global/pg_control" on` || len(lost.Damages[0].Files) > 0 {
		t.Errorf("without its index: %+v, %v", lost, err)
	}
	unread := listVerified(repo.ClusterName{Name: "shop", SystemID: 7}, repo.VerifyReport{Parts: 3}, nil, errors.New("the store does not answer"))
	if unread.Complete || unread.Parts != 3 || unread.Damages == nil || !slices.Equal(unread.Problems, []string{"the store does not answer"}) {
		t.Errorf("of what cannot be read: %+v", unread)
	}
}

// TestKeysJSON makes an encrypted repository, and adds and removes who can read it.
func TestKeysJSON(t *testing.T) {
	clearEnvironment(t)
	t.Setenv("BASIN_CONFIG", os.DevNull)
	const ann = "age1mjvycasxdxztqj8e5xz5gh9ehgqv49gkmz0wgwz0ytjkzd06w3fs9953fw"
	const bob = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMFWCWZICGEpYJc8U86cNiGllIV2BTdeVdzmQHsNWVMe bob@example.org"
	dir := t.TempDir()
	identity, location := filepath.Join(dir, "identity"), filepath.Join(dir, "repository")
	if err := os.WriteFile(identity, []byte("AGE-SECRET-KEY-1RNDRX74FA7F4QVYPUNNLSZWTST92UX4UDARS9RNRLPLC5JSH7LHSA9YTZ2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var plain initResult
	if err := readJSON(t, &plain, "init", location+"-plain"); err != nil || plain.Encrypted || plain.Fingerprint != "" || len(plain.Keys) != 0 || plain.Location != location+"-plain" {
		t.Errorf("%+v, %v", plain, err)
	}
	var made initResult
	if err := readJSON(t, &made, "init", location, "--recipient="+ann); err != nil {
		t.Fatal(err)
	}
	if !made.Encrypted || len(made.Fingerprint) != 32 || len(made.Keys) != 1 || *made.Keys[0].For != "age" || made.Keys[0].Added == nil {
		t.Errorf("%+v", made)
	}
	if got, err := callBasin(t, "init", location, "--json"); err == nil || got != "" {
		t.Errorf("again: %v, printed is %s", err, got)
	}
	keys := func(want int, args ...string) keysListing {
		t.Helper()
		var l keysListing
		if err := readJSON(t, &l, append(args, "--repository="+location)...); err != nil || len(l.Keys) != want || l.Repository != made.Repository || l.Fingerprint != made.Fingerprint || len(l.Problems) > 0 {
			t.Errorf("%q: %+v, %v", args, l, err)
		}
		return l
	}
	added := keys(2, "key", "add", "--identity="+identity, "--recipient="+ann, "--recipient="+bob)
	if whom := added.Keys[1].For; whom == nil || !strings.HasPrefix(*whom, "ssh-ed25519 ") {
		t.Errorf("%+v", added)
	}
	listed := keys(3, "key", "list")
	for _, k := range append(made.Keys, added.Keys...) {
		if !slices.ContainsFunc(listed.Keys, func(l keyListing) bool { return l.ID == k.ID && *l.For == *k.For }) {
			t.Errorf("%v is not listed: %+v", k.ID, listed)
		}
	}
	var removed removedKey
	if err := readJSON(t, &removed, "key", "remove", "--repository="+location, made.Keys[0].ID.String()[:16]); err != nil || removed.Removed != made.Keys[0].ID || removed.Repository != made.Repository {
		t.Errorf("%+v, %v", removed, err)
	}
	var unlocked unlockedKey
	file := filepath.Join(dir, "key")
	if err := readJSON(t, &unlocked, "key", "unlock", "--repository="+location, "--identity="+identity, "--key-file="+file); err != nil || unlocked.KeyFile != file || unlocked.Fingerprint != made.Fingerprint {
		t.Errorf("%+v, %v", unlocked, err)
	}
	present(t, file)
	if got, err := callBasin(t, "key", "unlock", "--json", "--repository="+location, "--identity="+identity, "--key-file="+file); err == nil || got != "" {
		t.Errorf("again: %v, printed is %s", err, got)
	}

	// One that is damaged is listed as that, beside the other.
	if err := os.WriteFile(filepath.Join(location, "keys", added.Keys[0].ID.String()), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var l keysListing
	err := readJSON(t, &l, "key", "list", "--repository="+location)
	if err == nil || len(l.Keys) != 2 || len(l.Problems) != 1 || !strings.Contains(l.Problems[0], added.Keys[0].ID.String()) {
		t.Errorf("%+v, %v", l, err)
	}
	for _, k := range l.Keys {
		if (k.For == nil) != (k.ID == added.Keys[0].ID) {
			t.Errorf("%+v", k)
		}
	}
}

// TestPinJSON pins a backup until a day is over, for ever, and no more.
func TestPinJSON(t *testing.T) {
	location, ids := newRepository(t)
	t.Setenv("TZ", "UTC")
	until := time.Date(2099, 12, 31, 23, 59, 59, 0, time.UTC)
	for _, test := range []struct {
		args []string
		want pinResult
	}{
		{[]string{"--until=2099-12-31", "--note=audit"}, pinResult{"shop", "7", ids[1], true, &until, "audit"}},
		{nil, pinResult{"shop", "7", ids[1], true, nil, ""}},
		{[]string{"--remove"}, pinResult{"shop", "7", ids[1], false, nil, ""}},
	} {
		var got pinResult
		err := readJSON(t, &got, append([]string{"pin", "--repository=" + location, "--system-id=7", ids[1]}, test.args...)...)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q: %+v, %v", test.args, got, err)
		}
	}
	if got, err := callBasin(t, "pin", "--repository="+location, "--system-id=7", "--json", "2025"); err == nil || got != "" {
		t.Errorf("%v, printed is %s", err, got)
	}
}
