package keeper

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/oci"
)

// maxProcs is the variable that bounds the CPUs for Go's scheduler (package runtime).
const maxProcs = "GOMAXPROCS"

// self is the running hyper binary, also when the file was replaced or lies in another mount namespace.
const self = "/proc/self/exe"

// selfCommand is a hidden verb of our own binary, in a session of its own, with nothing of ours but PATH. These processes
// wait most of the time, so Go's scheduler gets one CPU: for each more the runtime keeps a cache of memory, on a host of 16
// CPUs 1 MiB for each process. Measured on two CPUs, no verb and no stream is slower.
func selfCommand(args ...string) *exec.Cmd {
	cmd := exec.Command(self)
	cmd.Args = append([]string{"hyper"}, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), maxProcs + "=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// child is a process of our own binary that we have started and talk to over a socket pair.
type child struct {
	cmd  *exec.Cmd
	conn *net.UnixConn
}

// spawn starts the hidden verb of our own binary in a session of its own, with our stdin, stdout and stderr, and
// nothing else that is open here but its end of a connection. title is what ps shows behind it: engines list the
// processes of a container by their host pids (docker top).
func spawn(verb, id string, title []string, namespaces oci.HostNamespaces) (*child, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", verb, err)
	}
	theirs := os.NewFile(uintptr(pair[1]), verb)
	defer theirs.Close()
	conn, err := inherited(uintptr(pair[0]))
	if err != nil {
		return nil, err
	}
	cmd := selfCommand(append([]string{verb, id}, title...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr.Cloneflags = namespaces.Flags
	if err := startIn(cmd, namespaces.Join); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start %s: %w", verb, err)
	}
	return &child{cmd: cmd, conn: conn}, nil
}

// startIn starts the command in existing namespaces. They are entered by a thread that is given up afterwards, so that
// this process stays in its own.
func startIn(cmd *exec.Cmd, namespaces []oci.NamespacePath) error {
	if len(namespaces) == 0 {
		return cmd.Start()
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		for _, ns := range namespaces {
			if err := ns.Enter(); err != nil {
				started <- err
				return
			}
		}
		started <- cmd.Start()
	}()
	return <-started
}

// kill ends the child and everything that ends with it.
func (c *child) kill() error {
	c.conn.Close()
	c.cmd.Process.Kill()
	c.cmd.Wait() // its status is that of a killed process
	return nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }
