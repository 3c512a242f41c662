package resource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// oomSlack is how much more than now, in bytes, a cgroup may use while RaiseOOM's victim takes that. Its death gives
	// it back, so that those who need memory in that moment find some.
	oomSlack = 16 << 20
	// oomMost is the most that a victim may take.
	oomMost = 512 << 20
)

// RaiseOOM makes the host's kernel tell of an OOM kill in the cgroup, as everyone knows it who watches: the eventfds of
// memory.oom_control fire (kernel cgroup-v1/memory.rst, "OOM Control"), oom_kill in memory.events grows (cgroup-v2.rst).
// For that the limit is set just above what is in use, and a process in the cgroup takes memory until the kernel kills
// it. The limit and all else is afterwards what it was; the page cache that counts here may be gone. It takes some ten
// milliseconds, or until ctx ends. It fails where somebody has told the kernel to kill nobody in this cgroup.
//
// bystanders are the pids, as /proc shows them, of those who live in the cgroup. They are not swapped out, and the kernel
// may not choose them. Without CAP_SYS_RESOURCE it would choose them last; it might, if they needed memory while the
// victim dies. So they should be stopped, or asleep.
//
// victim is a command that is not started. It must end in a call of Victim, with the arguments that are added here. The
// caller should not live in the cgroup, where it may have to wait for the memory that it is to give back: see Leave.
func (c *Cgroup) RaiseOOM(ctx context.Context, victim *exec.Cmd, bystanders []int) error {
	m, err := c.memory()
	if err != nil {
		return err
	}
	raised, forget, err := m.watch()
	if err != nil {
		return fmt.Errorf("watch for OOM kills: %w", err)
	}
	defer forget()
	if err := m.sacrifice(ctx, victim, bystanders, raised); err != nil {
		return fmt.Errorf("raise OOM event: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // cgroup v2 tells of no more than one change in 10 ms
	defer cancel()
	select {
	case <-raised:
		return nil
	case <-ctx.Done():
		return errors.New("raise OOM event: the kernel tells of none")
	}
}

// Leave moves this process to the parent of the cgroup, as far as memory is concerned. On cgroup v2, where processes live
// in leaves only, it does nothing.
func (c *Cgroup) Leave() error {
	m, err := c.memory()
	if err != nil || m.v2 {
		return err
	}
	return writeFile(filepath.Dir(m.dir), "cgroup.procs", "0")
}

// sacrifice has the kernel kill the victim, and returns when that is dead and the cgroup is as it was.
func (m memoryCgroup) sacrifice(ctx context.Context, victim *exec.Cmd, bystanders []int, raised <-chan struct{}) (err error) {
	var undo changes
	defer func() { err = errors.Join(err, undo.undo()) }()
	largest, err := m.protect(bystanders, &undo)
	if err != nil {
		return err
	}
	used, limit, err := m.figures()
	if err != nil {
		return err
	}
	if limit-min(used, limit) < oomSlack { // the victim would not get as far as to be one
		if err := m.setLimit(used+oomSlack, &undo); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // the victim is killed when the thread that started it ends (PR_SET_PDEATHSIG(2const))
	defer runtime.UnlockOSThread()
	v, err := startVictim(ctx, victim, m.dir)
	if err != nil {
		return err
	}
	defer v.kill() // before the limit is what it was: without the victim there is room for that
	if used, _, err = m.figures(); err != nil {
		return err
	}
	limit = max(used, largest) + oomSlack
	if limit-used > oomMost {
		return errors.New("it would take too much memory to be the first whom the kernel kills")
	}
	if err := m.setLimit(limit, &undo); err != nil {
		return err
	}
	if err := v.take(limit); err != nil {
		return err
	}
	select {
	case <-raised:
	case <-v.ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	// At once: while a process dies its memory still counts, and the kernel might look for the next one.
	return errors.Join(err, m.setLimit(limit+oomMost, &undo))
}

func (m memoryCgroup) setLimit(bytes uint64, undo *changes) error {
	if err := undo.change(filepath.Join(m.dir, m.limit), strconv.FormatUint(bytes, 10)); err != nil {
		return fmt.Errorf("set memory limit: %w", err)
	}
	return nil
}

// protect sees to it that the kernel kills none of the bystanders, and swaps nothing out. largest is 0, or how much
// memory the largest of those has who are only less likely to be chosen: a victim that says of itself that it should be
// the first, oom_score_adj of 1000, has the limit added to its own size (mm/oom_kill.c, oom_badness), and is chosen if
// the limit is not less than that.
func (m memoryCgroup) protect(bystanders []int, undo *changes) (largest uint64, err error) {
	if !m.v2 {
		control, err := readTrimmed(filepath.Join(m.dir, m.events))
		if err != nil || strings.HasPrefix(control, "oom_kill_disable 1") {
			return 0, errors.Join(err, errors.New("the cgroup's OOM killer is switched off"))
		}
	}
	for _, file := range []string{m.swap, "memory.oom.group"} { // with the latter all are killed together
		if err := undo.change(filepath.Join(m.dir, file), "0"); err != nil && !isGone(err) {
			return 0, fmt.Errorf("suspend swapping and killing in groups: %w", err)
		}
	}
	for _, pid := range bystanders {
		size, err := protect(pid, undo)
		if err != nil && !isGone(err) {
			return 0, fmt.Errorf("protect from the OOM killer: %w", err)
		}
		largest = max(largest, size)
	}
	return largest, nil
}

// protect protects one process, and returns 0 if that is for sure, else its size in bytes as the OOM killer has it.
func protect(pid int, undo *changes) (size uint64, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	score := filepath.Join(dir, "oom_score_adj")
	err = undo.change(score, "-1000") // never, in any cgroup
	if !errors.Is(err, fs.ErrPermission) {
		return 0, err
	}
	now, err := readTrimmed(score)
	if err != nil {
		return 0, err
	}
	if !strings.HasPrefix(now, "-") && now != "0" {
		if err := undo.change(score, "0"); err != nil {
			return 0, err
		}
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && slices.Contains([]string{"VmRSS:", "VmSwap:", "VmPTE:"}, fields[0]) {
			kib, _ := strconv.ParseUint(fields[1], 10, 64) // proc_pid_status(5)
			size += kib << 10
		}
	}
	return size, err
}

// changes are files of the kernel that have other values than they had.
type changes []change

type change struct{ path, was, is string }

// change writes a value.
func (cs *changes) change(path, value string) error {
	was, err := readTrimmed(path)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Dir(path), filepath.Base(path), value); err != nil {
		return err
	}
	is, err := readTrimmed(path) // the kernel rounds
	if i := slices.IndexFunc(*cs, func(c change) bool { return c.path == path && c.is == was }); i >= 0 {
		(*cs)[i].is = is
	} else {
		*cs = append(*cs, change{path, was, is})
	}
	return err
}

// undo writes what was there at first, but not over what somebody else has written meanwhile.
func (cs changes) undo() error {
	var errs []error
	for _, c := range slices.Backward(cs) {
		now, err := readTrimmed(c.path)
		if err == nil && now == c.is {
			err = writeFile(filepath.Dir(c.path), filepath.Base(c.path), c.was)
		}
		if err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("undo: %w", err))
		}
	}
	return errors.Join(errs...)
}

func readTrimmed(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}
