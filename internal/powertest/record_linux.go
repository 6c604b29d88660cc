package powertest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// longest is how long a process may take.
const longest = 2 * time.Minute

// Record runs a command to its end, and returns what it did in a folder, which is empty before. Its standard input and
// output are not to be set. Of threads that change files one goes on at a time, so that there is one order of what
// they do. It is an error if the command fails, and if the steps that were seen do not lead to what is there in the end.
func Record(t testing.TB, c *exec.Cmd, folder string) *Log {
	t.Helper()
	folder, err := filepath.EvalSymlinks(folder)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{folder: folder, nodes: make(map[uint64]int), log: &Log{dirs: make(map[int]bool)}, threads: make(map[int]*thread)}
	r.newNode(folder, true)
	complaints, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer complaints.Close()
	c.Stderr = complaints
	if err := r.run(c); err != nil {
		text, _ := os.ReadFile(complaints.Name())
		t.Fatalf("%v: %v\n%s", c, err, text)
	}
	if err := r.log.compare(folder); err != nil {
		t.Fatal(err)
	}
	return r.log
}

// compare sees that all steps together lead to what is in a folder.
func (l *Log) compare(folder string) error {
	w := &world{log: l, nodes: map[int]*node{root: newNode(true)}}
	for _, s := range l.Steps {
		if s.Kind != Said {
			w.take(s)
		}
	}
	w.take(Step{Kind: SyncAll})
	want := make(map[string][]byte)
	w.build(root, "", w.lucks(0, nil)[0], want)
	return filepath.WalkDir(folder, func(name string, entry os.DirEntry, err error) error {
		if err != nil || name == folder {
			return err
		}
		relative, _ := filepath.Rel(folder, name) // it is below
		if entry.IsDir() {
			if _, ok := want[relative+"/"]; !ok {
				return fmt.Errorf("directory %s was made, and not recorded", relative)
			}
			return nil
		}
		have, err := os.ReadFile(name)
		if recorded, ok := want[relative]; err == nil && (!ok || !bytes.Equal(have, recorded)) {
			err = fmt.Errorf("file %s has %d bytes; recorded are %d, %t", relative, len(have), len(recorded), ok)
		}
		return err
	})
}

// recorder traces a process.
type recorder struct {
	folder  string
	log     *Log
	nodes   map[uint64]int // by inode of the system, as it is now
	threads map[int]*thread
	busy    int   // thread that changes files; zero is none
	held    []int // threads that wait for it
}

// thread is a thread that is traced.
type thread struct {
	call   *syscallInfo // that it is in, nil for none
	finish func(result int64) error
}

// syscallInfo is struct ptrace_syscall_info of linux/ptrace.h.
type syscallInfo struct {
	op    uint8
	_     [7]byte // padding, arch
	_     [2]uint64
	first uint64 // number, or the result
	args  [6]uint64
	_     [2]uint64
}

const (
	syscallEntry = 1 // PTRACE_SYSCALL_INFO_ENTRY
	syscallExit  = 2 // PTRACE_SYSCALL_INFO_EXIT
)

// run starts a command, and traces it until it ends. All requests have to come from one thread.
func (r *recorder) run(c *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Setpgid: true}
	if err := c.Start(); err != nil {
		return err
	}
	pid := c.Process.Pid
	defer c.Process.Release()
	slow := time.AfterFunc(longest, func() { _ = syscall.Kill(-pid, syscall.SIGKILL) })
	defer slow.Stop()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WALL, nil); err != nil {
		return err
	}
	if err := syscall.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		return fmt.Errorf("trace the process, which is needed here: %w", err)
	}
	r.threads[pid] = new(thread)
	if err := r.goOn(pid, 0); err != nil {
		return err
	}
	for {
		tid, err := syscall.Wait4(-pid, &status, syscall.WALL, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return err
		}
		if status.Exited() || status.Signaled() {
			if err := r.end(tid); err != nil {
				return err
			}
			if tid != pid {
				continue
			}
			if status.ExitStatus() != 0 {
				return fmt.Errorf("it ended with %v, %v", status.ExitStatus(), status.Signal())
			}
			return nil
		}
		if err := r.stopped(tid, status); err != nil {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			return err
		}
	}
}

// goOn lets a thread go on, to which a signal is given. One that is gone was killed.
func (r *recorder) goOn(tid int, signal syscall.Signal) error {
	if err := syscall.PtraceSyscall(tid, int(signal)); err != nil && err != syscall.ESRCH {
		return err
	}
	return nil
}

// end forgets a thread.
func (r *recorder) end(tid int) error {
	delete(r.threads, tid)
	return r.release(tid)
}

