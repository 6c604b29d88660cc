// Package powertest records what a process does to files, and builds what a machine could have of them after
// a power loss at each moment.
//
// A process is traced, as strace does, so that what runs is the program as it is. What the files mean is for
// the test to know.
package powertest

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Kind is what a step is.
type Kind uint8

// The kinds of steps.
const (
	Write   Kind = iota // Data at Offset of a file
	Size                // a file has Offset bytes from now on
	Names               // names in a directory are others from now on
	Sync                // a file or a directory is durable
	SyncAll             // all is
	Said                // the process has written Data to its standard output
)

// Step is something that a process did, as far as it can outlast a power loss, or be lost in one.
type Step struct {
	Kind   Kind
	Node   int // the file, or the directory
	IsDir  bool
	Path   string // by which it was known then, relative to the folder
	Offset int64  // in bytes
	Data   []byte
	Names  map[string]int // nodes by their new names; zero is a name that is gone
}

// Log is what a process did in a folder.
type Log struct {
	Steps []Step
	dirs  map[int]bool // nodes that are directories; the folder is the first
}

// root is the node of the folder.
const root = 1

// Options say which states are built. The zero value builds those that are sure to be tried.
type Options struct {
	// Subsets is how many states are built after each step, beside those that are sure, in which any part of what is not
	// synced is there.
	Subsets int
	// Seed is that of the subsets.
	Seed uint64
	// Every is of how many states that are not the same one is checked; zero is of one.
	Every int
	// Without, if not nil, says which steps the process is taken not to have made: a program that forgets a sync.
	Without func(s Step) bool
	// Ignore, if not nil, says of which paths it is of no interest whether they are there.
	Ignore func(path string) bool
	// Dir is where states are built; empty is the system's folder for temporary files.
	Dir string
}

// Each has the power fail after each step, and calls check for what may be left of the folder, in another
// one, and what the process had said before. States that are the same are checked once. It returns how many there were, and the first
// error, with the state that it is of.
func (l *Log) Each(o Options, check func(dir string, said []string) error) (states int, err error) {
	w := &world{log: l, nodes: map[int]*node{root: newNode(true)}}
	seen, seed := make(map[uint64]bool), maphash.MakeSeed()
	random := rand.New(rand.NewPCG(o.Seed, 1))
	var said []string
	for n := 0; n <= len(l.Steps); n++ {
		for _, luck := range w.lucks(o.Subsets, random) {
			tree := make(map[string][]byte)
			w.build(root, "", luck, tree)
			sum := sumOf(tree, len(said), o.Ignore, seed)
			if seen[sum] {
				continue
			}
			seen[sum] = true
			if len(seen)%max(o.Every, 1) != 0 {
				continue
			}
			states++
			if err := inFolder(o.Dir, tree, func(dir string) error { return check(dir, slices.Clone(said)) }); err != nil {
				return states, fmt.Errorf("after step %d, with %s: %w\nthere are %s\nsteps:\n%s",
					n, luck.name, err, strings.Join(slices.Sorted(maps.Keys(tree)), ", "), tail(l.Steps[:n]))
			}
		}
		if n == len(l.Steps) || o.Without != nil && o.Without(l.Steps[n]) {
			continue
		}
		if s := l.Steps[n]; s.Kind == Said {
			said = append(said, strings.Split(strings.TrimSuffix(string(s.Data), "\n"), "\n")...)
		} else {
			w.take(s)
		}
	}
	return states, nil
}

// Try is Each as a test: with what is left out of the log by o, check fails, or it does not.
func (l *Log) Try(t testing.TB, reason string, o Options, fails bool, check func(dir string, said []string) error) {
	t.Helper()
	states, err := l.Each(o, check)
	t.Logf("%s: %d steps, %d states; %v", reason, len(l.Steps), states, err != nil)
	if (err != nil) != fails {
		t.Errorf("%s: %v", reason, err)
	}
}

// Self returns a call of the program of the test itself, with a variable set by which it knows what to do.
func Self(t testing.TB, variable, value string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program)
	c.Env = append(os.Environ(), variable+"="+value)
	return c
}

// world is what is on a disk, and what may be.
type world struct {
	log   *Log
	nodes map[int]*node
}

// node is a file or a directory.
type node struct {
	isDir   bool
	data    []byte
	names   map[string]int
	pending []Step
}

func newNode(isDir bool) *node { return &node{isDir: isDir, names: make(map[string]int)} }

// apply makes a step last.
func (n *node) apply(s Step) {
	switch s.Kind {
	case Write:
		n.resize(max(int64(len(n.data)), s.Offset+int64(len(s.Data))))
		copy(n.data[s.Offset:], s.Data)
	case Size:
		n.resize(s.Offset)
	case Names:
		for name, to := range s.Names {
			if to == 0 {
				delete(n.names, name)
			} else {
				n.names[name] = to
			}
		}
	}
}

