package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// What engines look for in the texts: see containerd's shim (process/utils.go), CRI-O (runtime_oci.go), runc's tests.
var (
	errNoContainer = status.Error(codes.NotFound, "container does not exist")
	errNoProcess   = status.Error(codes.NotFound, "exec process does not exist")
	errExists      = status.Error(codes.AlreadyExists, "container with given ID already exists")
)

// container is a container that the runtime has created.
type container struct {
	id     string
	cgroup string   // path in the guest's cgroup tree
	init   *process // nil until created; set under the agent's mu

	life sync.Mutex // held by Start, Pause, Resume, Update and Delete, which come one after the other

	mu      sync.Mutex
	execs   map[string]*process // nil process: its exec is under way
	started bool                // these three are set under life too
	paused  bool
	deleted bool
}

// check says what is wrong with a request to create a container.
func check(r *protocol.CreateRequest) error {
	if id := r.ContainerId; id == "" || id == "." || id == ".." || strings.ContainsAny(id, "/\x00") {
		return status.Errorf(codes.InvalidArgument, "invalid container id %q", id)
	}
	if r.Program == nil {
		return status.Error(codes.InvalidArgument, "not a program that can be run")
	}
	if path := r.Cgroup; !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return status.Errorf(codes.InvalidArgument, "no usable cgroup: %q", path)
	}
	return nil
}

// Create implements protocol.AgentService.
func (a *Agent) Create(ctx context.Context, r *protocol.CreateRequest) (*protocol.CreateResponse, error) {
	if err := check(r); err != nil {
		return nil, err
	}
	id := r.ContainerId
	c := &container{id: id, cgroup: r.Cgroup, execs: map[string]*process{}}
	a.mu.Lock()
	if a.containers[id] != nil {
		a.mu.Unlock()
		return nil, errExists
	}
	a.containers[id] = c
	a.mu.Unlock()

	p, err := a.create(ctx, c, r)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		delete(a.containers, id)
		a.dropStreams(r.Streams)
		return nil, err
	}
	c.init = p
	go p.attend(a.reaper, func(answer *protocol.WaitResponse) { a.lastOfInit(c, answer) })
	p.copy(a.streams)
	return &protocol.CreateResponse{Pid: uint32(p.pid)}, nil
}

// create runs the runtime's create, and leaves nothing behind when it fails.
func (a *Agent) create(ctx context.Context, c *container, r *protocol.CreateRequest) (_ *process, err error) {
	bundle := filepath.Join(a.config.Bundles, c.id)
	if err := os.Mkdir(bundle, 0o700); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(bundle)
		}
	}()
	config, err := withHome(r.Spec, r.Program.Home, r.Root)
	if err != nil {
		return nil, err
	}
	later := late{arg0: r.Program.Command, hooks: r.StartContainerHooks, output: filepath.Join(bundle, "hooks")}
	if config, err = later.withHookOutput(config); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unix.Rmdir(filepath.Join(a.config.Cgroups, c.cgroup))
		}
	}()
	if config, err = a.withGuard(config, c.cgroup); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600); err != nil {
		return nil, fmt.Errorf("write spec: %w", err)
	}
	if err := a.mountShm(r.Shm); err != nil {
		return nil, err
	}
	call := a.newCall()
	defer call.remove()
	io, err := openStdio(r.Streams, r.Program.Terminal)
	if err != nil {
		return nil, err
	}
	left, err := call.spawn(ctx, io, r.Program.Terminal, later, []string{"create", "--bundle=" + bundle}, c.id)
	if err != nil {
		io.close()
		// What the runtime leaves when it was killed. Its own error is the one to report.
		_ = a.quiet(context.Background(), "delete", "--force", c.id)
		return nil, err
	}
	return newProcess(left), nil
}