// release lets the next thread that waits change files.
func (r *recorder) release(tid int) error {
	if r.busy != tid {
		return nil
	}
	r.busy = 0
	for len(r.held) > 0 && r.busy == 0 {
		next := r.held[0]
		r.held = r.held[1:]
		th := r.threads[next]
		if th == nil {
			continue
		}
		if err := r.enter(next, th); err != nil {
			return err
		}
		if err := r.goOn(next, 0); err != nil {
			return err
		}
	}
	return nil
}

// stopped goes on with a thread that has stopped.
func (r *recorder) stopped(tid int, status syscall.WaitStatus) error {
	th := r.threads[tid]
	signal := status.StopSignal()
	switch {
	case th == nil: // it is new, and has stopped for that
		r.threads[tid] = new(thread)
		return r.goOn(tid, 0)
	case signal == syscall.SIGTRAP|0x80:
	case signal == syscall.SIGTRAP || signal == syscall.SIGSTOP: // an event
		return r.goOn(tid, 0)
	default:
		return r.goOn(tid, signal)
	}
	var info syscallInfo
	if _, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
		if errno == syscall.ESRCH {
			return nil
		}
		return fmt.Errorf("ask for a call of the system: %w", errno)
	}
	switch info.op {
	case syscallEntry:
		th.call = &info
		if changes(info.first) && r.busy != 0 {
			r.held = append(r.held, tid)
			return nil
		}
		if err := r.enter(tid, th); err != nil {
			return err
		}
		return r.goOn(tid, 0)
	case syscallExit:
		finish := th.finish
		th.call, th.finish = nil, nil
		if result := int64(info.first); finish != nil && result >= 0 {
			if err := finish(result); err != nil {
				return err
			}
		}
		if err := r.goOn(tid, 0); err != nil {
			return err
		}
		return r.release(tid)
	}
	return r.goOn(tid, 0)
}

// changes says whether a call of the system may change files, or make them durable.
func changes(number uint64) bool {
	switch number {
	case unix.SYS_OPENAT, unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE,
		unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS,
		unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_LINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		return true
	}
	return false
}

// enter says what is to be noted when a call has been made.
func (r *recorder) enter(tid int, th *thread) error {
	if !changes(th.call.first) {
		return nil
	}
	finish, err := r.finisher(tid, th.call)
	if err != nil {
		return err
	}
	if th.finish = finish; finish != nil {
		r.busy = tid
	}
	return nil
}

// finisher returns what notes a call, nil if it is not of the folder.
func (r *recorder) finisher(tid int, c *syscallInfo) (func(result int64) error, error) {
	a := c.args
	switch c.first {
	case unix.SYS_OPENAT:
		return r.open(tid, a)
	case unix.SYS_MKDIRAT, unix.SYS_UNLINKAT:
		name, err := r.path(tid, a[0], a[1])
		if err != nil || name == "" {
			return nil, err
		}
		isMade := c.first == unix.SYS_MKDIRAT
		return func(int64) error {
			node := 0
			if isMade {
				node = r.newNode(name, true)
			}
			return r.named(map[string]int{name: node})
		}, nil
	case unix.SYS_LINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		from, err := r.path(tid, a[0], a[1])
		if err != nil {
			return nil, err
		}
		to, err := r.path(tid, a[2], a[3])
		if err != nil || from == "" || to == "" {
			return nil, err
		}
		return func(int64) error {
			names := map[string]int{to: r.nodeOf(to)}
			if c.first != unix.SYS_LINKAT {
				names[from] = 0
			}
			return r.named(names)
		}, nil
	case unix.SYS_WRITE:
		if a[0] == 1 {
			text := make([]byte, a[2])
			if err := r.memory(tid, a[1], text); err != nil {
				return nil, err
			}
			return func(int64) error {
				r.note(Step{Kind: Said, Data: text})
				return nil
			}, nil
		}
	case unix.SYS_COPY_FILE_RANGE, unix.SYS_SPLICE:
		a[0] = a[2]
	}
	return r.onFile(tid, c.first, a)
}

// open notes that a file was made or emptied.
func (r *recorder) open(tid int, a [6]uint64) (func(int64) error, error) {
	if a[2]&(unix.O_CREAT|unix.O_TRUNC) == 0 {
		return nil, nil
	}
	name, err := r.path(tid, a[0], a[1])
	if err != nil || name == "" {
		return nil, err
	}
	_, err = os.Lstat(name)
	return func(int64) error {
		if err != nil {
			return r.named(map[string]int{name: r.newNode(name, false)})
		}
		if a[2]&unix.O_TRUNC != 0 {
			r.note(Step{Kind: Size, Node: r.nodeOf(name), Path: name})
		}
		return nil
	}, nil
}

