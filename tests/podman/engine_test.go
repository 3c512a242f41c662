// Package podman_test runs podman, and with it conmon, with the runtime under test.
package podman_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// engine is a podman with all its directories in the test's corner, in a network namespace of its own.
type engine struct {
	*harness.Host
	net *harness.Namespace
}

// image is what all containers are made from: a static busybox.
const image = "localhost/busybox"

// newEngine makes the configuration and the image. What is left when the test ends fails it.
func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{Host: harness.New(t)}
	e.net = e.Namespace()
	// podman takes a runtime for one that logs JSON by its name.
	runtime := e.WriteFile("hyper", "#!/bin/sh\nexec "+strings.Join(append([]string{e.Runtime.Path}, e.Runtime.Args...), " ")+" \"$@\"\n", 0o755)
	e.WriteFile("containers.conf", fmt.Sprintf(`[containers]
cgroupns = "private"
apparmor_profile = "unconfined"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "hyper"
runtime_supports_json = ["hyper"]
[engine.runtimes]
hyper = [%q]
[network]
network_backend = "cni"
network_config_dir = %q
`, runtime, e.Path("cni")), 0o600)
	e.WriteFile("storage.conf", fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", e.Path("data"), e.Path("run")), 0o600)
	t.Cleanup(e.removeAll)
	harness.Rootfs(t, e.Path("rootfs"))
	tar := e.In(t).Spawn(exec.Command("tar", "-C", e.Path("rootfs"), "-cf", e.Path("image.tar"), "."))
	if r := tar.Wait(); r.Code != 0 {
		t.Fatal(r)
	}
	e.ok(t, "import", "--change", "CMD=[\"sh\"]", e.Path("image.tar"), image)
	return e
}

// removeAll takes away all pods and containers, and the cgroups that podman leaves.
func (e *engine) removeAll() {
	t := e.T.(*testing.T)
	for _, args := range [][]string{{"pod", "rm", "--force", "--time", "0", "--all"}, {"rm", "--force", "--time", "0", "--all"}} {
		if r := e.run(t, args...); r.Code != 0 {
			t.Errorf("podman %s: %v", strings.Join(args, " "), r)
		}
	}
	for _, conmon := range e.Programs("conmon") { // it goes after its container
		e.gone(t, conmon)
	}
	e.removeCgroups(t)
}

// removeCgroups removes what podman leaves: the cgroups of conmon and of pods, and the same as plain directories where a
// hierarchy is not mounted.
func (e *engine) removeCgroups(t *testing.T) {
	t.Helper()
	parents, err := filepath.Glob("/sys/fs/cgroup/*/" + e.Token)
	if err != nil {
		t.Error(err)
	}
	for _, parent := range parents {
		if _, err := os.Stat(parent + "/cgroup.procs"); err != nil {
			if err := os.RemoveAll(parent); err != nil {
				t.Error(err)
			}
			// Where it finds such a directory podman takes it for a hierarchy the next time. Others' use keeps it.
			os.Remove(filepath.Dir(parent))
			continue
		}
		var dirs []string
		if err := filepath.WalkDir(parent, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != parent {
				dirs = append(dirs, path)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		for _, dir := range slices.Backward(dirs) {
			if strings.HasPrefix(filepath.Base(dir), "libpod-") {
				t.Errorf("left of a container: %s", dir)
			} else if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	}
	e.RemoveCgroups("/" + e.Token)
}

// gone waits for the end of a process that is not our child.
func (e *engine) gone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, int(harness.Patience.Milliseconds()))
	for err == unix.EINTR {
		n, err = unix.Poll(poll, int(harness.Patience.Milliseconds()))
	}
	if n != 1 {
		t.Errorf("process %d does not end: %v", pid, err)
	}
}

// command is podman's command line for this engine.
func (e *engine) command(args ...string) *exec.Cmd {
	global := []string{"--tmpdir", e.Path("tmp"), "--log-level", "error"}
	cmd := e.net.Command("podman", append(global, args...)...)
	cmd.Dir = e.Dir
	cmd.Env = append(cmd.Env, "CONTAINERS_CONF="+e.Path("containers.conf"), "CONTAINERS_STORAGE_CONF="+e.Path("storage.conf"), "TMPDIR="+e.Dir)
	return cmd
}

// run runs podman to its end.
func (e *engine) run(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return e.input(t, "", args...)
}

func (e *engine) input(t *testing.T, stdin string, args ...string) harness.Result {
	t.Helper()
	p := e.In(t).Spawn(e.command(args...))
	if _, err := p.Stdin.WriteString(stdin); err != nil {
		t.Error(err)
	}
	p.Stdin.Close()
	return p.Wait()
}

// ok runs podman, wants success, and returns its stdout without the last line end.
func (e *engine) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := e.run(t, args...)
	if r.Code != 0 {
		t.Fatalf("podman %s: %v", strings.Join(args, " "), r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// container makes flags for a container in the test's cgroup.
func (e *engine) flags(verb string, more ...string) []string {
	return append([]string{verb, "--cgroup-parent", "/" + e.Token}, more...)
}

// sleeper starts a container in the background that ends at once when told to with TERM, and returns its id.
func (e *engine) sleeper(t *testing.T, flags ...string) string {
	t.Helper()
	args := append(e.flags("run", "--detach"), flags...)
	return e.ok(t, append(args, image, "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done")...)
}