func (n *node) resize(size int64) {
	if size <= int64(len(n.data)) {
		n.data = n.data[:size]
		return
	}
	n.data = append(n.data, make([]byte, size-int64(len(n.data)))...)
}

// clone returns a node of its own that has nothing pending.
func (n *node) clone() *node {
	return &node{isDir: n.isDir, data: slices.Clone(n.data), names: maps.Clone(n.names)}
}

// take makes a step.
func (w *world) take(s Step) {
	if s.Kind == SyncAll {
		for _, n := range w.nodes {
			n.settle()
		}
		return
	}
	n := w.node(s.Node)
	if s.Kind == Sync {
		n.settle()
		return
	}
	n.pending = append(n.pending, s)
}

func (n *node) settle() {
	for _, s := range n.pending {
		n.apply(s)
	}
	n.pending = nil
}

func (w *world) node(number int) *node {
	if w.nodes[number] == nil {
		w.nodes[number] = newNode(w.log.dirs[number])
	}
	return w.nodes[number]
}

// luck says which of the steps that are not synced are on disk all the same, and how much of a write.
type luck struct {
	name  string
	names func() bool
	data  func() part
}

// part is how much of a write is on disk.
type part uint8

const (
	nothing part = iota
	zeros        // the file is as long as it should be
	half
	everything
)

// lucks returns the ways in which the power can fail now.
func (w *world) lucks(subsets int, random *rand.Rand) []luck {
	yes, no := func() bool { return true }, func() bool { return false }
	is := func(p part) func() part { return func() part { return p } }
	all := []luck{
		{"nothing that is not synced", no, is(nothing)},
		{"everything", yes, is(everything)},
		{"all names and no data", yes, is(nothing)},
		{"all names, and zeros for data", yes, is(zeros)},
		{"all names, and half of the data", yes, is(half)},
		{"all data and no names", no, is(everything)},
	}
	for range subsets {
		all = append(all, luck{"a subset", func() bool { return random.IntN(2) == 0 }, func() part { return part(random.IntN(4)) }})
	}
	return all
}

// build adds what is in a directory to a tree; directories end in a slash.
func (w *world) build(number int, above string, l luck, tree map[string][]byte) {
	n := w.node(number).clone()
	for _, s := range w.node(number).pending {
		switch {
		case s.Kind == Names && l.names():
			n.apply(s)
		case s.Kind == Names:
		default:
			switch l.data() {
			case everything:
				n.apply(s)
			case half:
				s.Data = s.Data[:len(s.Data)/2]
				n.apply(s)
			case zeros:
				if s.Kind == Write {
					s.Kind, s.Offset = Size, max(int64(len(n.data)), s.Offset+int64(len(s.Data)))
				}
				n.apply(s)
			}
		}
	}
	if !n.isDir {
		tree[above] = n.data
		return
	}
	if above != "" {
		above += "/"
		tree[above] = nil
	}
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		w.build(n.names[name], above+name, l, tree)
	}
}

// sumOf returns a number for a tree and what was said.
func sumOf(tree map[string][]byte, said int, ignore func(string) bool, seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	fmt.Fprintln(&h, said)
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		if ignore == nil || !ignore(name) {
			fmt.Fprintf(&h, "%s %d\n", name, len(tree[name]))
			_, _ = h.Write(tree[name]) // never fails
		}
	}
	return h.Sum64()
}

// inFolder calls a function with a folder in which there is a tree.
func inFolder(above string, tree map[string][]byte, do func(dir string) error) error {
	dir, err := os.MkdirTemp(above, "power-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range slices.Sorted(maps.Keys(tree)) { // a directory comes before what is in it
		where := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			err = os.Mkdir(where, 0o700)
		} else {
			err = os.WriteFile(where, tree[name], 0o600)
		}
		if err != nil {
			return err
		}
	}
	return do(dir)
}

// tail words the last steps.
func tail(steps []Step) string {
	var b strings.Builder
	for _, s := range steps[max(0, len(steps)-24):] {
		fmt.Fprintf(&b, "%s %s", [...]string{"write", "size", "names", "sync", "sync all", "said"}[s.Kind], path.Clean(s.Path))
		switch s.Kind {
		case Write:
			fmt.Fprintf(&b, ", %d bytes at %d", len(s.Data), s.Offset)
		case Size:
			fmt.Fprintf(&b, ", %d bytes", s.Offset)
		case Names:
			fmt.Fprintf(&b, ": %v", s.Names)
		case Said:
			fmt.Fprintf(&b, " %q", s.Data)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Memory returns a folder that is in memory, where files are synced at once, or else that of temporary files.
func Memory() string {
	const shared = "/dev/shm"
	if info, err := os.Stat(shared); err == nil && info.IsDir() {
		return shared
	}
	return os.TempDir()
}
