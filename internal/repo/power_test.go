package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"basin/internal/object/disk"
)

// powerVariable, if it is set, is the folder in which this process makes a repository, and nothing else.
const powerVariable = "BASIN_POWER_OF"

// powerTree is what a backup of a number has.
func powerTree(n int) tree {
	content := make([]byte, 6*BlockSize)
	for i := range content {
		content[i] = byte(i/BlockSize + i%5)
	}
	for i := range n {
		copy(content[i*BlockSize:], fmt.Sprintf("page of %d", i))
	}
	return tree{{path: "base/1"}: content, {path: "global/pg_control"}: fmt.Append(nil, n)}
}

// powerLog is a file of the log, and what is in it.
func powerLog(n int) (name string, content []byte) {
	if n%2 == 0 {
		return fmt.Sprintf("%08X.history", n+2), fmt.Appendf(nil, "1\t0/%d000000\tno reason\n", n+2)
	}
	return fmt.Sprintf("0000000100000000%08X.00000028.backup", n), fmt.Append(nil, "backup ", n)
}

// powerProcess makes a repository in a folder, backups and log in it, forgets and prunes, and says of each when it is done.
func powerProcess(ctx context.Context, dir string) error {
	store, err := disk.Open(dir, disk.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	if _, err := Init(ctx, store, InitOptions{}); err != nil {
		return err
	}
	fmt.Println("made")
	r, err := Open(ctx, store, Options{})
	if err != nil {
		return err
	}
	c, err := r.Cluster("main", 42)
	if err != nil {
		return err
	}
	logs := 0
	push := func() error {
		name, content := powerLog(logs)
		if err := c.PushLog(ctx, name, content, 0); err != nil {
			return err
		}
		fmt.Println("pushed", logs)
		logs++
		return nil
	}
	var parent *Commit
	clock := time.Now().Add(-time.Hour)
	for n := range 3 {
		clock = clock.Add(time.Minute) // backups are sorted by seconds
		commit, err := powerBackup(ctx, c, n, parent, clock)
		if err != nil {
			return err
		}
		fmt.Println("backup", n)
		if err := push(); err != nil {
			return err
		}
		if parent != nil {
			fmt.Println("forgetting", n-1)
			if err := c.Forget(ctx, parent.ID, time.Now()); err != nil {
				return err
			}
			fmt.Println("forgotten", n-1)
			if _, err := c.Prune(ctx, PruneOptions{}); err != nil {
				return err
			}
			fmt.Println("pruned")
		}
		parent = commit
	}
	return nil
}

// powerBackup makes the backup of a number, that has it for a label.
func powerBackup(ctx context.Context, c *Cluster, n int, parent *Commit, now time.Time) (*Commit, error) {
	sink := c.NewSink(SinkOptions{Parent: parent, Label: fmt.Sprint(n), Workers: 1, Now: func() time.Time { return now }})
	err := copyTree(ctx, sink, powerTree(n))
	return sink.Written(), errors.Join(err, sink.Close())
}

// powerCheck says whether a repository is as it has to be after a power loss: whatever was said to be done is, what is
// listed can be restored, and it goes on.
func powerCheck(ctx context.Context, dir string, said []string) error {
	store, err := disk.Open(dir, disk.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	r, err := Open(ctx, store, Options{})
	if errors.Is(err, fs.ErrNotExist) {
		if len(said) > 0 {
			return err
		}
		if _, err := Init(ctx, store, InitOptions{}); err != nil {
			return fmt.Errorf("made again: %w", err)
		}
		r, err = Open(ctx, store, Options{})
	}
	if err != nil {
		return err
	}
	c, err := r.Cluster("main", 42)
	if err != nil {
		return err
	}
	promised := make(map[string]bool) // of labels of backups; false is that it is not there any more
	logs := 0
	for _, text := range said {
		switch what, which, _ := strings.Cut(text, " "); what {
		case "backup":
			promised[which] = true
		case "forgetting":
			delete(promised, which)
		case "forgotten":
			promised[which] = false
		case "pushed":
			logs++
		}
	}
	newest, err := powerBackups(ctx, c, promised)
	if err != nil {
		return err
	}
	for n := range 4 { // to push again what was on its way is no error either
		name, content := powerLog(n)
		if n < logs {
			have, err := c.Log(ctx, name)
			if err != nil || !bytes.Equal(have, content) {
				return fmt.Errorf("%s was pushed, and has %d bytes: %w", name, len(have), err)
			}
		}
		if err := c.PushLog(ctx, name, content, 0); err != nil {
			return fmt.Errorf("pushed afterwards: %w", err)
		}
	}
	if _, err := powerBackup(ctx, c, 4, newest, time.Now()); err != nil {
		return fmt.Errorf("a backup afterwards: %w", err)
	}
	promised["4"] = true
	if _, err := c.Prune(ctx, PruneOptions{Now: time.Now().Add(givenUpTime)}); err != nil {
		return fmt.Errorf("a prune afterwards: %w", err)
	}
	if c, err = r.Cluster("main", 42); err != nil { // which has nothing in memory
		return err
	}
	_, err = powerBackups(ctx, c, promised)
	return err
}

// powerBackups sees that backups that are listed can be restored, and which are. It returns the newest.
func powerBackups(ctx context.Context, c *Cluster, promised map[string]bool) (*Commit, error) {
	commits, err := c.Backups(ctx)
	if err != nil {
		return nil, err
	}
	var newest *Commit
	there := make(map[string]bool)
	for i, commit := range commits {
		n := 0
		if _, err := fmt.Sscan(commit.Label, &n); err != nil {
			return nil, err
		}
		if err := isWhole(ctx, c, commit, powerTree(n)); err != nil {
			return nil, err
		}
		newest, there[commit.Label] = &commits[i], true
	}
	for label, want := range promised {
		if there[label] != want {
			return nil, fmt.Errorf("backup %s: there %t, want %t", label, there[label], want)
		}
	}
	return newest, nil
}
