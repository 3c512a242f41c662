package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// parallel bounds the runtime's processes that run at once: each needs a few MiB of a guest that may be small.
const parallel = 8

// calls hands out names for the files of runtime calls, and slots to run in.
type calls struct {
	last  *atomic.Uint64
	slots chan struct{}
}

func newCalls() calls {
	return calls{last: new(atomic.Uint64), slots: make(chan struct{}, parallel)}
}

// call is one run of the runtime, with its short-lived files.
type call struct {
	agent  *Agent
	prefix string
}

func (a *Agent) newCall() call {
	return call{agent: a, prefix: a.config.Scratch + "/" + strconv.FormatUint(a.calls.last.Add(1), 10)}
}

// file names one of the call's files.
func (c call) file(kind string) string { return c.prefix + "." + kind }

// remove removes the call's files.
func (c call) remove() {
	for _, kind := range []string{"log", "pid", "tty", "json"} {
		unix.Unlink(c.file(kind))
	}
}

// run runs the runtime to its end with these descriptors as its 0, 1, 2 and so on. An error is a status with the
// runtime's own reason. When ctx ends first the runtime is killed.
func (c call) run(ctx context.Context, files []uintptr, args ...string) error {
	config := c.agent.config
	argv := append([]string{config.Runtime, "--root=" + config.RuntimeRoot, "--cgroup-manager=cgroupfs",
		"--log=" + c.file("log"), "--log-format=json"}, args...)
	process, err := c.agent.reaper.start(func() (int, error) {
		return syscall.ForkExec(config.Runtime, argv, &syscall.ProcAttr{
			Dir:   "/",
			Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Files: files,
		})
	})
	if err != nil {
		return status.Errorf(codes.Internal, "start %s: %v", config.Runtime, err)
	}
	select {
	case <-process.done:
	case <-ctx.Done():
		c.agent.reaper.signal(process, unix.SIGKILL)
		<-process.done
		return status.FromContextError(ctx.Err()).Err()
	}
	if process.status.ExitStatus() == 0 {
		return nil
	}
	log, _ := os.ReadFile(c.file("log"))
	if reason := lastError(log); reason != "" {
		return status.Error(codes.Unknown, reason)
	}
	return status.Errorf(codes.Unknown, "%s %s failed with status %#x and no reason", config.Runtime, args[0], int(process.status))
}

// quiet runs the runtime with /dev/null as its input and output.
func (a *Agent) quiet(ctx context.Context, args ...string) error {
	call := a.newCall()
	defer call.remove()
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(fd)
	null := uintptr(fd)
	return call.run(ctx, []uintptr{null, null, null}, args...)
}

// spawned is a process that a runtime call has left behind.
type spawned struct {
	*child
	*stdio
	late
	// program ends when the process executes its program, or exits: the process has the other end of this pipe, and crun
	// has marked all descriptors but 0, 1 and 2 to be closed on exec.
	program *os.File
}

// spawn runs the runtime's create or exec. args end with what goes behind all flags, the container's id.
func (c call) spawn(ctx context.Context, io *stdio, terminal bool, later late, args []string, id string) (_ spawned, err error) {
	select {
	case c.agent.calls.slots <- struct{}{}:
		defer func() { <-c.agent.calls.slots }()
	case <-ctx.Done():
		return spawned{}, status.FromContextError(ctx.Err()).Err()
	}
	args = append(args, "--pid-file="+c.file("pid"))
	console := -1
	if terminal {
		if console, err = listenConsole(c.file("tty")); err != nil {
			return spawned{}, err
		}
		defer unix.Close(console)
		args = append(args, "--console-socket="+c.file("tty"))
	}
	defer c.agent.reaper.expect()()
	program, err := c.leave(ctx, io, append(args, id))
	if err != nil {
		return spawned{}, status.Error(status.Code(err), refusal(status.Convert(err).Message(), later.arg0))
	}
	defer func() {
		if err != nil {
			program.Close()
		}
	}()
	text, err := os.ReadFile(c.file("pid"))
	if err != nil {
		return spawned{}, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return spawned{}, fmt.Errorf("read pid file: %w", err)
	}
	process, err := c.agent.reaper.claim(pid)
	if err != nil {
		return spawned{}, fmt.Errorf("process %d of the runtime: %w", pid, err)
	}
	if terminal {
		master, err := acceptConsole(console)
		if err == nil {
			err = io.setTerminal(master)
		}
		if err != nil {
			c.agent.reaper.signal(process, unix.SIGKILL)
			return spawned{}, err
		}
	}
	return spawned{child: process, stdio: io, late: later, program: program}, nil
}

// leave runs the runtime so that a process is left behind, and returns what will be its program.
func (c call) leave(ctx context.Context, io *stdio, args []string) (*os.File, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	program := pollable(pipe[0], "program")
	var files []uintptr
	for _, fd := range append(io.child[:], pipe[1]) {
		files = append(files, uintptr(fd))
	}
	err := c.run(ctx, files, args...)
	unix.Close(pipe[1])
	io.closeChild()
	if err != nil {
		program.Close()
		return nil, err
	}
	return program, nil
}

// listenConsole makes the socket on which the runtime delivers a terminal.
func listenConsole(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("make console socket: %w", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make console socket: %w", err)
	}
	return fd, nil
}

// acceptConsole returns the terminal's master. The runtime has sent it before it ended, so nothing here waits.
func acceptConsole(listener int) (int, error) {
	conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return -1, fmt.Errorf("accept console: %w", err)
	}
	defer unix.Close(conn)
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(conn, make([]byte, 256), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receive console: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("receive console: no descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("receive console: no descriptor")
	}
	return fds[0], nil
}

// lastError returns the message of the last error in a log of JSON lines, or "".
func lastError(log []byte) string {
	message := ""
	for line := range bytes.Lines(log) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Level == "error" {
			message = oneLine(entry.Msg)
		}
	}
	return message
}

// oneLine makes blanks of line breaks and other control characters.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
}

// refusal words what crun says of a command that it cannot run as runc does, because engines look for runc's words:
// Docker makes 126 and 127 of them (moby daemon/errors.go), podman too (libpod/oci_util.go). crun's own are in
// container_init_setup and find_executable (src/libcrun/container.c, utils.c); for a file that is not a regular one it
// says EPERM. Other messages stay as they are.
func refusal(message, arg0 string) string {
	reason := ""
	switch {
	case message == "executable file `"+arg0+"` not found in $PATH: No such file or directory":
		reason = "stat " + arg0 + ": no such file or directory"
	case message == "open executable: Permission denied":
		reason = "permission denied"
	case message == "open executable: Operation not permitted":
		reason = "is a directory"
	case message == "open executable: Not a directory":
		reason = "stat " + arg0 + ": not a directory"
	default:
		return message
	}
	if !strings.Contains(arg0, "/") {
		reason = "executable file not found in $PATH"
	}
	return fmt.Sprintf("exec: %q: %s", arg0, reason)
}
