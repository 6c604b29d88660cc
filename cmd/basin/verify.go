package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/usererr"
)

// verifyRepository reads back what is in a repository.
func verifyRepository(ctx context.Context, c call) error {
	var o keepOptions
	isShown := false
	err := o.parse(c, flagOption("progress", 'P', &isShown), getopt.Option{Long: "sample", Value: func(value string) error {
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
	if !report.IsComplete {
		return err
	}
	_, printed := fmt.Fprintf(c.stdout, "%s: %s of index, %s (%s) and %s of the log were read\n", counted(report.Backups, "backup"),
		counted(report.Parts, "part"), counted(report.Packs, "pack"), bytesText(report.Bytes), counted(report.Log, "file"))
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
	if len(d.Files) > 0 {
		fmt.Fprintf(&detail, " Files: %s", strings.Join(d.Files, ", "))
		if d.More > 0 {
			fmt.Fprintf(&detail, ", and %d more", d.More)
		}
		detail.WriteString(".")
	}
	return &usererr.Error{Err: fmt.Errorf("%s: %w", d.Object, d.Err), Detail: strings.TrimSpace(detail.String())}
}
