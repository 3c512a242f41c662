package harness

import (
	"fmt"
	"os"
	"os/exec"
)

// Namespace is a network namespace that a sleeping process holds, with lo up.
type Namespace struct {
	Path string // of the namespace, as configurations name it
	Pid  int    // of the holder
	h    *Host
	hold *os.File
	p    *Process
}

// Namespace makes a network namespace. It goes with the test, if not by Close.
func (h *Host) Namespace() *Namespace {
	h.T.Helper()
	r, w := h.Pipe()
	holder := exec.Command("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && read wait")
	holder.Env = h.Environ()
	holder.Stdin, holder.Stderr = r, os.Stderr
	n := &Namespace{h: h, hold: w, p: h.Spawn(holder)}
	r.Close()
	n.p.Stdout.Expect(h.T, "up")
	n.Pid, n.Path = n.p.Pid, fmt.Sprintf("/proc/%d/ns/net", n.p.Pid)
	h.T.Cleanup(n.Close)
	return n
}

// Close lets the holder end; the namespace goes when nobody else is in it.
func (n *Namespace) Close() {
	n.hold.Close()
	n.p.WaitExit()
}

// Command is a command of the host in the namespace.
func (n *Namespace) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=" + n.Path, name}, args...)...)
	cmd.Env = n.h.Environ()
	return cmd
}

// Sh runs a shell script of the host in the namespace, wants success, and returns its stdout.
func (n *Namespace) Sh(script string) string {
	n.h.T.Helper()
	p := n.h.Spawn(n.Command("sh", "-ec", script))
	p.Stdin.Close()
	r := p.Wait()
	if r.Code != 0 {
		n.h.T.Fatalf("%s: %v", script, r)
	}
	return r.Stdout
}
