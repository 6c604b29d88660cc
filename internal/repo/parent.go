package repo

import (
	"context"
	"fmt"
	"io"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/seal"
)

// WriteManifest writes the manifest of a backup as whoever makes an incremental one on top of it needs
// it: with the files of relations alone, and of those the ones that have whole pages.
func (c *Cluster) WriteManifest(ctx context.Context, commit Commit, to io.Writer) error {
	w := manifest.NewWriter(to, c.name.SystemID)
	for g, err := range c.index(&commit).all(ctx, key{}) {
		if err != nil {
			return fmt.Errorf("backup %s: %w", commit.ID, err)
		}
		path := backup.ManifestPath(g.key.tablespace, g.key.path)
		if _, _, ok := pgdata.ParseRelationPath(path); !ok || g.member.kind != backup.File || g.member.size%BlockSize != 0 {
			continue
		}
		if err := w.Add(manifest.File{Path: path, Size: g.member.size, Algorithm: manifest.CRC32C, Checksum: crcBytes(g.member.crc)}, g.member.modTime); err != nil {
			return err
		}
	}
	return w.Finish(commit.Ranges)
}

// Control returns what the control file of a backup says.
func (c *Cluster) Control(ctx context.Context, commit Commit) (pgdata.Control, error) {
	s := c.NewSource(commit, SourceOptions{})
	if _, err := s.Begin(ctx); err != nil {
		return pgdata.Control{}, err
	}
	k := key{path: pgdata.ControlPath}
	m, err := s.index.member(ctx, k)
	if err == nil && (m == nil || m.kind != backup.File || m.size > maxControl) {
		err = errPart
	}
	if err != nil {
		return pgdata.Control{}, fmt.Errorf("backup %s: file %v: %w", commit.ID, k, err)
	}
	content, err := io.ReadAll(&fileReader{source: s, ctx: ctx, key: k, member: m})
	if err != nil {
		return pgdata.Control{}, fmt.Errorf("backup %s: %w", commit.ID, err)
	}
	return pgdata.ParseControl(content)
}

// maxControl is how many bytes a control file has at most.
const maxControl = 64 << 10

// NeedsDamaged says whether a backup needs a pack that verify found damaged or missing.
func (c *Cluster) NeedsDamaged(ctx context.Context, commit Commit) (bool, error) {
	damaged, _, _, err := c.packsOf(ctx, factDamaged)
	if err != nil || len(damaged) == 0 {
		return false, err
	}
	err = c.eachExtent(ctx, &commit, func(_ key, x extent) error {
		if damaged[x.at.pack] {
			return seal.ErrDamaged
		}
		return nil
	})
	return err != nil, nil
}
