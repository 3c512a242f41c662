// Package docker_test runs a Docker engine of its own with the runtime under test as its default runtime.
package docker_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// engine is a containerd and a dockerd with all their directories and sockets in the test's corner, in a network
// namespace of their own: the bridge and its firewall rules are not the host's, and go when the daemons go.
type engine struct {
	volume sync.Once

	*harness.Host
	net *harness.Namespace // where the daemons are, with their bridges
	t   *testing.T
}

// docker is Debian's client, the one that belongs to its engine.
const docker = "/usr/bin/docker"

// image is what all containers are made from: a static busybox.
const image = "busybox"

// startEngine starts the daemons and stops them when the test ends; what is left then fails the test.
func startEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{Host: harness.New(t), t: t}
	e.net = e.Namespace()

	t.Cleanup(func() { // dockerd leaves the namespace that stands for the host's network
		if err := unix.Unmount(e.Path("x/netns/default"), unix.MNT_DETACH); err != nil && err != unix.ENOENT && err != unix.EINVAL {
			t.Error(err)
		}
	})
	e.net.Containerd()

	config, err := json.Marshal(map[string]any{
		"data-root": e.Path("data"), "exec-root": e.Path("x"), "pidfile": e.Path("dockerd.pid"), "containerd": e.Path("c.sock"),
		"hosts": []string{"unix://" + e.Path("docker.sock")}, "cgroup-parent": "/" + e.Token, "exec-opts": []string{"native.cgroupdriver=cgroupfs"},
		"runtimes":        map[string]any{"tested": map[string]any{"path": e.Runtime.Path, "runtimeArgs": e.Runtime.Args}},
		"default-runtime": "tested",
	})
	if err != nil {
		t.Fatal(err)
	}
	e.net.Daemon("dockerd", "--config-file", e.WriteFile("daemon.json", string(config), 0o600))
	t.Cleanup(e.removeContainers)

	harness.Rootfs(t, e.Path("rootfs"))
	if r := e.shell(fmt.Sprintf("tar -C %s -c . | %s import --change 'CMD [\"sh\"]' - %s", e.Path("rootfs"), docker, image)); r.Code != 0 {
		t.Fatalf("import: %v", r)
	}
	return e
}

// removeContainers takes away all containers, and the cgroups that dockerd makes for them and leaves.
func (e *engine) removeContainers() {
	if ids := strings.Fields(e.ok(e.t, "ps", "--all", "--quiet")); len(ids) > 0 {
		e.ok(e.t, append([]string{"rm", "--force"}, ids...)...)
	}
	e.RemoveCgroups("/" + e.Token)
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
