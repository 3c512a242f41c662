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
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/sandbox"
)

// StandInVerb is the hidden verb of the process that stands for a detached exec process.
const StandInVerb = "stand-in"

// ExecOptions say which process to start in a container, and what to do with it.
type ExecOptions struct {
	Process       *specs.Process
	Detach        bool   // return once it runs; a stand-in takes our stdio
	ConsoleSocket string // gets the terminal's master when detached
	PidFile       string // written when the process runs, last of all; empty: none
}

// Exec starts one more process in the container. It returns the process's status, or 0 at once when detached.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (int, error) {
	if c.Status() == specs.StateStopped {
		return 0, sandbox.ErrExecStopped
	}
	if o.Process.Terminal && o.Detach && o.ConsoleSocket == "" {
		return 0, errors.New("cannot allocate tty if runc will detach without setting console socket")
	}
	if o.ConsoleSocket != "" && !(o.Process.Terminal && o.Detach) {
		return 0, errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	if o.Detach {
		return 0, c.execDetached(o)
	}
	j := joining{container: c, process: o.Process, stdio: []*os.File{os.Stdin, os.Stdout, os.Stderr}}
	if o.Process.Terminal {
		restore, err := j.useOwnTerminal()
		if err != nil {
			return 0, err
		}
		defer restore()
	}
	return j.run(ctx, func() error {
		if o.PidFile == "" {
			return nil
		}
		return writePidFile(o.PidFile, os.Getpid())
	})
}

// standInRequest is what exec tells the stand-in; standInAnswer is the reply when the process runs, or cannot.
type (
	standInRequest struct {
		Root, ID      string
		Process       *specs.Process
		ConsoleSocket string
	}
	standInAnswer struct{ Error string }
)

func (c *Container) execDetached(o ExecOptions) error {
	child, err := spawn(StandInVerb, c.state.ID, o.Process.Args, oci.HostNamespaces{})
	if err != nil {
		return err
	}
	defer child.conn.Close()
	answer := standInAnswer{Error: "the process's stand-in has ended"}
	err = json.NewEncoder(child.conn).Encode(standInRequest{
		Root: c.root, ID: c.state.ID, Process: o.Process, ConsoleSocket: o.ConsoleSocket,
	})
	if err == nil {
		err = json.NewDecoder(child.conn).Decode(&answer)
	}
	if err != nil || answer.Error != "" {
		child.kill()
		return errors.New(answer.Error)
	}
	if o.PidFile != "" {
		if err := writePidFile(o.PidFile, child.pid()); err != nil {
			child.kill()
			return err
		}
	}
	return nil
}

// StandIn is the life of a stand-in. It returns the status to exit with: the process's.
func StandIn() int {
	stdio, err := takeStdio()
	if err != nil {
		return 1
	}
	conn, err := inherited(requestFD)
	if err != nil {
		return 1
	}
	defer conn.Close()
	answer := func(err error) error {
		var a standInAnswer
		if err != nil {
			a.Error = err.Error()
		}
		return json.NewEncoder(conn).Encode(a)
	}
	var r standInRequest
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return 1
	}
	status, err := r.run(stdio[:], func() error { return answer(nil) })
	if err != nil {
		answer(err) // the answer to a caller that waits; one that has gone needs none
		return 1
	}
	return status
}

func (r *standInRequest) run(stdio []*os.File, started func() error) (int, error) {
	c, err := Load(r.Root, r.ID)
	if err != nil {
		return 0, err
	}
	j := joining{container: c, process: r.Process, stdio: stdio, ours: true}
	if r.ConsoleSocket != "" {
		if err := j.openTerminal(r.ConsoleSocket); err != nil {
			return 0, err
		}
	}
	return j.run(context.Background(), started)
}

// joining is a process about to join a container, seen from the host process that stands for it.
type joining struct {
	container *Container
	process   *specs.Process
	stdio     []*os.File // stdin, stdout, stderr; of a terminal the first two
	ours      bool       // stdio is closed here as soon as the keeper has it
	terminal  *os.File   // whose size the process's terminal follows; nil without one
}

// useOwnTerminal makes our stdin the process's terminal.
func (j *joining) useOwnTerminal() (restore func() error, err error) {
	if !console.IsTerminal(os.Stdin) {
		return nil, errors.New("provided file is not a console")
	}
	j.stdio, j.terminal = j.stdio[:2], os.Stdin
	j.setSize()
	return console.Raw(os.Stdin)
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
	k, err := j.container.dial(j.stdio...)
	if err != nil {
		return 0, err
	}
	defer k.Close()
	if _, err := k.Exec(ctx, &api.ExecRequest{
		ContainerId: j.container.state.ID, Process: raw, Pid: int32(os.Getpid()),
	}); err != nil {
		return 0, err
	}
	if j.ours {
		for _, f := range j.stdio {
			if f != j.terminal {
				f.Close()
			}
		}
	}
	if err := started(); err != nil {
		return 0, err
	}
	go j.forward(ctx, k, signals)
	answer, err := k.Wait(ctx, &api.WaitRequest{})
	if errors.Is(err, ErrKeeperGone) {
		return sandbox.Killed, nil
	}
	return int(answer.GetStatus()), err
}

// forward passes our signals on to the process. A signal that comes too late for it is no error.
func (j *joining) forward(ctx context.Context, k *call, signals <-chan os.Signal) {
	if j.terminal != nil {
		j.resize(ctx, k)
	}
	for sig := range signals {
		switch s := sig.(unix.Signal); {
		case !forwarded(s):
		case s == unix.SIGWINCH && j.terminal != nil:
			j.resize(ctx, k)
		default:
			k.Signal(ctx, &api.SignalRequest{ContainerId: j.container.state.ID, Signal: uint32(s)})
		}
	}
}

func (j *joining) resize(ctx context.Context, k *call) {
	if w, h, err := console.Size(j.terminal); err == nil && w > 0 {
		k.Resize(ctx, &api.ResizeRequest{ContainerId: j.container.state.ID, Width: w, Height: h})
	}
}

// forwarded tells which signals mean the process that we stand for: SIGURG is the Go runtime's own, SIGCHLD and SIGPIPE
// are about our children and pipes.
func forwarded(s unix.Signal) bool {
	return s != unix.SIGURG && s != unix.SIGCHLD && s != unix.SIGPIPE
}
