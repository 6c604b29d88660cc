package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"basin/internal/client"
	"basin/internal/getopt"
	"basin/internal/monitor"
)

// monitoringOptions say who is told how a receiver is doing.
type monitoringOptions struct {
	MetricsListen string // HOST:PORT; empty is nowhere
	StatusFile    string // path; empty is none
}

// table returns the options, which are basin's own.
func (o *monitoringOptions) table() []getopt.Option {
	return []getopt.Option{
		{Long: "metrics-listen", Whole: true, Value: func(value string) (err error) {
			o.MetricsListen, err = monitor.ListenAddress(value)
			return err
		}},
		{Long: "status-file", Whole: true, Value: func(value string) error {
			if value == "" {
				return errors.New("status file name \"\" is too short")
			}
			o.StatusFile = value
			return nil
		}},
	}
}

// startMonitor begins to tell how the receiver is doing.
func (r *receiveWALRun) startMonitor() (err error) {
	r.monitor, err = monitor.Start(monitor.Options{
		Version: version, Slot: r.o.Slot, Directory: r.o.Directory,
		Progress: r.progress.Status,
		Listen:   r.o.MetricsListen, StatusFile: r.o.StatusFile, Supervisor: monitor.FindSupervisor(os.LookupEnv),
		Interval: min(r.o.StatusInterval, monitor.DefaultInterval),
		Warn:     func(err error) { r.report.warning("%s", err) },
	})
	if err == nil && r.o.MetricsListen != "" {
		r.verbose("metrics are at http://%s/metrics", r.monitor.Address())
	}
	return err
}

// gaps returns what the monitor is to say of log that is missing.
func (r *receiveWALRun) gaps() (texts []string) {
	for _, gap := range r.dir.Gaps() {
		texts = append(texts, gap.String())
	}
	return texts
}

// endMonitor tells how the receiver ends, whose run returned err.
func (r *receiveWALRun) endMonitor(err error) {
	news := err
	if errors.Is(err, errDisconnected) || errors.As(err, new(interrupted)) {
		news = nil // the one was told before, the other is no error
	}
	r.monitor.End(news, endingOf(r.told(), err))
}

// endingOf returns how a receiver ends whose run returned err. told is why it was
// told to end, nil if it was not.
func endingOf(told, err error) monitor.Ending {
	e := monitor.Ending{Reason: monitor.AtEndPosition, ExitStatus: statusOf(err)}
	i := interrupted{}
	switch {
	case errors.As(told, &i):
		e.Reason, e.Signal = monitor.BySignal, unix.SignalName(i.signal)
		if err != nil { // endWith then has the signal end the process
			e.ExitStatus = signalStatus + int(i.signal)
		}
	case errors.Is(err, client.ErrGap):
		e.Reason = monitor.WithGap
	case err != nil:
		e.Reason = monitor.WithError
	}
	return e
}