// onFile notes what is done to an open file.
func (r *recorder) onFile(tid int, number uint64, a [6]uint64) (func(int64) error, error) {
	open := fmt.Sprintf("/proc/%d/fd/%d", tid, int32(a[0]))
	name, err := os.Readlink(open)
	if err != nil || !strings.HasPrefix(name, r.folder) {
		return nil, nil // it is none, or of no interest
	}
	node := r.nodeOf(open)
	if node == 0 {
		return nil, fmt.Errorf("%s was not made under our eyes", name)
	}
	isDir := r.log.dirs[node]
	return func(result int64) error {
		switch number {
		case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
			r.note(Step{Kind: Sync, Node: node, IsDir: isDir, Path: name})
			return nil
		case unix.SYS_SYNCFS:
			r.note(Step{Kind: SyncAll, Path: name})
			return nil
		}
		file, err := os.Open(open)
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		from, n := int64(0), info.Size()
		switch number {
		case unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE:
			r.note(Step{Kind: Size, Node: node, Path: name, Offset: info.Size()})
			return nil
		case unix.SYS_PWRITE64:
			from, n = int64(a[3]), result
		case unix.SYS_WRITE:
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", tid, int32(a[0])))
			if err != nil {
				return err
			}
			if _, err := fmt.Sscanf(string(text), "pos: %d", &from); err != nil {
				return err
			}
			from, n = from-result, result
		}
		data := make([]byte, n)
		if _, err := file.ReadAt(data, from); err != nil && err != io.EOF {
			return err
		}
		r.note(Step{Kind: Write, Node: node, Path: name, Offset: from, Data: data})
		return nil
	}, nil
}

// named notes names of files that are others now, or gone.
func (r *recorder) named(names map[string]int) error {
	byDir := make(map[string]map[string]int)
	for name, node := range names {
		dir := path.Dir(name)
		if byDir[dir] == nil {
			byDir[dir] = make(map[string]int)
		}
		byDir[dir][path.Base(name)] = node
	}
	for dir, names := range byDir {
		node := r.nodeOf(dir)
		if node == 0 {
			return fmt.Errorf("directory %s was not made under our eyes", dir)
		}
		r.note(Step{Kind: Names, Node: node, IsDir: true, Path: dir, Names: names})
	}
	return nil
}

func (r *recorder) note(s Step) {
	s.Path = strings.TrimPrefix(strings.TrimPrefix(s.Path, r.folder), "/")
	r.log.Steps = append(r.log.Steps, s)
}

// newNode notes that a file or a directory was made.
func (r *recorder) newNode(name string, isDir bool) int {
	number := len(r.log.dirs) + 1
	r.log.dirs[number] = isDir
	r.nodes[inode(name)] = number
	return number
}

func (r *recorder) nodeOf(name string) int { return r.nodes[inode(name)] }

// inode returns the number by which the system knows a file, zero for none.
func inode(name string) uint64 {
	var stat syscall.Stat_t
	if syscall.Stat(name, &stat) != nil {
		return 0
	}
	return stat.Ino
}

// path returns a path that a call is given, empty if it is not below the folder.
func (r *recorder) path(tid int, dir, pointer uint64) (string, error) {
	name, err := r.text(tid, pointer)
	if err != nil {
		return "", err
	}
	whole := name
	if !path.IsAbs(whole) {
		below := fmt.Sprintf("/proc/%d/fd/%d", tid, int32(dir))
		if int32(dir) == unix.AT_FDCWD {
			below = fmt.Sprintf("/proc/%d/cwd", tid)
		}
		above, err := os.Readlink(below)
		if err != nil {
			return "", nil // the call fails
		}
		whole = path.Join(above, whole)
	}
	whole = path.Clean(whole)
	if !strings.HasPrefix(whole, r.folder+"/") {
		return "", nil
	}
	return whole, nil
}

// text reads text of a thread, up to a zero. It is read up to the end of each page of memory, as the next may not be there.
func (r *recorder) text(tid int, at uint64) (string, error) {
	const page = 4096
	var text []byte
	for {
		piece := make([]byte, page-at%page)
		if err := r.memory(tid, at, piece); err != nil {
			return "", err
		}
		if end := bytes.IndexByte(piece, 0); end >= 0 {
			return string(append(text, piece[:end]...)), nil
		}
		text, at = append(text, piece...), at+uint64(len(piece))
	}
}

// memory reads memory of a thread.
func (r *recorder) memory(tid int, at uint64, into []byte) error {
	if len(into) == 0 {
		return nil
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.ReadAt(into, int64(at))
	return err
}
