package agent

import (
	"bytes"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reaper is the only one that waits for children. As PID 1 it gets those of others too: a container's processes become
// children of the agent when the runtime that made them exits, and may be dead by then.
type reaper struct {
	mu      sync.Mutex // held from fork to registration, so that no exit comes between the two
	waiting map[int]*child
	births  int          // runtime calls under way that leave a process behind
	orphans map[int]exit // exits of unknown children during those calls
}

// exit is how a process ended.
type exit struct {
	status unix.WaitStatus
	copied bool // it was its parent's copy to the end, and has executed no program
}

// child is a process whose exit somebody waits for.
type child struct {
	pid  int
	done chan struct{}
	exit // valid when done is closed
}

// newReaper returns a reaper at work.
func newReaper() *reaper {
	r := &reaper{waiting: map[int]*child{}, orphans: map[int]exit{}}
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, unix.SIGCHLD)
	go func() {
		for range deaths {
			r.reap()
		}
	}()
	return r
}

// reap collects all exits that there are. SIGCHLD is one signal for any number of them.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		pid, err := nextExit()
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		c, end := r.waiting[pid], exit{}
		if c != nil || r.births > 0 {
			end.copied = isCopy(pid)
		}
		if _, err := unix.Wait4(pid, &end.status, 0, nil); err != nil {
			continue // EINTR: once more
		}
		if c != nil {
			delete(r.waiting, pid)
			c.exit = end
			close(c.done)
		} else if r.births > 0 {
			r.orphans[pid] = end
		}
	}
}

// nextExit is the pid of a child that has exited and is still to be waited for; 0: there is none.
func nextExit() (int, error) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		return 0, err
	}
	// si_pid is the first of the fields that depend on the signal: asm-generic/siginfo.h, on machines with 64 bits.
	const offset = 16
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), offset))), nil
}

// isCopy says whether a process, which may have exited, has executed no program since it was forked: PF_FORKNOEXEC of
// linux/sched.h, which proc_pid_stat(5) shows as its flags. The kernel takes the flag away before it closes what is to
// be closed on exec (fs/exec.c, begin_new_exec).
func isCopy(pid int) bool {
	const forkNoExec, flags = 0x40, 6 // the field's place behind the name, which may be anything
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= flags {
		return false
	}
	n, err := strconv.ParseUint(string(fields[flags]), 10, 64)
	return err == nil && n&forkNoExec != 0
}

// hasRun says whether a child has executed a program.
func (r *reaper) hasRun(c *child) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[c.pid] != c {
		return !c.copied
	}
	return !isCopy(c.pid)
}

// start runs fork, which returns the pid of a new child, and registers it.
func (r *reaper) start(fork func() (int, error)) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, done: make(chan struct{})}
	r.waiting[pid] = c
	return c, nil
}

// expect makes the reaper remember the exits of unknown children until the returned function is called, so that claim
// finds a process that has already exited. A pid is not used again in so short a time: pid_max is four million.
func (r *reaper) expect() func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.births++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.births--
		if r.births == 0 {
			clear(r.orphans)
		}
	}
}

// claim registers a process that a runtime call under expect has left behind. ECHILD: there is none of this pid.
func (r *reaper) claim(pid int) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &child{pid: pid, done: make(chan struct{})}
	if end, ok := r.orphans[pid]; ok {
		delete(r.orphans, pid)
		c.exit = end
		close(c.done)
		return c, nil
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		return nil, err
	}
	r.waiting[pid] = c
	return c, nil
}

// signal sends a signal to a child, or returns ESRCH when it was reaped. The pid cannot be another's: it is free for
// use again only after reap, under the same lock.
func (r *reaper) signal(c *child, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[c.pid] != c {
		return unix.ESRCH
	}
	return unix.Kill(c.pid, sig)
}
