package harness

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Containerd starts a containerd with all its directories and sockets in the test's corner; its own is c.sock.
func (n *Namespace) Containerd() {
	h := n.h
	n.Daemon("containerd", "--config", h.WriteFile("containerd.toml", fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, h.Path("c/root"), h.Path("c/state"), h.Path("c.sock"), h.Path("c.sock.ttrpc")), 0o600))
}

// Daemon starts a daemon with its output in a log file, waits until it says that it is ready (sd_notify(3)), and
// ends it after the test.
func (n *Namespace) Daemon(name string, args ...string) {
	h, t := n.h, n.h.T
	t.Helper()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.Path(name + ".notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	log, err := os.Create(h.Path(name + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := n.Command(name, args...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+h.Path(name+".notify"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, log, log
	p := h.Spawn(cmd)
	t.Cleanup(func() {
		p.Signal(syscall.SIGTERM)
		if code := p.WaitExit(); code != 0 && code != 128+int(syscall.SIGTERM) {
			t.Errorf("%s ended with %d", name, code)
		}
		if t.Failed() {
			t.Logf("the last lines of %s:\n%s", log.Name(), tail(h.ReadFile(log.Name()), 30))
		}
	})
	if err := socket.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 4096)
	for {
		n, err := socket.Read(message)
		if err != nil {
			t.Fatalf("%s is not ready: %v\n%s", name, err, tail(h.ReadFile(log.Name()), 30))
		}
		if strings.Contains(string(message[:n]), "READY=1") {
			return
		}
	}
}

// tail is the last n lines of a text.
func tail(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