// lastOfInit completes the answer for a container's exit, and makes the host see all that its processes wrote to files.
func (a *Agent) lastOfInit(c *container, answer *protocol.WaitResponse) {
	c.mu.Lock()
	if c.init.killer != 0 && unix.Signal(answer.Signal) == unix.SIGKILL {
		answer.Signal = uint32(c.init.killer)
	}
	c.mu.Unlock()
	answer.OomKills = a.oomKills(c)
	if share, err := unix.Open(a.config.Share, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		// A host that does not take the bytes any more is not told so here: the exit is what it wants to know.
		_ = unix.Syncfs(share)
		unix.Close(share)
	}
}

// container returns a created container.
func (a *Agent) container(id string) (*container, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.containers[id]; c != nil && c.init != nil {
		return c, nil
	}
	return nil, errNoContainer
}

// hold returns a created container that stays one until release is called, in which no other call that holds it runs.
func (a *Agent) hold(id string) (c *container, release func(), err error) {
	if c, err = a.container(id); err != nil {
		return nil, nil, err
	}
	c.life.Lock()
	if c.deleted {
		c.life.Unlock()
		return nil, nil, errNoContainer
	}
	return c, c.life.Unlock, nil
}

// process returns the container's init, or one of its exec processes.
func (a *Agent) process(id, exec string) (*container, *process, error) {
	c, err := a.container(id)
	if err != nil || exec == "" {
		return c, c.initProcess(), err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.execs[exec]; p != nil {
		return c, p, nil
	}
	return nil, nil, errNoProcess
}

func (c *container) initProcess() *process {
	if c == nil {
		return nil
	}
	return c.init
}

// reserve takes an exec id, if a process can be started in the container now.
func (c *container) reserve(exec string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.execs[exec]; taken {
		return status.Error(codes.AlreadyExists, "exec process with given ID already exists")
	}
	if c.deleted {
		return errNoContainer
	}
	if c.init.hasExited() {
		return status.Error(codes.FailedPrecondition, "cannot exec in a stopped container")
	}
	if c.paused {
		return status.Error(codes.FailedPrecondition, "cannot exec in a paused container")
	}
	c.execs[exec] = nil
	return nil
}

// setExec stores the process of a reserved exec id; nil gives the id back. It returns false in a deleted container.
func (c *container) setExec(exec string, p *process) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p == nil || c.deleted {
		delete(c.execs, exec)
		return !c.deleted
	}
	c.execs[exec] = p
	return true
}

