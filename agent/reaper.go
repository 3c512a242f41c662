package agent

import (
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper is the only one that waits for children. As PID 1 it gets those of others too: a container's processes become
// children of the agent when the runtime that made them exits, and may be dead by then.
type reaper struct {
	mu      sync.Mutex // held from fork to registration, so that no exit comes between the two
	waiting map[int]*child
	births  int                     // runtime calls under way that leave a process behind
	orphans map[int]unix.WaitStatus // exits of unknown children during those calls
}

// child is a process whose exit somebody waits for.
type child struct {
	pid    int
	done   chan struct{}
	status unix.WaitStatus // valid when done is closed
}

// newReaper returns a reaper at work.
func newReaper() *reaper {
	r := &reaper{waiting: map[int]*child{}, orphans: map[int]unix.WaitStatus{}}
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
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c := r.waiting[pid]; c != nil {
			delete(r.waiting, pid)
			c.status = status
			close(c.done)
		} else if r.births > 0 {
			r.orphans[pid] = status
		}
	}
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
	if status, ok := r.orphans[pid]; ok {
		delete(r.orphans, pid)
		c.status = status
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
