package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/program"
	"github.com/hyper-runtime/hyper/resource"
	"github.com/hyper-runtime/hyper/sandbox"
	"github.com/hyper-runtime/hyper/store"
)

// DefaultRoot is where containers are kept that no engine gave a root of its own.
const DefaultRoot = store.DefaultRoot

// Container is a verb's hold on a container: what its run directory says, and the way to its keeper.
type Container struct {
	root  string
	dir   *store.Dir
	state store.State

	// In the process that created the container:
	child   *exec.Cmd // the keeper or the stand-in
	relayed int64     // how far the keeper's log has been repeated in ours
}

// Load finds the container below root.
func Load(root, id string) (*Container, error) {
	st, err := store.Open(root)
	if err != nil {
		return nil, err
	}
	dir, err := st.Get(id)
	if err != nil {
		return nil, err
	}
	state, err := dir.LoadState()
	if err != nil {
		return nil, err
	}
	return &Container{root: root, dir: dir, state: state}, nil
}

// keeper identifies the keeper of the container's sandbox; the zero value, which nobody is, before there is one.
func (c *Container) keeper() program.ID { return program.ID(c.state.Keeper) }

// body identifies the host's process that stands for the container.
func (c *Container) body() program.ID { return body(c.state) }

// Status is worked out from what the keeper last wrote and whether it and the container's own process live.
func (c *Container) Status() specs.ContainerState {
	if !c.keeper().Alive() || c.body() != c.keeper() && !c.body().Alive() {
		return specs.StateStopped
	}
	return specs.ContainerState(c.state.Status)
}

// Pid is the host's process that stands for the container; 0 once it has stopped.
func (c *Container) Pid() int {
	if c.Status() == specs.StateStopped {
		return 0
	}
	return c.body().PID
}

// State is what the state verb prints.
func (c *Container) State() oci.State {
	return oci.State{
		Version: c.state.OCIVersion, ID: c.state.ID, Pid: c.Pid(), Status: c.Status(), Bundle: c.state.Bundle,
		Rootfs: c.state.Rootfs, Created: c.state.Created, Annotations: c.state.Annotations,
	}
}

// dial connects to the keeper of a container that has not stopped.
func (c *Container) dial(files ...*os.File) (*call, error) {
	if c.Status() == specs.StateStopped {
		return nil, sandbox.ErrNotRunning
	}
	return c.reach(files...)
}

// reach connects to the keeper of the container's sandbox, which must live.
func (c *Container) reach(files ...*os.File) (*call, error) {
	dir := c.dir
	if c.state.SandboxID != "" {
		st, err := store.Open(c.root)
		if err != nil {
			return nil, err
		}
		if dir, err = st.Get(c.state.SandboxID); err != nil {
			return nil, fmt.Errorf("sandbox %s: %w", c.state.SandboxID, err)
		}
	}
	conn, err := dir.Dial()
	if hungUp(err) {
		return nil, sandbox.ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("reach keeper: %w", err)
	}
	k, err := dial(conn, files...)
	if hungUp(err) {
		return nil, sandbox.ErrNotRunning
	}
	return k, err
}

// hungUp tells whether an error means that the keeper has ended, or is about to: with its container.
func hungUp(err error) bool {
	return errors.Is(err, ErrKeeperGone) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// ask makes one call on a connection of its own.
func (c *Container) ask(do func(*call) error) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(conn)
}

// Start lets the container's process run, then runs the poststart hooks. If one fails the container is killed, as runc
// does. So is one without a process: nothing else could be done with it.
func (c *Container) Start(ctx context.Context) error {
	if c.Status() == specs.StateStopped {
		return sandbox.ErrHasStopped
	}
	spec, err := c.spec()
	if err != nil {
		return err
	}
	if spec.Process == nil {
		return errors.Join(sandbox.ErrNothingToStart, c.end(ctx))
	}
	if err := c.ask(func(k *call) error {
		_, err := k.Start(ctx, &api.StartRequest{ContainerId: c.state.ID})
		return err
	}); err != nil {
		return err
	}
	if spec.Hooks == nil {
		return nil
	}
	if err := c.runHooks(ctx, "poststart", spec.Hooks.Poststart, specs.StateRunning); err != nil {
		return errors.Join(err, c.end(ctx))
	}
	return nil
}

// Kill sends the signal to the container's init, or to all of its processes. all works on a stopped container too (runc's
// kill --all, which engines call after the init has exited): one that shares the pid namespace of another container of
// its sandbox may have left processes there, else there is nobody to signal.
func (c *Container) Kill(ctx context.Context, signal unix.Signal, all bool) error {
	reach := c.dial
	if all && c.Status() == specs.StateStopped {
		if c.state.SandboxID == "" || !c.keeper().Alive() {
			return nil
		}
		reach = c.reach
	}
	k, err := reach()
	if err != nil {
		return err
	}
	defer k.Close()
	_, err = k.Signal(ctx, &api.SignalRequest{ContainerId: c.state.ID, Signal: uint32(signal), All: all})
	if hungUp(err) {
		return sandbox.ErrNotRunning // engines know this text, and take it for what it is
	}
	return err
}

// Pause freezes the container's processes.
func (c *Container) Pause(ctx context.Context) error {
	return c.ask(func(k *call) error {
		_, err := k.Pause(ctx, &api.PauseRequest{ContainerId: c.state.ID})
		return err
	})
}

// Resume lets them go on.
func (c *Container) Resume(ctx context.Context) error {
	return c.ask(func(k *call) error {
		_, err := k.Resume(ctx, &api.ResumeRequest{ContainerId: c.state.ID})
		return err
	})
}

