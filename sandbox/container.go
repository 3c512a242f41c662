package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/storage"
)

// Time that the agent has for an answer. They are hang guards against a guest that never answers, long enough for a
// busy host without KVM; what must end by all means ends by killing the VM.
const (
	callTimeout = 2 * time.Minute
	killTimeout = 10 * time.Second
)

// Container is one container of a sandbox. Its methods may be called by many goroutines.
type Container struct {
	sandbox *Sandbox
	id      string
	init    *Process // nil for a container without a process
	pid     uint32   // of the init in the guest

	limitsMemory bool

	starting sync.Mutex // held by Start; an exit is made known after the start that led to it

	mu     sync.Mutex
	status specs.ContainerState // guarded by mu; "paused" is runc's addition to OCI's
	execs  int                  // number of processes that joined so far
	gone   bool                 // from the guest
}

// StatePaused is the status that runc adds to OCI's.
const StatePaused specs.ContainerState = "paused"

// Joined are the namespaces that a container shares with others of its sandbox, by their types: pid, ipc, uts. A
// container without a process has none to share.
type Joined map[specs.LinuxNamespaceType]*Container

// paths are the namespaces as the guest names them.
func (j Joined) paths() map[specs.LinuxNamespaceType]string {
	paths := make(map[specs.LinuxNamespaceType]string)
	for kind, c := range j {
		if c.init != nil {
			paths[kind] = fmt.Sprintf("/proc/%d/ns/%s", c.pid, kind)
		}
	}
	return paths
}

// Membership says how a further container is bound to what was there before it.
type Membership struct {
	Joined Joined
	// Within calls a function in the mount namespace whose paths the container's configuration has.
	Within func(func() error) error
}

// Create makes a container in the sandbox, held until Start. member is nil for the first. Its stdio is taken over, also
// on error.
func (s *Sandbox) Create(ctx context.Context, id string, bundle *oci.Bundle, stdio Stdio, member *Membership) (*Container, error) {
	guest, err := s.prepare(ctx, id, bundle, member)
	if err != nil {
		stdio.Close()
		return nil, err
	}
	c := &Container{sandbox: s, id: id, status: specs.StateCreated, limitsMemory: limitsMemory(bundle.Spec)}
	if bundle.Spec.Process == nil {
		stdio.Close()
	} else if err := c.create(ctx, guest, stdio); err != nil {
		return nil, errors.Join(err, s.share.Detach(id))
	}
	if bundle.Spec.Root.Readonly {
		// The guest has made the mount points that the rootfs lacked; from here on the host lets nothing be written.
		if err := s.share.SetReadOnly(id); err != nil {
			return nil, errors.Join(err, c.Delete(ctx))
		}
	}
	s.mu.Lock()
	s.containers[id] = c
	s.mu.Unlock()
	s.log.Debug("the container is created")
	return c, nil
}

// prepare waits for the guest and gives it the container's files.
func (s *Sandbox) prepare(ctx context.Context, id string, bundle *oci.Bundle, member *Membership) (guest *guestContainer, err error) {
	if err := s.Ready(ctx); err != nil {
		return nil, err
	}
	var sources storage.Sources
	find := func(joined Joined) (err error) {
		if guest, err = translate(id, bundle, joined.paths()); err != nil {
			return err
		}
		sources, err = storage.OpenSources(guest.binds)
		return err
	}
	if member == nil {
		err = find(nil)
	} else {
		err = member.Within(func() error { return find(member.Joined) })
	}
	if err != nil {
		return nil, err
	}
	if err := s.share.Attach(sources); err != nil {
		return nil, err
	}
	s.log.Debug("the share has the container's files")
	s.wiring.addResolvConf(id, bundle)
	s.follow.Do(s.followNetwork)
	if err := s.syncNetwork(ctx, beforeCreate); err != nil {
		return nil, errors.Join(err, s.share.Detach(id))
	}
	guest.enter(s.wiring.guestNamespace())
	s.log.Debug("the guest has the network")
	return guest, nil
}

func (c *Container) create(ctx context.Context, guest *guestContainer, stdio Stdio) error {
	request, err := guest.request(c.id)
	if err != nil {
		return err
	}
	p, err := c.sandbox.newProcess(ctx, c.id, "", stdio)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request.Streams = p.streams
	answer, err := c.sandbox.agent.Create(ctx, request)
	if err != nil {
		p.abandon()
		return c.sandbox.refused(err)
	}
	c.init, c.pid = p, answer.Pid
	go func() {
		p.watch(func() {
			c.starting.Lock()
			defer c.starting.Unlock()
			c.setStatus(specs.StateStopped)
		})
		c.sandbox.log.Debug("the container has exited, its output is delivered")
	}()
	return nil
}

// refused says why the guest has no such container. If the channel has ended, so has the VM in most cases: how, and
// what its console said last, tells more.
func (s *Sandbox) refused(err error) error {
	if ended := s.agent.Err(); ended != nil {
		return s.vm.Explain(ended)
	}
	return &hypervisor.BootError{Stage: hypervisor.StageContainer, Err: err}
}

// Init is the container's first process, nil when its spec has none.
func (c *Container) Init() *Process { return c.init }

// Status is the container's OCI state, or StatePaused.
func (c *Container) Status() specs.ContainerState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