// Start implements protocol.AgentService.
func (a *Agent) Start(ctx context.Context, r *protocol.StartRequest) (*protocol.StartResponse, error) {
	c, err := a.letGo(ctx, r.ContainerId)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.init.running:
		return &protocol.StartResponse{}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// letGo lets the container's init go on, to the startContainer hooks and then its program.
func (a *Agent) letGo(ctx context.Context, id string) (*container, error) {
	c, release, err := a.hold(id)
	if err != nil {
		return nil, err
	}
	defer release()
	if c.init.hasExited() {
		return nil, status.Error(codes.FailedPrecondition, "cannot start a container that has stopped")
	}
	if c.started {
		return nil, status.Error(codes.FailedPrecondition, "cannot start an already running container")
	}
	if err := a.quiet(ctx, "start", c.id); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started = true
	return c, nil
}

// signalInit sends a signal to the container's init. Before Start that is the runtime's own process, which as PID 1 of
// its namespace ignores what it does not handle: a signal that would end a process kills it then, as with runc, and is
// reported as its end.
func (c *container) signalInit(r *reaper, sig unix.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started || !endsProcess(sig) {
		return r.signal(c.init.child, sig)
	}
	err := r.signal(c.init.child, unix.SIGKILL)
	if err == nil && c.init.killer == 0 {
		c.init.killer = sig
	}
	return err
}

// endsProcess says whether a signal's default action ends the process: signal(7).
func endsProcess(sig unix.Signal) bool {
	switch sig {
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGWINCH:
		return false
	}
	return true
}

// Pause implements protocol.AgentService.
func (a *Agent) Pause(ctx context.Context, r *protocol.PauseRequest) (*protocol.PauseResponse, error) {
	return &protocol.PauseResponse{}, a.setPaused(ctx, r.ContainerId, true)
}

// Resume implements protocol.AgentService.
func (a *Agent) Resume(ctx context.Context, r *protocol.ResumeRequest) (*protocol.ResumeResponse, error) {
	return &protocol.ResumeResponse{}, a.setPaused(ctx, r.ContainerId, false)
}

func (a *Agent) setPaused(ctx context.Context, id string, pause bool) error {
	c, release, err := a.hold(id)
	if err != nil {
		return err
	}
	defer release()
	verb := "resume"
	switch {
	case c.init.hasExited():
		return status.Error(codes.FailedPrecondition, "container not running")
	case pause && c.paused:
		return status.Error(codes.FailedPrecondition, "container already paused")
	case !pause && !c.paused:
		return status.Error(codes.FailedPrecondition, "container not paused")
	case pause:
		verb = "pause"
	}
	if err := a.quiet(ctx, verb, c.id); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = pause
	return nil
}

// Update implements protocol.AgentService.
func (a *Agent) Update(ctx context.Context, r *protocol.UpdateRequest) (*protocol.UpdateResponse, error) {
	c, release, err := a.hold(r.ContainerId)
	if err != nil {
		return nil, err
	}
	defer release()
	call := a.newCall()
	defer call.remove()
	if err := os.WriteFile(call.file("json"), r.Resources, 0o600); err != nil {
		return nil, fmt.Errorf("write resources: %w", err)
	}
	if err := a.quiet(ctx, "update", "--resources="+call.file("json"), c.id); err != nil {
		return nil, err
	}
	return &protocol.UpdateResponse{}, nil
}

// Processes implements protocol.AgentService.
func (a *Agent) Processes(_ context.Context, r *protocol.ProcessesRequest) (*protocol.ProcessesResponse, error) {
	c, err := a.container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	pids, err := cgroupPIDs(filepath.Join(a.config.Cgroups, c.cgroup))
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	answer := &protocol.ProcessesResponse{}
	for _, pid := range pids {
		answer.Pids = append(answer.Pids, uint32(pid))
	}
	return answer, nil
}

// Delete implements protocol.AgentService.
func (a *Agent) Delete(ctx context.Context, r *protocol.DeleteRequest) (*protocol.DeleteResponse, error) {
	if r.ExecId != "" {
		return &protocol.DeleteResponse{}, a.deleteExec(r.ContainerId, r.ExecId)
	}
	c, release, err := a.hold(r.ContainerId)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := a.quiet(ctx, "delete", "--force", c.id); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deleted = true // an exec that is under way sees it
	a.mu.Lock()
	delete(a.containers, c.id)
	a.mu.Unlock()
	c.init.stdio.close()
	for _, p := range c.execs {
		if p != nil {
			a.reaper.signal(p.child, unix.SIGKILL) // it may have had no part in the container's pid namespace
			p.stdio.close()
		}
	}
	if err := os.RemoveAll(filepath.Join(a.config.Bundles, c.id)); err != nil {
		return nil, fmt.Errorf("remove bundle: %w", err)
	}
	return &protocol.DeleteResponse{}, nil
}

func (a *Agent) deleteExec(id, exec string) error {
	c, p, err := a.process(id, exec)
	if err != nil {
		return err
	}
	if !p.hasExited() {
		return status.Error(codes.FailedPrecondition, "exec process is still running")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deleted || c.execs[exec] != p {
		return errNoProcess
	}
	delete(c.execs, exec)
	p.stdio.close()
	return nil
}

// signalAll sends a signal to every process of the container.
func (c *container) signalAll(r *reaper, sig unix.Signal, cgroups string) error {
	path := filepath.Join(cgroups, c.cgroup)
	if sig == unix.SIGKILL {
		err := writeControl(filepath.Join(path, "cgroup.kill"), "1")
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	err := c.signalInit(r, sig)
	if err == unix.ESRCH { // what it left behind is still to be signalled
		err = nil
	}
	pids, lerr := cgroupPIDs(path)
	for _, pid := range pids {
		if pid == c.init.pid {
			continue
		}
		if kerr := unix.Kill(pid, sig); kerr != nil && kerr != unix.ESRCH {
			err = kerr
		}
	}
	return errors.Join(err, lerr)
}
