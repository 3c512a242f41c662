package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ID names one process for ever. A pid alone does not: pids are used again.
type ID struct {
	// PID is the process as the mounted /proc shows it. That is not always the number that system calls of this
	// process take: a keeper can be in a pid namespace of its own while /proc is the host's.
	PID int `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat, in clock ticks since the host's boot.
	StartTime uint64 `json:"startTime"`
}

// Identify returns the identity of the process that /proc shows as pid. It fails with os.ErrProcessDone when there is
// none; a zombie still has an identity.
func Identify(pid int) (ID, error) {
	s, err := readStat(strconv.Itoa(pid))
	if err != nil {
		return ID{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return s.ID, nil
}

// Self returns the identity of this process. It asks /proc, because getpid answers 1 in a pid namespace of one's own.
func Self() (ID, error) {
	s, err := readStat("self")
	if err != nil {
		return ID{}, fmt.Errorf("identify this process: %w", err)
	}
	return s.ID, nil
}

// Alive tells whether this very process still runs: a zombie does not, nor does another process with its pid.
func (id ID) Alive() bool {
	s, err := readStat(strconv.Itoa(id.PID))
	return err == nil && s.ID == id && s.state != 'Z' && s.state != 'X'
}

// Signal sends a signal to this very process, never to a later one with its pid. It fails with os.ErrProcessDone when
// the process is gone.
func (id ID) Signal(signal unix.Signal) error {
	fd, err := id.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
		if err == unix.ESRCH {
			err = os.ErrProcessDone
		}
		return fmt.Errorf("signal process %d: %w", id.PID, err)
	}
	return nil
}

// Wait returns nil when the process is gone or a zombie, and the context's error when that ends first.
func (id ID) Wait(ctx context.Context) error {
	fd, err := id.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	} else if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "pidfd") // does not block, so the runtime polls it: no thread waits here
	defer file.Close()
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", id.PID, err)
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		// A pidfd is readable once its process has ended (pidfd_open(2)).
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != nil && err != unix.EINTR {
			failed = err
			return true
		}
		return n > 0
	})
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", id.PID, err)
	}
	return nil
}

// open returns a pidfd of the process, or os.ErrProcessDone.
func (id ID) open() (int, error) {
	if id.PID <= 0 {
		return -1, fmt.Errorf("open process %d: no such pid", id.PID)
	}
	pid, err := ownPID(id.PID)
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err == unix.ESRCH {
		err = os.ErrProcessDone
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	// The descriptor now holds on to one process. Only if that one shows under our pid and start time is it ours.
	held, err := identifyPidfd(fd)
	if err == nil && held != id {
		err = os.ErrProcessDone
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	return fd, nil
}

// identifyPidfd returns the identity of the process that a pidfd of ours holds, or os.ErrProcessDone.
func identifyPidfd(fd int) (ID, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return ID{}, err
	}
	// Pid is seen from the mounted /proc; -1 says that the process has been reaped (proc_pid_fdinfo(5)).
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				return ID{}, fmt.Errorf("read pidfd %d: %w", fd, err)
			}
			if pid <= 0 {
				return ID{}, os.ErrProcessDone
			}
			return Identify(pid)
		}
	}
	return ID{}, fmt.Errorf("descriptor %d is no pidfd", fd)
}

// ownPID translates a pid of the mounted /proc to the one that this process's system calls take. NSpid of
// /proc/PID/status lists a process's pids from /proc's pid namespace inwards, so our own list tells our depth.
func ownPID(pid int) (int, error) {
	own, err := namespacePIDs("self")
	if err != nil {
		return 0, err
	}
	pids, err := namespacePIDs(strconv.Itoa(pid))
	if err != nil {
		return 0, err
	}
	if len(pids) < len(own) {
		return 0, errors.New("it is outside this pid namespace")
	}
	return strconv.Atoi(pids[len(own)-1])
}

func namespacePIDs(process string) ([]string, error) {
	status, err := readProc(process, "status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.Fields(value), nil
		}
	}
	return nil, fmt.Errorf("no NSpid in /proc/%s/status", process)
}

type stat struct {
	ID
	state byte
}

// readStat reads /proc/PROCESS/stat (proc_pid_stat(5)). The second field is the command's name in parentheses, and may
// hold blanks and parentheses itself: the fields are counted from the last one.
func readStat(process string) (stat, error) {
	data, err := readProc(process, "stat")
	if err != nil {
		return stat{}, err
	}
	pid, _, _ := bytes.Cut(data, []byte(" "))
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return stat{}, fmt.Errorf("malformed /proc/%s/stat", process)
	}
	s := stat{state: fields[0][0]} // field 3
	if s.PID, err = strconv.Atoi(string(pid)); err != nil {
		return stat{}, fmt.Errorf("malformed /proc/%s/stat: %w", process, err)
	}
	if s.StartTime, err = strconv.ParseUint(string(fields[19]), 10, 64); err != nil { // field 22
		return stat{}, fmt.Errorf("malformed /proc/%s/stat: %w", process, err)
	}
	return s, nil
}

func readProc(process, file string) ([]byte, error) {
	data, err := os.ReadFile("/proc/" + process + "/" + file)
	// ESRCH: it went away between open and read.
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil, os.ErrProcessDone
	}
	return data, err
}
