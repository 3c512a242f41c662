package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/program"
	"github.com/hyper-runtime/hyper/resource"
	"github.com/hyper-runtime/hyper/sandbox"
)

// The hidden verbs of the process that makes the host's kernel tell of an OOM kill, and of the one that dies for it.
const (
	OOMVerb    = "oom"
	VictimVerb = "victim"
)

// OOM is the life of the first: its arguments are a container's cgroup as its state has it, and the pids of the processes
// in it. It is not the keeper that does this, which lives in the cgroup and may have to wait for memory meanwhile.
func OOM(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), oomTime)
	defer cancel()
	if len(args) == 0 {
		return errors.New("no cgroup given")
	}
	var cgroup resource.Cgroup
	if err := json.Unmarshal([]byte(args[0]), &cgroup); err != nil {
		return fmt.Errorf("decode cgroup: %w", err)
	}
	own, err := program.Self()
	if err != nil {
		return err
	}
	bystanders := []int{own.PID}
	for _, arg := range args[1:] {
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return fmt.Errorf("process: %w", err)
		}
		bystanders = append(bystanders, pid)
	}
	if err := cgroup.Leave(); err != nil {
		return err
	}
	return cgroup.RaiseOOM(ctx, selfCommand(VictimVerb), bystanders)
}

// Victim is the life of the other.
func Victim(args []string) error {
	if len(args) == 0 {
		return errors.New("no cgroup given")
	}
	return resource.Victim(args[0], os.Stdin, os.Stdout)
}

const (
	oomTime  = 10 * time.Second // that the host's kernel has: a hang guard
	oomPause = time.Second      // before each event of a running container: the guest is not to busy the host
)

// ooms is what the host was told of a container's OOM kills.
type ooms struct {
	follow sync.Once // followOOM

	mu   sync.Mutex // held while the host is told
	told uint64     // how many there were then
}

// followOOM tells the host of OOM kills in the guest while the container runs. The last ones come with its exit. The guest
// is asked only after a pause, which keeps it off the start of the container's program.
func (k *keeper) followOOM(r *record, c *sandbox.Container) {
	r.ooms.follow.Do(func() {
		go func() {
			for known := uint64(0); ; {
				select {
				case <-time.After(oomPause):
				case <-c.Init().Exited():
					return
				}
				kills, err := c.AwaitOOM(context.Background(), known)
				if err != nil || kills <= known {
					return // the guest ends, or the container has
				}
				known = kills
				k.raiseOOM(r, kills)
			}
		}()
	})
}

// raiseOOM makes the host's kernel say of the container's cgroup, where engines watch for it, what the guest's has said:
// that it was out of memory. kills is the guest's count; nothing is done if the host knows. It returns when it was said,
// or if that fails.
func (k *keeper) raiseOOM(r *record, kills uint64) {
	r.ooms.mu.Lock()
	defer r.ooms.mu.Unlock()
	if kills <= r.ooms.told {
		return
	}
	r.ooms.told = kills
	begin := time.Now()
	if err := k.tryRaiseOOM(r); err != nil {
		slog.Warn("the host is not told of an OOM kill in the guest", "container", r.dir.ID, "error", err)
		return
	}
	slog.Debug("the host is told of an OOM kill in the guest", "container", r.dir.ID, "took", time.Since(begin))
}

func (k *keeper) tryRaiseOOM(r *record) error {
	r.mu.Lock()
	args := []string{OOMVerb, string(r.state.Cgroup)}
	r.mu.Unlock()
	if id := r.body(); id.Alive() {
		args = append(args, strconv.Itoa(id.PID))
	}
	if vm := k.sandbox.VM().ID(); r == &k.record && vm.Alive() { // it is in the cgroup of the sandbox's first container
		args = append(args, strconv.Itoa(vm.PID))
		// Nothing that it does may need memory in that moment. The keeper or the stand-in, which is there too, only waits.
		if err := vm.Signal(unix.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop VM: %w", err)
		}
		defer vm.Signal(unix.SIGCONT)
	}
	p, err := program.Start(program.Command{Path: self, Args: args})
	if err != nil {
		return err
	}
	defer p.Kill()
	select {
	case <-p.Done():
		return p.Err()
	case <-time.After(2 * oomTime):
		return errors.New("the process that is to tell it hangs")
	}
}
