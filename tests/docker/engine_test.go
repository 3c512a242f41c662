// Package docker_test runs a Docker engine of its own with the runtime under test as its default runtime.
package docker_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// engine is a containerd and a dockerd with all their directories and sockets in the test's corner, in a network
// namespace of their own: the bridge and its firewall rules are not the host's, and go when the daemons go.
type engine struct {
	volume sync.Once

	*harness.Host
	t *testing.T
}

// docker is Debian's client, the one that belongs to its engine.
const docker = "/usr/bin/docker"

// image is what all containers are made from: a static busybox.
const image = "busybox"

// startEngine starts the daemons and stops them when the test ends; what is left then fails the test.
func startEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{Host: harness.New(t), t: t}
	namespace := e.startNamespace()

	e.WriteFile("containerd.toml", fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, e.Path("c/root"), e.Path("c/state"), e.Path("c.sock"), e.Path("c.sock.ttrpc")), 0o600)
	e.startDaemon(namespace, "containerd", "--config", e.Path("containerd.toml"))

	config, err := json.Marshal(map[string]any{
		"data-root": e.Path("data"), "exec-root": e.Path("x"), "pidfile": e.Path("dockerd.pid"), "containerd": e.Path("c.sock"),
		"hosts": []string{"unix://" + e.Path("docker.sock")}, "cgroup-parent": "/" + e.Token, "exec-opts": []string{"native.cgroupdriver=cgroupfs"},
		"runtimes":        map[string]any{"tested": map[string]any{"path": e.Runtime.Path, "runtimeArgs": e.Runtime.Args}},
		"default-runtime": "tested",
	})
	if err != nil {
		t.Fatal(err)
	}
	e.startDaemon(namespace, "dockerd", "--config-file", e.WriteFile("daemon.json", string(config), 0o600))
	t.Cleanup(e.removeContainers)

	harness.Rootfs(t, e.Path("rootfs"))
	if r := e.shell(fmt.Sprintf("tar -C %s -c . | %s import --change 'CMD [\"sh\"]' - %s", e.Path("rootfs"), docker, image)); r.Code != 0 {
		t.Fatalf("import: %v", r)
	}
	return e
}

// startNamespace makes the engine's network namespace, held by a sleeping process, and returns its path.
func (e *engine) startNamespace() string {
	e.t.Helper()
	r, w := e.Pipe()
	holder := exec.Command("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && read wait")
	holder.Stdin, holder.Stderr = r, os.Stderr
	p := e.Spawn(holder)
	r.Close()
	p.Stdout.Expect(e.t, "up")
	e.t.Cleanup(func() {
		w.Close()
		p.Wait()
	})
	return fmt.Sprintf("/proc/%d/ns/net", p.Pid)
}

// startDaemon starts a daemon with its output in a log file, waits until it says that it is ready (sd_notify(3)), and
// ends it after the test.
func (e *engine) startDaemon(namespace, name string, args ...string) {
	e.t.Helper()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: e.Path(name + ".notify"), Net: "unixgram"})
	if err != nil {
		e.t.Fatal(err)
	}
	defer socket.Close()
	log, err := os.Create(e.Path(name + ".log"))
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("nsenter", append([]string{"--net=" + namespace, name}, args...)...)
	cmd.Env = e.Environ("NOTIFY_SOCKET=" + e.Path(name+".notify"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, log, log
	p := e.Spawn(cmd)
	e.t.Cleanup(func() {
		p.Signal(syscall.SIGTERM)
		if code := p.WaitExit(); code != 0 && code != 128+int(syscall.SIGTERM) {
			e.t.Errorf("%s ended with %d", name, code)
		}
		if e.t.Failed() {
			e.t.Logf("the last lines of %s:\n%s", log.Name(), tail(e.ReadFile(log.Name()), 30))
		}
	})
	if err := socket.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		e.t.Fatal(err)
	}
	message := make([]byte, 4096)
	for {
		n, err := socket.Read(message)
		if err != nil {
			e.t.Fatalf("%s is not ready: %v\n%s", name, err, tail(e.ReadFile(log.Name()), 30))
		}
		if strings.Contains(string(message[:n]), "READY=1") {
			return
		}
	}
}

// removeContainers takes away all containers, and the cgroups that dockerd makes for them and leaves.
func (e *engine) removeContainers() {
	if ids := strings.Fields(e.ok(e.t, "ps", "--all", "--quiet")); len(ids) > 0 {
		e.ok(e.t, append([]string{"rm", "--force"}, ids...)...)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + e.Token, "/sys/fs/cgroup/" + e.Token} {
		parents, err := filepath.Glob(pattern)
		if err != nil {
			e.t.Error(err)
		}
		for _, parent := range parents {
			if err := os.Remove(parent); err != nil { // not empty: a container's cgroup was left in it
				e.t.Error(err)
			}
		}
	}
}

// tail is the last n lines of a text.
func tail(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// command is the docker client's command line for this engine.
func (e *engine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(docker, args...)
	cmd.Dir = e.Dir
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.Path("docker.sock"), "DOCKER_CONFIG="+e.Path("client"))
	return cmd
}

// shell runs a host's shell script with the client's environment.
func (e *engine) shell(script string) harness.Result {
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = e.command().Env
	return e.finish(e.t, cmd, "")
}

// finish runs a command to its end.
func (e *engine) finish(t *testing.T, cmd *exec.Cmd, stdin string) harness.Result {
	t.Helper()
	p := e.In(t).Spawn(cmd)
	if _, err := p.Stdin.WriteString(stdin); err != nil {
		t.Error(err)
	}
	p.Stdin.Close()
	return p.Wait()
}

// run runs docker to its end.
func (e *engine) run(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return e.finish(t, e.command(args...), "")
}

// ok runs docker, wants success, and returns its stdout without the last line end.
func (e *engine) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := e.run(t, args...)
	if r.Code != 0 {
		t.Fatalf("docker %s: %v", strings.Join(args, " "), r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// sleeper starts a container in the background that ends at once when told to with TERM, and returns its id.
func (e *engine) sleeper(t *testing.T, flags ...string) string {
	t.Helper()
	args := append([]string{"run", "--detach"}, flags...)
	return e.ok(t, append(args, image, "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done")...)
}

// inspect is docker inspect with a template.
func (e *engine) inspect(t *testing.T, id, template string) string {
	t.Helper()
	return e.ok(t, "inspect", "--format", template, id)
}