// Update changes the limits of the container in its guest.
func (c *Container) Update(ctx context.Context, resources *specs.LinuxResources) error {
	raw, err := json.Marshal(resources)
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	return c.ask(func(k *call) error {
		_, err := k.Update(ctx, &api.UpdateRequest{ContainerId: c.state.ID, Resources: raw})
		return err
	})
}

// Processes are the host's pids that stand for the container's processes. A stopped container has none.
func (c *Container) Processes(ctx context.Context) (pids []int, err error) {
	if c.Status() == specs.StateStopped {
		return []int{}, nil
	}
	err = c.ask(func(k *call) error {
		answer, err := k.Processes(ctx, &api.ProcessesRequest{ContainerId: c.state.ID})
		for _, pid := range answer.GetPids() {
			pids = append(pids, int(pid))
		}
		return err
	})
	return pids, err
}

// endTimeout is how long a killed container has to end by itself before its process on the host is killed: of the
// sandbox's first container that is the keeper, and the VM ends with it.
const endTimeout = 15 * time.Second

// end kills the container and returns when its process on the host is gone. Asked, the guest brings what it has written
// to the host before it goes; if it does not answer it is not waited for.
func (c *Container) end(ctx context.Context) error {
	if !c.body().Alive() {
		return nil
	}
	asked, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	ended := c.Status() == specs.StateStopped // and only its process is still to go
	if (ended || c.Kill(asked, unix.SIGKILL, false) == nil) && c.body().Wait(asked) == nil {
		return nil
	}
	if err := c.body().Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill container's process: %w", err)
	}
	return c.body().Wait(ctx)
}

// leave takes a container that has ended out of the sandbox of another, if that lives.
func (c *Container) leave(ctx context.Context) error {
	if c.state.SandboxID == "" || !c.keeper().Alive() {
		return nil
	}
	k, err := c.reach()
	if err == nil {
		defer k.Close()
		_, err = k.Remove(ctx, &api.RemoveRequest{ContainerId: c.state.ID})
	}
	if err != nil && c.keeper().Alive() {
		return fmt.Errorf("leave sandbox %s: %w", c.state.SandboxID, err)
	}
	return nil
}

// Delete removes a stopped or created container, also one whose create was killed; force kills it first, whatever it does. Then it runs the poststop
// hooks; one that fails is warned of (runtime-spec, runtime.md, Lifecycle).
func (c *Container) Delete(ctx context.Context, force bool) error {
	unlock, err := c.dir.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	if c.state, err = c.dir.LoadState(); err != nil {
		return err
	}
	status := c.Status()
	if status != specs.StateStopped && status != specs.StateCreated && !force {
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", c.state.ID, status)
	}
	if status == specs.StateCreated && !force {
		if err := c.checkNoMembers(); err != nil {
			return err
		}
	}
	if err := c.end(ctx); err != nil {
		return err
	}
	if err := c.leave(ctx); err != nil {
		return err
	}
	if len(c.state.Cgroup) == 0 {
		return c.dir.Remove() // its create was killed before there was anything else
	}
	var cgroup resource.Cgroup
	if err := json.Unmarshal(c.state.Cgroup, &cgroup); err != nil {
		return fmt.Errorf("decode cgroup: %w", err)
	}
	if err := cgroup.Remove(); err != nil {
		return err
	}
	spec, err := c.spec()
	if err != nil {
		return errors.Join(err, c.dir.Remove())
	}
	if err := cleanNetwork(spec); err != nil {
		return err
	}
	if err := c.dir.Remove(); err != nil {
		return err
	}
	if spec.Hooks == nil {
		return nil
	}
	for _, hook := range spec.Hooks.Poststop {
		if err := c.runHooks(ctx, "poststop", []specs.Hook{hook}, specs.StateStopped); err != nil {
			slog.Warn("the container is deleted all the same", "error", err)
		}
	}
	return nil
}

// checkNoMembers refuses when a container in this one's VM has not stopped.
func (c *Container) checkNoMembers() error {
	return eachContainer(c.root, func(other *Container) error {
		if other.state.SandboxID == c.state.ID && other.Status() != specs.StateStopped {
			return fmt.Errorf("cannot delete container %s: its sandbox has container %s, which is not stopped: %s",
				c.state.ID, other.state.ID, other.Status())
		}
		return nil
	})
}

// wait returns the container's status, in the process that created it.
func (c *Container) wait() (int, error) {
	err := c.child.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("wait for container: %w", err)
	}
	ws := c.child.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// bundle is the bundle as create read it.
func (c *Container) bundle() (*oci.Bundle, error) {
	raw, err := c.dir.LoadConfig()
	if err != nil {
		return nil, err
	}
	return oci.Decode(c.state.Bundle, raw)
}

// spec is the configuration that create read.
func (c *Container) spec() (*specs.Spec, error) {
	bundle, err := c.bundle()
	if err != nil {
		return nil, err
	}
	return bundle.Spec, nil
}

func (c *Container) hooks() (specs.Hooks, error) {
	spec, err := c.spec()
	if err != nil || spec.Hooks == nil {
		return specs.Hooks{}, err
	}
	return *spec.Hooks, nil
}

// Process is the container's first process as its configuration has it.
func (c *Container) Process() (*specs.Process, error) {
	spec, err := c.spec()
	if err != nil {
		return nil, err
	}
	if spec.Process == nil {
		return &specs.Process{Cwd: "/"}, nil
	}
	return spec.Process, nil
}

// runHooks runs hooks of one kind with the container's state, which is then status.
func (c *Container) runHooks(ctx context.Context, kind string, hooks []specs.Hook, status specs.ContainerState) error {
	state := c.State().Hook()
	state.Status = status
	if status != specs.StateStopped {
		state.Pid = c.body().PID
	}
	return oci.RunHooks(ctx, kind, hooks, state)
}
