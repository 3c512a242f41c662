// Package containerd_test runs containerd with its own shim for runc, which calls the runtime under test.
package containerd_test

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// engine is a containerd in the test's corner.
type engine struct {
	*harness.Host
	t *testing.T
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{Host: harness.New(t), t: t}
	e.WriteFile("runtime", "#!/bin/sh\nexec "+strings.Join(append([]string{e.Runtime.Path}, e.Runtime.Args...), " ")+" \"$@\"\n", 0o755)
	e.Namespace().Containerd()
	return e
}

// command is ctr's command line; verbs that start containers get the runtime by runs.
func (e *engine) command(args ...string) *exec.Cmd {
	cmd := exec.Command("ctr", append([]string{"--address", e.Path("c.sock")}, args...)...)
	cmd.Dir, cmd.Env = e.Dir, e.Environ()
	return cmd
}

func (e *engine) run(args ...string) harness.Result {
	e.t.Helper()
	p := e.Spawn(e.command(args...))
	p.Stdin.Close()
	return p.Wait()
}

func (e *engine) ok(args ...string) string {
	e.t.Helper()
	r := e.run(args...)
	if r.Code != 0 {
		e.t.Fatalf("ctr %s: %v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// create is the start of a command line that makes a container.
func (e *engine) create(flags ...string) []string {
	return append([]string{"run", "--runtime", "io.containerd.runc.v2", "--runc-binary", e.Path("runtime"), "--runc-root", e.Root, "--env", "PATH=/bin"}, flags...)
}

// wait waits for the end of a task and returns its status: attach does, and deletes the task.
func (e *engine) wait(id string) int {
	e.t.Helper()
	p := e.Spawn(e.command("tasks", "attach", id))
	p.Stdin.Close()
	return p.WaitExit()
}

func TestCtr(t *testing.T) {
	e := newEngine(t)
	harness.Rootfs(t, e.Path("rootfs"))
	rootfs := e.create("--rm", "--rootfs", "--cgroup", "/"+e.Token+"-run", e.Path("rootfs"))
	if r := e.run(append(rootfs, "one", "sh", "-c", "echo out; echo err >&2; exit 3")...); r.Code != 3 || r.Stdout != "out\n" || !strings.Contains(r.Stderr, "err\n") {
		t.Errorf("run: %v", r)
	}
	if r := e.run(append(rootfs, "none", "no-such-command")...); r.Code == 0 || !strings.Contains(r.Stderr, "executable file not found in $PATH") {
		t.Errorf("run of what is not there: %v", r)
	}

	e.ok(append(e.create("--detach", "--rootfs", "--cgroup", "/"+e.Token+"-task", e.Path("rootfs")), "two",
		"sh", "-c", "trap 'exit 5' TERM; while :; do sleep 1000 & wait $!; done")...)
	if r := e.run("tasks", "exec", "--exec-id", "a", "two", "sh", "-c", "echo in; exit 6"); r.Code != 6 || r.Stdout != "in\n" {
		t.Errorf("exec: %v", r)
	}
	if got := e.ok("tasks", "metrics", "two"); !strings.Contains(got, "memory") {
		t.Errorf("metrics: %q", got)
	}
	if got := e.ok("tasks", "ps", "two"); strings.Count(got, "\n") < 2 {
		t.Errorf("ps: %q", got)
	}
	e.ok("tasks", "pause", "two")
	if got := e.ok("tasks", "ls"); !strings.Contains(got, "PAUSED") {
		t.Errorf("ls: %q", got)
	}
	e.ok("tasks", "resume", "two")
	e.ok("tasks", "kill", "--signal", "TERM", "two")
	if code := e.wait("two"); code != 5 {
		t.Errorf("the task ended with %d", code)
	}
	e.ok("containers", "delete", "two")
}

// TestOOM checks that containerd tells of a process that the kernel has killed for memory before it tells of its end.
func TestOOM(t *testing.T) {
	e := newEngine(t)
	harness.Rootfs(t, e.Path("rootfs"))
	events := e.Spawn(e.command("events"))
	run := e.create("--rm", "--rootfs", "--memory-limit", "41943040", "--cgroup", "/"+e.Token+"-oom", e.Path("rootfs"))
	if r := e.run(append(run, "hungry", "sh", "-c", "tail /dev/zero; exit 3")...); r.Code != 3 {
		t.Errorf("run: %v", r)
	}
	events.Stdout.Expect(t, "/tasks/delete")
	events.Signal(syscall.SIGTERM)
	told := events.Wait().Stdout
	if oom, exit := strings.Index(told, "/tasks/oom"), strings.Index(told, "/tasks/exit"); oom < 0 || oom > exit {
		t.Errorf("events: %s", told)
	}
}

// TestCRIPod makes a sandbox and a member as containerd's CRI plugin does, by annotations.
func TestCRIPod(t *testing.T) {
	e := newEngine(t)
	pod := e.bundle("pod", "sandbox", "pod", "while :; do sleep 1000 & wait $!; done")
	e.ok(append(e.create("--detach", "--config", pod.ConfigPath()), "pod")...)
	network := strings.Fields(e.ok("tasks", "ls"))
	pid := network[len(network)-2] // of the last line: task, pid, status
	member := e.bundle("member", "container", "pod", "echo hello; exit 7")
	for kind, file := range map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"} {
		member.AddOrReplaceLinuxNamespace(string(kind), fmt.Sprintf("/proc/%s/ns/%s", pid, file))
	}
	member.Write()
	for range 2 { // again after it was removed
		if r := e.run(append(e.create("--rm", "--config", member.ConfigPath()), "member")...); r.Code != 7 || r.Stdout != "hello\n" {
			t.Errorf("member: %v", r)
		}
	}
	if strings.HasSuffix(e.Runtime.Path, "/hyper") {
		if vms := e.VMs(); len(vms) != 1 {
			t.Errorf("%d VMs for one pod", len(vms))
		}
	}
	e.ok("tasks", "kill", "--signal", "KILL", "pod")
	if code := e.wait("pod"); code != 137 {
		t.Errorf("the sandbox container ended with %d", code)
	}
	e.ok("containers", "delete", "pod")
}

// bundle is one whose root file system has an absolute path, as ctr takes it.
func (e *engine) bundle(name, kind, sandbox, script string) *harness.Bundle {
	b := e.Shell(script)
	b.SetRootPath(b.Rootfs)
	b.AddAnnotation("io.kubernetes.cri.container-type", kind)
	b.AddAnnotation("io.kubernetes.cri.sandbox-id", sandbox)
	b.Write()
	return b
}
