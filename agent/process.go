package agent

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// process is a container's init or an exec process.
type process struct {
	spawned
	running chan struct{} // closed when the process has executed its program, or has exited without
	began   time.Time     // when running was closed
	exited  chan struct{} // closed when answer is set
	answer  *protocol.WaitResponse
	killer  unix.Signal // guarded by the container's mu; see (*container).signalInit
}

func newProcess(s spawned) *process {
	return &process{spawned: s, running: make(chan struct{}), exited: make(chan struct{})}
}

// attend waits for the process's program, then for its exit, and makes the answer that Wait gives. last runs before the
// exit is known.
func (p *process) attend(r *reaper, last func(*protocol.WaitResponse)) {
	p.program.Read(make([]byte, 1)) // nobody writes: it is the end
	p.program.Close()
	if !r.hasRun(p.child) {
		<-p.done
		if p.copied {
			p.reword(p.words)
		}
	}
	p.release()
	p.began = time.Now()
	close(p.running)
	<-p.done
	answer := &protocol.WaitResponse{}
	if p.status.Signaled() {
		answer.Signal = uint32(p.status.Signal())
	} else {
		answer.ExitCode = uint32(p.status.ExitStatus())
	}
	answer.StdoutBytes, answer.StderrBytes = p.outputs[0].settle(), p.outputs[1].settle()
	last(answer)
	p.answer = answer
	close(p.exited)
}

// settling is how long a program may take to its signal handlers: a shell sets its trap some 20 ms after its start under TCG.
const settling = 50 * time.Millisecond

// settle waits until a program that runs has been there for that long. To the kernel a container's init is PID 1, and
// loses each signal that it does not handle yet; on a host a shell has set its trap before an engine can send the first.
func (p *process) settle(ctx context.Context) {
	select {
	case <-p.running:
	default:
		return // it is the runtime's process
	}
	select {
	case <-time.After(settling - time.Since(p.began)):
	case <-p.exited:
	case <-ctx.Done():
	}
}

// hasExited says whether Wait has its answer.
func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Exec implements protocol.AgentService.
func (a *Agent) Exec(ctx context.Context, r *protocol.ExecRequest) (*protocol.ExecResponse, error) {
	if r.Program == nil || r.ExecId == "" {
		return nil, status.Error(codes.InvalidArgument, "not a process that can be run")
	}
	c, err := a.container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := c.reserve(r.ExecId); err != nil {
		return nil, err
	}
	p, err := a.exec(ctx, c, r)
	if err != nil {
		c.setExec(r.ExecId, nil)
		a.dropStreams(r.Streams)
		return nil, err
	}
	go p.attend(a.reaper, func(*protocol.WaitResponse) {})
	if !c.setExec(r.ExecId, p) { // deleted in the meantime
		a.reaper.signal(p.child, unix.SIGKILL)
		p.stdio.close()
		return nil, errNoContainer
	}
	p.copy(a.streams)
	return &protocol.ExecResponse{Pid: uint32(p.pid)}, nil
}

func (a *Agent) exec(ctx context.Context, c *container, r *protocol.ExecRequest) (*process, error) {
	call := a.newCall()
	defer call.remove()
	raw, err := withHome(r.Process, r.Program.Home, "/proc/"+strconv.Itoa(c.init.pid)+"/root")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(call.file("json"), raw, 0o600); err != nil {
		return nil, fmt.Errorf("write process: %w", err)
	}
	io, err := openStdio(r.Streams, r.Program.Terminal)
	if err != nil {
		return nil, err
	}
	left, err := call.spawn(ctx, io, r.Program.Terminal, late{arg0: r.Program.Command}, []string{"exec", "--detach", "--process=" + call.file("json")}, c.id)
	if err != nil {
		io.close()
		return nil, err
	}
	return newProcess(left), nil
}

// dropStreams closes the host's connections for a process that there will not be.
func (a *Agent) dropStreams(numbers *protocol.Streams) {
	a.streams.drop(numbers.GetStdin())
	a.streams.drop(numbers.GetStdout())
	a.streams.drop(numbers.GetStderr())
}

// Wait implements protocol.AgentService.
func (a *Agent) Wait(ctx context.Context, r *protocol.WaitRequest) (*protocol.WaitResponse, error) {
	_, p, err := a.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
		return p.answer, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// Signal implements protocol.AgentService.
func (a *Agent) Signal(ctx context.Context, r *protocol.SignalRequest) (*protocol.SignalResponse, error) {
	c, p, err := a.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	sig := unix.Signal(r.Signal)
	switch {
	case r.All:
		err = c.signalAll(a.reaper, sig, a.config.Cgroups)
	case p == c.init:
		if sig != unix.SIGKILL {
			p.settle(ctx)
		}
		if err = c.signalInit(a.reaper, sig); err == unix.ESRCH {
			return nil, status.Error(codes.NotFound, "container not running")
		}
	default:
		if err = a.reaper.signal(p.child, sig); err == unix.ESRCH {
			return nil, status.Error(codes.NotFound, "no such process")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("signal %d: %w", r.Signal, err)
	}
	return &protocol.SignalResponse{}, nil
}

// Resize implements protocol.AgentService.
func (a *Agent) Resize(_ context.Context, r *protocol.ResizeRequest) (*protocol.ResizeResponse, error) {
	_, p, err := a.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if p.tty == nil {
		return nil, status.Error(codes.FailedPrecondition, "process has no terminal")
	}
	raw, err := p.tty.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("resize terminal: %w", err)
	}
	size := &unix.Winsize{Row: uint16(r.Size.GetHeight()), Col: uint16(r.Size.GetWidth())}
	if cerr := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("resize terminal: %w", err)
	}
	return &protocol.ResizeResponse{}, nil
}
