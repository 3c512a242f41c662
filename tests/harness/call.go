package harness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Result is what a finished process left: its exit status, 128+n for death by signal n, and its output.
type Result struct {
	Code   int
	Stdout string
	Stderr string
}

// String shows a result in one line for test logs.
func (r Result) String() string {
	return fmt.Sprintf("exit %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
}

// Command is the runtime's command line as an exec.Cmd without stdio.
func (h *Host) Command(args ...string) *exec.Cmd {
	argv := append(append(append([]string{}, h.Runtime.Args...), "--root", h.Root), h.Flags...)
	cmd := exec.Command(h.Runtime.Path, append(argv, args...)...)
	cmd.Dir = h.Dir
	cmd.Env = h.Environ()
	return cmd
}

// Environ is our environment with the test's mark.
func (h *Host) Environ(more ...string) []string {
	return append(append(os.Environ(), tokenVariable+h.Token), more...)
}

// Run runs the runtime to its end, with nothing on stdin.
func (h *Host) Run(args ...string) Result {
	h.T.Helper()
	return h.RunInput("", args...)
}

// RunInput runs the runtime to its end with the given stdin.
func (h *Host) RunInput(stdin string, args ...string) Result {
	h.T.Helper()
	p := h.Spawn(h.Command(args...))
	if _, err := io.WriteString(p.Stdin, stdin); err != nil && !errors.Is(err, syscall.EPIPE) {
		h.T.Error(err)
	}
	p.Stdin.Close()
	return p.Wait()
}

// OK runs the runtime, wants success, and returns stdout.
func (h *Host) OK(args ...string) string {
	h.T.Helper()
	r := h.Run(args...)
	if r.Code != 0 {
		h.T.Fatalf("%s: %v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// Refused runs the runtime, wants failure with the given text on stderr, and returns stderr.
func (h *Host) Refused(want string, args ...string) string {
	h.T.Helper()
	r := h.Run(args...)
	if r.Code == 0 || !strings.Contains(r.Stderr, want) {
		h.T.Errorf("%s: %v, want a failure with %q on stderr", strings.Join(args, " "), r, want)
	}
	return r.Stderr
}

// Process is a running command whose stdio are pipes held by the test.
type Process struct {
	Pid    int
	Stdin  *os.File
	Stdout *Output
	Stderr *Output
	h      *Host
	cmd    *exec.Cmd
	exited chan struct{}
}

// Spawn starts cmd. Stdio that cmd does not have yet becomes pipes.
func (h *Host) Spawn(cmd *exec.Cmd) *Process {
	h.T.Helper()
	p := &Process{h: h, cmd: cmd, exited: make(chan struct{})}
	var ends []*os.File
	if cmd.Stdin == nil {
		r, w := h.Pipe()
		cmd.Stdin, p.Stdin, ends = r, w, append(ends, r)
	}
	if cmd.Stdout == nil {
		r, w := h.Pipe()
		cmd.Stdout, p.Stdout, ends = w, Collect(r), append(ends, w)
	}
	if cmd.Stderr == nil {
		r, w := h.Pipe()
		cmd.Stderr, p.Stderr, ends = w, Collect(r), append(ends, w)
	}
	err := cmd.Start()
	for _, end := range ends {
		end.Close()
	}
	if err != nil {
		h.T.Fatal(err)
	}
	p.Pid = cmd.Process.Pid
	go func() {
		cmd.Wait() // the status is in ProcessState
		close(p.exited)
	}()
	return p
}

// Signal sends a signal to the process.
func (p *Process) Signal(sig syscall.Signal) {
	p.h.T.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.h.T.Error(err)
	}
}

// Wait waits for the process, and for the end of its output: whoever else holds the pipes must let go of them too.
func (p *Process) Wait() Result {
	p.h.T.Helper()
	code := p.WaitExit()
	return Result{Code: code, Stdout: p.Stdout.All(p.h.T), Stderr: p.Stderr.All(p.h.T)}
}

// WaitExit waits for the process alone, and returns its exit status.
func (p *Process) WaitExit() int {
	p.h.T.Helper()
	select {
	case <-p.exited:
	case <-time.After(Patience):
		p.cmd.Process.Kill()
		p.h.T.Fatalf("%q hangs; stdout %q, stderr %q", p.cmd.Args, p.Stdout.Text(), p.Stderr.Text())
	}
	return exitCode(p.cmd.ProcessState.Sys().(syscall.WaitStatus))
}

// exitCode is the shells' number for a wait status.
func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// Pipe makes a pipe: read end, write end.
func (h *Host) Pipe() (r, w *os.File) {
	h.T.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		h.T.Fatal(err)
	}
	return r, w
}
