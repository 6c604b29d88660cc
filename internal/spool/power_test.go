package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"basin/internal/localfs"
	"basin/internal/object/disk"
	"basin/internal/repo"
	"basin/internal/wal"
	"basin/internal/waldir"
)

// powerVariable, if it is set, is the folder in which this process receives log, and nothing else; before it a mode and a colon.
const powerVariable = "BASIN_POWER_OF"

// inRepositoryMode is the mode in which the repository acknowledges.
const inRepositoryMode = "repository"

// powered is a spool and a repository in a folder.
type powered struct {
	*receipt
	store *disk.Store
}

// openPowered opens the spool in a folder. Where there is no repository it makes one.
func openPowered(ctx context.Context, dir, mode string) (*powered, error) {
	for _, name := range []string{"repository", "spool"} { // as the command does, before anything is there
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	root, err := os.OpenRoot(dir)
	if err == nil {
		err = errors.Join(localfs.SyncRoot(root, dir), root.Close())
	}
	if err != nil {
		return nil, err
	}
	store, err := disk.Open(filepath.Join(dir, "repository"), disk.Options{})
	if err != nil {
		return nil, err
	}
	if _, err := store.Get(ctx, "repository.json", 0, -1); errors.Is(err, fs.ErrNotExist) {
		if _, err := repo.Init(ctx, store, repo.InitOptions{}); err != nil {
			return nil, errors.Join(err, store.Close())
		}
	}
	p := &powered{receipt: &receipt{dir: filepath.Join(dir, "spool"), log: forge(1, 3, 7)}, store: store}
	p.Spool, err = Open(ctx, Options{
		Directory:    waldir.Options{Path: p.dir, SegmentSize: size, SystemID: cluster},
		Repository:   in(store),
		InRepository: mode == inRepositoryMode,
	})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return p, nil
}

// close ends the spool, which pushes what is in it.
func (p *powered) close() error { return errors.Join(p.Spool.Close(), p.store.Close()) }

// receive takes the log up to an offset, and says what was acknowledged.
func (p *powered) receive(upTo int, say func(acked int)) error {
	start, ok, err := p.Start()
	if err == nil && !ok {
		start, ok, err = p.StartFrom(context.Background(), wal.Position{LSN: first * size, Timeline: 1}, wal.Position{})
	}
	if err != nil {
		return err
	}
	at := 0
	if ok {
		at = int(start.LSN) - first*size
	}
	for at < upTo {
		w, err := p.Begin(wal.Segment{Timeline: 1, Number: uint64(first + at/size)}.Name(size), size)
		if err != nil {
			return err
		}
		end := min(upTo, (at/size+1)*size)
		for at < end {
			n := min(size/4, end-at)
			if _, err := w.Write(p.log[at : at+n]); err != nil {
				return errors.Join(err, w.Abandon())
			}
			if at += n; at%size == 0 {
				err = w.Finish()
			} else {
				err = w.Flush()
			}
			if err != nil {
				return err
			}
			say(at)
		}
		if at%size != 0 {
			return w.Abandon()
		}
	}
	return nil
}

// powerProcess receives log in a folder twice, one after the other.
func powerProcess(ctx context.Context, where string) error {
	mode, dir, _ := strings.Cut(where, ":")
	for _, upTo := range []int{size + size/2, 2*size + size/4} {
		p, err := openPowered(ctx, dir, mode)
		if err != nil {
			return err
		}
		if err := p.receive(upTo, func(acked int) { fmt.Println(acked) }); err != nil {
			return err
		}
		if err := p.close(); err != nil {
			return err
		}
	}
	return nil
}

// powerCheck says whether all that was acknowledged is there after a power loss, and the receiver goes on.
func powerCheck(ctx context.Context, dir, mode string, said []string) error {
	acked := 0
	if len(said) > 0 {
		if _, err := fmt.Sscan(said[len(said)-1], &acked); err != nil {
			return err
		}
	}
	if mode == inRepositoryMode && acked > 0 {
		if err := powerHeld(ctx, dir, acked, nil); err != nil {
			return fmt.Errorf("before the spool is opened: %w", err)
		}
	}
	p, err := openPowered(ctx, dir, mode)
	if err != nil {
		return err
	}
	if err := p.Drain(ctx); err != nil {
		return errors.Join(err, p.close())
	}
	if err := powerHeld(ctx, dir, acked, p.log); err != nil {
		return errors.Join(err, p.close())
	}
	if err := errors.Join(p.receive(len(p.log), func(int) {}), p.close()); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	return powerHeld(ctx, dir, len(p.log), p.log)
}

// powerHeld sees that so many bytes of the log are in the repository, up to the last whole record, and compares them with log, if
// that is not nil.
func powerHeld(ctx context.Context, dir string, want int, log []byte) error {
	store, err := disk.Open(filepath.Join(dir, "repository"), disk.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	c, err := in(store)(ctx)
	if err != nil {
		return err
	}
	for n := 0; n < want/page*page; n += size {
		name := wal.Segment{Timeline: 1, Number: uint64(first + n/size)}.Name(size)
		content, err := c.Log(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			if name, err = c.LongestPartial(ctx, name); err == nil {
				content, err = c.Log(ctx, name)
			}
		}
		if err != nil {
			return fmt.Errorf("%d bytes were acknowledged, from %d on: %w", want, n, err)
		}
		if n+len(content) < min(want/page*page, n+size) {
			return fmt.Errorf("%d bytes were acknowledged, and %d are there", want, n+len(content))
		}
		if log != nil && !bytes.Equal(content, log[n:n+len(content)]) {
			return fmt.Errorf("%s has another content", name)
		}
	}
	return nil
}
