package resource

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Victim is the life of the process that RaiseOOM starts, in which it ends badly: it enters the cgroup dir, makes itself
// the one whom the kernel kills first, and says so on ready. Then it reads from order how many bytes to take, and takes
// them. It returns an error when the order does not come, or when it was not killed.
func Victim(dir string, order io.Reader, ready io.Writer) error {
	if err := writeFile("/proc/self", "oom_score_adj", "1000"); err != nil {
		return err
	}
	if err := writeFile(dir, "cgroup.procs", "0"); err != nil {
		return err
	}
	if _, err := ready.Write([]byte{1}); err != nil {
		return err
	}
	var size uint64
	if err := binary.Read(order, binary.NativeEndian, &size); err != nil {
		return err
	}
	taken, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	for i := 0; i < len(taken); i += os.Getpagesize() {
		taken[i] = 1
	}
	return errors.New("the kernel let this process have all that it was told to take")
}

// victim is the process in which Victim lives.
type victim struct {
	cmd   *exec.Cmd
	order io.Writer
	ended chan struct{} // closed when it is dead
}

// startVictim returns when it is in the cgroup dir. The memory that it takes before its order is a program's few MiB.
// The end of ctx kills it.
func startVictim(ctx context.Context, cmd *exec.Cmd, dir string) (*victim, error) {
	cmd.Args = append(cmd.Args, dir)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	order, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start victim: %w", err)
	}
	v := &victim{cmd: cmd, order: order, ended: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	_, err = ready.Read(make([]byte, 1))
	go func() {
		cmd.Wait() // its status tells nothing: whether it was killed for memory the cgroup knows
		stop()
		close(v.ended)
	}()
	if err != nil {
		v.kill()
		return nil, fmt.Errorf("start victim: it does not enter the cgroup: %w", err)
	}
	return v, nil
}

// take orders it to take as many bytes.
func (v *victim) take(bytes uint64) error {
	if err := binary.Write(v.order, binary.NativeEndian, bytes); err != nil {
		return fmt.Errorf("order victim: %w", err)
	}
	return nil
}

// kill returns when it is dead.
func (v *victim) kill() {
	v.cmd.Process.Kill() // fails if it is dead already
	<-v.ended
}

// isGone tells whether an error means that what a file belongs to is no more.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }
