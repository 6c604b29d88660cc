package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sampling is the time between two looks at a program's memory, unless something else is
// asked for. The kernel keeps the peak itself, so that only what a process takes in its
// very last moments can be missed.
const sampling = 10 * time.Millisecond

// longest is after how long a command is killed: it hangs.
const longest = 10 * time.Minute

// runCommand runs a command and prints a sample of it. Its standard output is
// dropped: for a program that finds /dev/null there that is no work at all. SIGTERM is
// passed on to it, as the way to end it; a second one kills it.
func runCommand(ctx context.Context, args []string) error {
	var s sample
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.StringVar(&s.Case, "case", "", "name of the case")
	flags.StringVar(&s.Program, "program", "", "stock or ours")
	output := flags.String("output", "", "folder whose files are counted after the command")
	every := flags.Duration("every", sampling, "time between two looks at its memory")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("run: no command")
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	command := exec.CommandContext(ctx, flags.Arg(0), flags.Args()[1:]...)
	command.Stderr = os.Stderr
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	defer signal.Stop(stop)
	if err := measure(command, &s, *every, stop); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if *output != "" {
		var err error
		if s.Output, err = folderSize(*output); err != nil {
			return err
		}
	}
	fmt.Println(s)
	return nil
}

// measure runs a command to its end. A signal from stop is passed on to it, and if
// another comes it is killed.
func measure(command *exec.Cmd, s *sample, every time.Duration, stop <-chan os.Signal) error {
	began := time.Now()
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		err := command.Wait()
		s.Wall = time.Since(began)
		ended <- err
	}()
	peaks := make(map[int]int64)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for told := false; ; {
		look(command.Process.Pid, peaks)
		select {
		case err := <-ended:
			state := command.ProcessState
			s.CPU = state.UserTime() + state.SystemTime()
			for _, peak := range peaks {
				s.Largest = max(s.Largest, peak)
				s.Sum += peak
			}
			return err
		case sent := <-stop:
			_ = command.Process.Signal(sent) // it may have ended by itself
			if told {
				_ = command.Process.Kill()
			}
			told = true
		case <-ticker.C:
		}
	}
}

// look notes the peaks of a process and of all that it started. One that has ended
// since has none: it keeps what was noted before.
//
// It is not the kernel's ru_maxrss, which for a process started by this one begins
// with the memory of this one.
func look(pid int, peaks map[int]int64) {
	process := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(process + "/status")
	if err != nil {
		return
	}
	if peak, ok := parsePeak(string(status)); ok {
		peaks[pid] = peak
	}
	threads, _ := filepath.Glob(process + "/task/*/children")
	for _, thread := range threads {
		children, _ := os.ReadFile(thread)
		for _, field := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(field); err == nil {
				look(child, peaks)
			}
		}
	}
}

// parsePeak finds the peak resident memory, in bytes, in a process's status.
//
// Source: VmHWM in proc_pid_status(5).
func parsePeak(status string) (int64, bool) {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kilobytes * 1024, err == nil
		}
	}
	return 0, false
}

// folderSize returns the bytes of the files in a folder.
func folderSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