func (c *Container) setStatus(s specs.ContainerState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status != specs.StateStopped {
		c.status = s
	}
}

// Start lets the container's process run.
func (c *Container) Start(ctx context.Context) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	switch c.Status() {
	case specs.StateStopped:
		return ErrHasStopped
	case specs.StateRunning, StatePaused:
		return ErrAlreadyRunning
	}
	if c.init == nil {
		return ErrNothingToStart
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.sandbox.agent.Start(ctx, &protocol.StartRequest{ContainerId: c.id}); err != nil {
		return err
	}
	c.setStatus(specs.StateRunning)
	c.sandbox.log.Debug("the container runs")
	return nil
}

// Exec starts one more process in the container. Its stdio is taken over, also on error.
func (c *Container) Exec(ctx context.Context, process *specs.Process, stdio Stdio) (*Process, error) {
	guest := guestProcess(process)
	raw, program, err := encodeWith(guest, guest)
	if err != nil {
		stdio.Close()
		return nil, err
	}
	c.mu.Lock()
	c.execs++
	exec, status := fmt.Sprintf("exec%d", c.execs), c.status
	c.mu.Unlock()
	switch status {
	case specs.StateStopped:
		stdio.Close()
		return nil, ErrExecStopped
	case StatePaused:
		stdio.Close()
		return nil, ErrExecPaused
	}
	p, err := c.sandbox.newProcess(ctx, c.id, exec, stdio)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.sandbox.agent.Exec(ctx, &protocol.ExecRequest{
		ContainerId: c.id, ExecId: exec, Process: raw, Streams: p.streams, Program: program,
	}); err != nil {
		p.abandon()
		return nil, err
	}
	go p.watch(func() {})
	return p, nil
}

// Signal sends the signal to the container's init, or to all its processes. SIGKILL works whatever the guest does: if
// the agent has not answered in killTimeout the VM is killed.
func (c *Container) Signal(ctx context.Context, signal unix.Signal, all bool) error {
	if c.init == nil || c.Status() == specs.StateStopped && !all {
		return ErrNotRunning
	}
	return c.sandbox.signal(ctx, c.id, "", signal, all)
}

// Signal sends the signal to the process, as Container.Signal does.
func (p *Process) Signal(ctx context.Context, signal unix.Signal) error {
	return p.sandbox.signal(ctx, p.container, p.exec, signal, false)
}

func (s *Sandbox) signal(ctx context.Context, container, exec string, signal unix.Signal, all bool) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	_, err := s.agent.Signal(ctx, &protocol.SignalRequest{
		ContainerId: container, ExecId: exec, Signal: uint32(signal), All: all,
	})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && signal == unix.SIGKILL && exec == "" {
		s.Kill()
		return nil
	}
	return err
}

// Resize tells the process's terminal its new size.
func (p *Process) Resize(ctx context.Context, width, height uint32) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := p.sandbox.agent.Resize(ctx, &protocol.ResizeRequest{
		ContainerId: p.container, ExecId: p.exec, Size: &protocol.Size{Width: width, Height: height},
	})
	return err
}

// Pause freezes all processes of the container.
func (c *Container) Pause(ctx context.Context) error {
	if s := c.Status(); s != specs.StateRunning && s != specs.StateCreated {
		return ErrNotRunning
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.sandbox.agent.Pause(ctx, &protocol.PauseRequest{ContainerId: c.id}); err != nil {
		return err
	}
	c.setStatus(StatePaused)
	return nil
}

// Resume lets a paused container go on.
func (c *Container) Resume(ctx context.Context) error {
	if c.Status() != StatePaused {
		return ErrNotPaused
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.sandbox.agent.Resume(ctx, &protocol.ResumeRequest{ContainerId: c.id}); err != nil {
		return err
	}
	c.setStatus(specs.StateRunning)
	return nil
}

// Update changes the limits of the container's cgroup in the guest.
func (c *Container) Update(ctx context.Context, resources *specs.LinuxResources) error {
	if c.Status() == specs.StateStopped {
		return ErrNotRunning
	}
	raw, err := json.Marshal(guestResources(resources))
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = c.sandbox.agent.Update(ctx, &protocol.UpdateRequest{ContainerId: c.id, Resources: raw})
	return err
}

// Delete takes the container out of the sandbox, and kills what is left of it: its files leave the share, its id is free
// again. If the agent has not answered in callTimeout the VM is killed.
func (c *Container) Delete(ctx context.Context) error {
	if err := c.leaveGuest(ctx); err != nil {
		return err
	}
	s := c.sandbox
	s.wiring.removeResolvConf(c.id)
	if err := s.share.Detach(c.id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, c.id)
	return nil
}

func (c *Container) leaveGuest(ctx context.Context) error {
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if c.init == nil || gone {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.sandbox.agent.Delete(ctx, &protocol.DeleteRequest{ContainerId: c.id})
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		c.sandbox.Kill()
	case err != nil:
		return err
	}
	c.init.abandon() // if its output was not taken until now, it never will be
	<-c.init.Exited()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	return nil
}

// Forget lets the guest drop an exec process that has exited.
func (p *Process) Forget(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := p.sandbox.agent.Delete(ctx, &protocol.DeleteRequest{ContainerId: p.container, ExecId: p.exec})
	return err
}
