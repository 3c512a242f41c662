package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/client"
	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/console"
)

// Stdio is the host's end of a process's input and output; nil stands for /dev/null. For a terminal In and Out are two
// descriptors of the same slave, or what the caller reads and writes at its own terminal, and Err is nil. A process takes
// the files over.
type Stdio struct {
	In, Out, Err *os.File
	OwnTerminal  bool // the caller's terminal makes \r\n of \n, and the guest's does not
}

// Close closes the files, for a process that is never started.
func (s Stdio) Close() {
	for _, f := range []*os.File{s.In, s.Out, s.Err} {
		if f != nil {
			f.Close()
		}
	}
}

// Killed is the status of a process that went down with its VM: 128 + SIGKILL.
const Killed = 128 + int(unix.SIGKILL)

// Process is a container's init or a process that joined the container.
type Process struct {
	sandbox   *Sandbox
	container string
	exec      string // empty for the init

	streams *protocol.Streams
	in      *os.File
	out     *output
	err     *output

	exited chan struct{}
	status int // valid once exited is closed, like oomKills

	oomKills uint64
}

// Exited is closed when the process has exited and all it wrote before has been delivered.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Status is the exit code, 128 + n for a process killed by signal n. Call it after Exited.
func (p *Process) Status() int { return p.status }

// newProcess opens the streams that stdio asks for and names them for the agent. On error stdio is closed.
func (s *Sandbox) newProcess(ctx context.Context, container, exec string, stdio Stdio) (*Process, error) {
	p := &Process{sandbox: s, container: container, exec: exec, streams: &protocol.Streams{PlainNewlines: stdio.OwnTerminal}, exited: make(chan struct{})}
	var opened []io.Closer
	open := func(f *os.File) (*os.File, *client.Stream, uint32, error) {
		if f == nil {
			return nil, nil, 0, nil
		}
		file, err := console.Stream(f)
		if err != nil {
			f.Close()
			return nil, nil, 0, err
		}
		opened = append(opened, file)
		number := s.stream.Add(1)
		stream, err := s.agent.Stream(ctx, number)
		if err != nil {
			return nil, nil, 0, fmt.Errorf("open stream: %w", err)
		}
		opened = append(opened, stream)
		return file, stream, number, nil
	}
	in, toGuest, n, inErr := open(stdio.In)
	p.in, p.streams.Stdin = in, n
	out, fromGuest, n, outErr := open(stdio.Out)
	p.out, p.streams.Stdout = newOutput(out, fromGuest), n
	errFile, errFromGuest, n, errErr := open(stdio.Err)
	p.err, p.streams.Stderr = newOutput(errFile, errFromGuest), n
	if err := errors.Join(inErr, outErr, errErr); err != nil {
		for _, c := range opened {
			c.Close()
		}
		return nil, err
	}
	if in != nil {
		go func() {
			io.Copy(toGuest, in)
			toGuest.CloseWrite()
		}()
	}
	go p.out.copy()
	go p.err.copy()
	return p, nil
}

// abandon closes the streams of a process that could not be started.
func (p *Process) abandon() {
	if p.in != nil {
		p.in.Close()
	}
	p.out.close()
	p.err.close()
}

// watch waits for the exit, delivers what was written before it, and makes it known. last runs before it is known.
func (p *Process) watch(last func()) {
	answer, err := p.sandbox.agent.Wait(context.Background(), &protocol.WaitRequest{ContainerId: p.container, ExecId: p.exec})
	p.status = Killed
	if err == nil {
		p.status, p.oomKills = exitStatus(answer), answer.OomKills
		p.out.delivered(answer.StdoutBytes)
		p.err.delivered(answer.StderrBytes)
	}
	if p.in != nil {
		p.in.Close()
	}
	last()
	close(p.exited)
}

// exitStatus reads the guest's word, which may be anything, as one of the 256 statuses that a process can have.
func exitStatus(w *protocol.WaitResponse) int {
	switch {
	case w.Signal > 0 && w.Signal <= 64:
		return 128 + int(w.Signal)
	case w.Signal > 64 || w.ExitCode > 255:
		return 255
	}
	return int(w.ExitCode)
}

// output brings what a process writes to one stream to the host's file, and counts it.
type output struct {
	file   *os.File // nil: /dev/null
	stream *client.Stream

	mu    sync.Mutex
	moved *sync.Cond
	count uint64 // bytes that reached the file
	ended bool   // nothing more will
}

func newOutput(file *os.File, stream *client.Stream) *output {
	o := &output{file: file, stream: stream, ended: file == nil}
	o.moved = sync.NewCond(&o.mu)
	return o
}

// copy runs until either side is closed: the guest's when the last holder of the stream is gone, the host's when its
// reader is.
func (o *output) copy() {
	if o.file == nil {
		return
	}
	io.Copy(o, o.stream)
	o.close()
}

// Write is io.Copy's way to the file.
func (o *output) Write(b []byte) (int, error) {
	n, err := o.file.Write(b)
	o.mu.Lock()
	o.count += uint64(n)
	o.mu.Unlock()
	o.moved.Broadcast()
	return n, err
}

// delivered waits until total bytes have reached the file, or no more can.
func (o *output) delivered(total uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.count < total && !o.ended {
		o.moved.Wait()
	}
}

func (o *output) close() {
	if o.file == nil {
		return
	}
	o.stream.Close()
	o.file.Close()
	o.mu.Lock()
	o.ended = true
	o.mu.Unlock()
	o.moved.Broadcast()
}
