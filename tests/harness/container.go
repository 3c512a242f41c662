package harness

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Container is a container that was created as an engine creates it: stdio are pipes, the pid comes from the pid
// file, and the exit status from reaping that pid.
type Container struct {
	ID     string
	Pid    int
	Stdin  *os.File
	Stdout *Output
	Stderr *Output
	Bundle *Bundle
	h      *Host
	code   chan int
}

// TryCreate writes the bundle and creates a container from it, with extra flags for create. It returns nil and the
// runtime's result when the runtime refuses.
func (h *Host) TryCreate(b *Bundle, flags ...string) (*Container, Result) {
	h.T.Helper()
	b.Write()
	return h.CreateWritten(b, h.ID(), flags...)
}

// CreateWritten is TryCreate with a given id and whatever config.json the bundle has.
func (h *Host) CreateWritten(b *Bundle, id string, flags ...string) (*Container, Result) {
	h.T.Helper()
	pidFile := filepath.Join(b.Dir, "pid")
	args := append([]string{"create", "--bundle", b.Dir, "--pid-file", pidFile}, flags...)
	p := h.Spawn(h.Command(append(args, id)...))
	if p.WaitExit() != 0 {
		p.Stdin.Close()
		return nil, p.Wait() // and so nobody may hold the pipes after a refusal
	}
	c := &Container{ID: id, Pid: h.ReadPid(pidFile), Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr, Bundle: b, h: h, code: make(chan int, 1)}
	go func() { c.code <- reap(c.Pid) }()
	return c, Result{}
}

// Create is TryCreate that must succeed.
func (h *Host) Create(b *Bundle, flags ...string) *Container {
	h.T.Helper()
	c, r := h.TryCreate(b, flags...)
	if c == nil {
		h.T.Fatalf("create: %v", r)
	}
	return c
}

// StartNew creates and starts.
func (h *Host) StartNew(b *Bundle, flags ...string) *Container {
	h.T.Helper()
	c := h.Create(b, flags...)
	c.Start()
	return c
}

// StartSleeper starts a Sleeper and waits until it is up.
func (h *Host) StartSleeper() *Container {
	h.T.Helper()
	c := h.StartNew(h.Sleeper())
	c.Stdout.Expect(h.T, "ready")
	return c
}

// Start starts the created container.
func (c *Container) Start() {
	c.h.T.Helper()
	c.h.OK("start", c.ID)
}

// Wait waits for the container's process and the end of its output. It can be called once.
func (c *Container) Wait() Result {
	c.h.T.Helper()
	select {
	case code := <-c.code:
		return Result{Code: code, Stdout: c.Stdout.All(c.h.T), Stderr: c.Stderr.All(c.h.T)}
	case <-time.After(Patience):
		c.h.T.Fatalf("container %s does not end; stdout %q, stderr %q", c.ID, c.Stdout.Text(), c.Stderr.Text())
	}
	return Result{}
}

// State is the runtime's answer to `state`.
func (c *Container) State() specs.State {
	c.h.T.Helper()
	var s specs.State
	if err := json.Unmarshal([]byte(c.h.OK("state", c.ID)), &s); err != nil {
		c.h.T.Fatal(err)
	}
	return s
}

// WantStatus checks what `state` says.
func (c *Container) WantStatus(want specs.ContainerState) {
	c.h.T.Helper()
	if got := c.State().Status; got != want {
		c.h.T.Errorf("status of %s is %s, want %s", c.ID, got, want)
	}
}

// Exec runs a command in the container in the foreground.
func (c *Container) Exec(args ...string) Result {
	c.h.T.Helper()
	return c.h.Run(append([]string{"exec", c.ID}, args...)...)
}

// Sh runs a shell script in the container, wants success, and returns its stdout.
func (c *Container) Sh(script string) string {
	c.h.T.Helper()
	return c.h.OK("exec", c.ID, "sh", "-c", script)
}

// Remove kills the container, reaps it and deletes it.
func (c *Container) Remove() {
	c.h.T.Helper()
	c.h.OK("kill", c.ID, "KILL")
	c.Wait()
	c.h.OK("delete", c.ID)
}

// ReadPid reads a pid file.
func (h *Host) ReadPid(path string) int {
	h.T.Helper()
	pid, err := strconv.Atoi(h.ReadFile(path))
	if err != nil {
		h.T.Fatal(err)
	}
	return pid
}

// Reap waits for a process that the runtime left to us, as a subreaper does, and returns its exit status.
func (h *Host) Reap(pid int) int {
	h.T.Helper()
	code := make(chan int, 1)
	go func() { code <- reap(pid) }()
	select {
	case c := <-code:
		return c
	case <-time.After(Patience):
		h.T.Fatalf("process %d does not end", pid)
	}
	return -1
}

// reap returns the exit status of a child, or -1 if the process is not our child.
func reap(pid int) int {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1
		}
		return exitCode(syscall.WaitStatus(status))
	}
}
