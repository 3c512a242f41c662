package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/console"
	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/sandbox"
)

// joining is a process about to join a container, or a container about to join a sandbox, seen from the host process
// that stands for it.
type joining struct {
	container *Container
	process   *specs.Process // nil for a container without one
	stdio     []*os.File     // stdin, stdout, stderr; of a terminal the first two
	ours      bool           // stdio is closed here as soon as the keeper has it
	terminal  *os.File       // whose size the process's terminal follows; nil without one
	own       bool           // it is the caller's own: stdio is what the caller has besides
	keeper    *call          // nil until begin
}

// useOwnTerminal makes our terminal the process's. What it reads and writes is our stdin and stdout, terminals or not.
func (j *joining) useOwnTerminal() (restore func() error, err error) {
	tty, err := console.Own()
	if err != nil {
		return nil, err
	}
	j.stdio, j.terminal, j.own = j.stdio[:2], tty, true
	j.setSize()
	return console.RawInput(tty)
}

// openTerminal makes a terminal for the process and gives its master to the engine.
func (j *joining) openTerminal(socket string) error {
	slave, err := newTerminal(socket, j.process)
	if err != nil {
		return err
	}
	for _, f := range j.stdio {
		f.Close() // nothing of the caller's stays open here: it waits for the end of its pipes
	}
	j.stdio, j.terminal = []*os.File{slave, slave}, slave
	return nil
}

// setSize lets the process begin with the size that its terminal has.
func (j *joining) setSize() {
	if w, h, err := console.Size(j.terminal); err == nil && w > 0 {
		j.process.ConsoleSize = &specs.Box{Width: uint(w), Height: uint(h)}
	}
}

// run starts the process, forwards our signals to it, and returns its status. started is called when it runs.
func (j *joining) run(ctx context.Context, started func() error) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)
	raw, err := json.Marshal(j.process)
	if err != nil {
		return 0, fmt.Errorf("encode process: %w", err)
	}
	if err := j.begin(func(k *call) error {
		_, err := k.Exec(ctx, &api.ExecRequest{
			ContainerId: j.container.state.ID, Process: raw, Pid: int32(os.Getpid()), OwnTerminal: j.own,
		})
		return err
	}); err != nil {
		return 0, err
	}
	defer j.keeper.Close()
	if err := started(); err != nil {
		return 0, err
	}
	if j.terminal != nil {
		j.resize(ctx)
	}
	return j.attend(ctx, signals)
}

// begin hands our stdio to the keeper and makes the call that starts the process.
func (j *joining) begin(start func(*call) error) error {
	k, err := j.container.dial(j.stdio...)
	if err != nil {
		return err
	}
	if err := start(k); err != nil {
		k.Close()
		return err
	}
	j.keeper = k
	if j.ours {
		for _, f := range j.stdio {
			if f != j.terminal {
				f.Close()
			}
		}
	}
	return nil
}

// attend forwards our signals to the process until it has exited, and returns its status.
func (j *joining) attend(ctx context.Context, signals <-chan os.Signal) (int, error) {
	go j.forward(ctx, signals)
	answer, err := j.keeper.Wait(ctx, &api.WaitRequest{})
	if errors.Is(err, ErrKeeperGone) {
		return sandbox.Killed, nil
	}
	return int(answer.GetStatus()), err
}

// forward passes our signals on to the process. A signal that comes too late for it is no error.
func (j *joining) forward(ctx context.Context, signals <-chan os.Signal) {
	for sig := range signals {
		switch s := sig.(unix.Signal); {
		case !forwarded(s):
		case s == unix.SIGWINCH && j.terminal != nil:
			j.resize(ctx)
		default:
			j.keeper.Signal(ctx, &api.SignalRequest{ContainerId: j.container.state.ID, Signal: uint32(s)})
		}
	}
}

// resize gives the process's terminal the size of ours. A process that has exited needs none.
func (j *joining) resize(ctx context.Context) {
	if w, h, err := console.Size(j.terminal); err == nil && w > 0 {
		j.keeper.Resize(ctx, &api.ResizeRequest{ContainerId: j.container.state.ID, Width: w, Height: h})
	}
}

// forwarded tells which signals mean the process that we stand for: SIGURG is the Go runtime's own, SIGCHLD and SIGPIPE
// are about our children and pipes.
func forwarded(s unix.Signal) bool {
	return s != unix.SIGURG && s != unix.SIGCHLD && s != unix.SIGPIPE
}
