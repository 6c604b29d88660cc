package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/usererr"
)

// verifiedResult is what verify --json prints. Its shape is documented in docs/repository.md: fields are added, and none
// is changed or removed.
type verifiedResult struct {
	Cluster  string          `json:"cluster"`
	SystemID string          `json:"systemID"`
	Complete bool            `json:"complete"` // all was read that was to be
	Backups  int             `json:"backups"`
	Parts    int             `json:"parts"` // of index
	Packs    int             `json:"packs"`
	Bytes    int64           `json:"bytes"` // of packs
	LogFiles int             `json:"logFiles"`
	Damages  []damageListing `json:"damages"` // by name
	Problems []string        `json:"problems"`
}

// damageListing is an object that is damaged or missing, and what needs it.
type damageListing struct {
	Object  string   `json:"object"`
	Problem string   `json:"problem"`
	Missing bool     `json:"missing"`
	Backups []string `json:"backups"`
	Files   []string `json:"files"`  // paths of some
	Ranges  []string `json:"ranges"` // of paths, for people, of which nothing is known
	More    int      `json:"more"`   // of both that are not named; each counts for each backup
}

// listVerified returns what came of verifying a cluster, which ended with an error or nil.
func listVerified(name repo.ClusterName, report repo.VerifyReport, damages []repo.Damage, err error) verifiedResult {
	r := verifiedResult{
		Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), Complete: report.IsComplete,
		Backups: report.Backups, Parts: report.Parts, Packs: report.Packs, Bytes: report.Bytes, LogFiles: report.Log,
		Damages: []damageListing{}, Problems: problemTexts(err),
	}
	for _, d := range damages {
		r.Damages = append(r.Damages, damageListing{
			d.Object, d.Err.Error(), errors.Is(d.Err, fs.ErrNotExist), append([]string{}, d.Backups...), append([]string{}, d.Files...),
			append([]string{}, d.Ranges...), d.More,
		})
	}
	return r
}

// text returns what was read, for people.
func (r verifiedResult) text() string {
	return fmt.Sprintf("%s: %s of index, %s (%s) and %s of the log were read\n", counted(r.Backups, "backup"),
		counted(r.Parts, "part"), counted(r.Packs, "pack"), bytesText(r.Bytes), counted(r.LogFiles, "file"))
}

// verifyRepository reads back what is in a repository.
func verifyRepository(ctx context.Context, c call) error {
	var o keepOptions
	isShown := false
	err := o.parse(c, flagOption("progress", 'P', &isShown), flagOption("json", 0, &o.JSON), getopt.Option{Long: "sample", Value: func(value string) error {
		share, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
		if err != nil || !(share > 0 && share <= 100) || !strings.HasSuffix(value, "%") {
			return usererr.Hinted("Say it as 5%.", "invalid sample \"%s\"", value)
		}
		o.Sample = share / 100
		return nil
	}})
	if err != nil {
		return err
	}
	_, cluster, err := openCluster(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	var ids []string
	for _, name := range o.Backups {
		commit, err := findBackup(ctx, cluster, name)
		if err != nil {
			return err
		}
		ids = append(ids, commit.ID)
	}
	var report repo.VerifyReport
	var damages []repo.Damage
	counts := new(repo.VerifyProgress)
	show := periodicProgress{c.report, func() string { return verificationProgress(counts) }}
	err = show.during(isShown, func() (err error) {
		report, err = cluster.Verify(ctx, repo.VerifyOptions{Sample: o.Sample, Backups: ids, Progress: counts}, func(d repo.Damage) {
			damages = append(damages, d) // told below the progress
		})
		return err
	})
	for _, d := range damages {
		c.report.error(damageError(d))
	}
	if !report.IsComplete && (!o.JSON || ctx.Err() != nil) {
		return err
	}
	result := listVerified(cluster.Name(), report, damages, err)
	var printed error
	if o.JSON {
		printed = printJSON(c, result)
	} else {
		_, printed = io.WriteString(c.stdout, result.text())
	}
	if err = errors.Join(err, printed); report.Damages > 0 {
		return errors.Join(err, usererr.Hinted("Backups that are not named are sound. The next backup stores anew what it has of what is damaged. Look at the store's disks, and at other copies of it.",
			"%s of the repository damaged or missing", counted(report.Damages, "object")))
	}
	return err
}

// verificationProgress says how far reading back is.
func verificationProgress(p *repo.VerifyProgress) string {
	done, total := p.Done.Load(), p.Total.Load()
	text := counted(int(p.Parts.Load()), "part") + " of index"
	if total > 0 {
		text += fmt.Sprintf(", %s of %s of packs (%d%%)", bytesText(done), bytesText(total), percentOf(done, total))
	}
	if n := p.Log.Load(); n > 0 {
		text += ", " + counted(int(n), "file") + " of the log"
	}
	return text
}

// damageError tells of an object that is damaged, and what needs it.
func damageError(d repo.Damage) error {
	var detail strings.Builder
	if len(d.Backups) > 0 {
		fmt.Fprintf(&detail, "Backups that need it: %s.", strings.Join(d.Backups, ", "))
	}
	var affected []string
	for _, path := range d.Files {
		affected = append(affected, strconv.Quote(path))
	}
	if affected = append(affected, d.Ranges...); len(affected) > 0 {
		fmt.Fprintf(&detail, " Files: %s", strings.Join(affected, ", "))
		if d.More > 0 {
			fmt.Fprintf(&detail, ", and %d more", d.More)
		}
		detail.WriteString(".")
	}
	return &usererr.Error{Err: fmt.Errorf("%s: %w", d.Object, d.Err), Detail: strings.TrimSpace(detail.String())}
}
