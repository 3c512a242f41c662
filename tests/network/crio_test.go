package network_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// pinned is what CRI-O's pinns does for a pod: a process holds the pod's IPC and UTS namespaces, whose paths are in the
// configuration of every container of it.
func (p *pair) pinned() map[specs.LinuxNamespaceType]string {
	p.T.Helper()
	r, w := p.Pipe()
	holder := exec.Command("unshare", "--ipc", "--uts", "sh", "-c", "echo up && read wait")
	holder.Env, holder.Stdin = p.Environ(), r
	held := p.Spawn(holder)
	r.Close()
	held.Stdout.Expect(p.T, "up")
	p.T.Cleanup(func() { w.Close(); held.WaitExit() })
	return map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: p.in.Path,
		specs.IPCNamespace:     fmt.Sprintf("/proc/%d/ns/ipc", held.Pid),
		specs.UTSNamespace:     fmt.Sprintf("/proc/%d/ns/uts", held.Pid),
	}
}

// TestCRIO replays what CRI-O asks of a runtime for a pod with two containers. All that the engine keeps in between is
// on disk and in conmon, so every call here stands for one after the engine's restart, too.
func TestCRIO(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.veth(p.in.Pid, "eth0", "10.1.9")
	namespaces := p.pinned()
	sandbox := p.ID()
	bundle := func(kind, script string) *harness.Bundle {
		b := p.Shell(script)
		b.AddAnnotation("io.kubernetes.cri-o.ContainerType", kind)
		b.AddAnnotation("io.kubernetes.cri-o.SandboxID", sandbox)
		b.AddMount(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
		for kind, path := range namespaces {
			b.AddOrReplaceLinuxNamespace(string(kind), path)
		}
		b.Write()
		return b
	}
	create := func(b *harness.Bundle, id string) *harness.Container {
		c, r := p.CreateWritten(b, id)
		if c == nil {
			t.Fatalf("create: %v", r)
		}
		c.WantStatus(specs.StateCreated)
		c.Start()
		c.WantStatus(specs.StateRunning)
		return c
	}
	const wait = "trap 'exit 3' TERM; echo ready; while :; do sleep 1000 & wait $!; done"
	pod := create(bundle("sandbox", wait), sandbox)
	one := create(bundle("container", "nc -ll -p 80 -e echo hello & "+wait), p.ID())
	two := create(bundle("container", wait), p.ID())
	for _, c := range []*harness.Container{pod, one, two} {
		c.Stdout.Expect(t, "ready")
	}
	if strings.HasSuffix(p.Runtime.Path, "/hyper") {
		if vms := p.VMs(); len(vms) != 1 {
			t.Errorf("%d VMs for one pod", len(vms))
		}
	}
	p.reaches(two, "10.1.9")
	p.out.Sh("until test \"$(busybox nc -w 20 10.1.9.2 80 </dev/null)\" = hello; do sleep 1; done")

	execSync(t, p, two)
	streamingExec(t, p, two)

	if r := p.RunInput(`{"cpu":{"shares":512},"pids":{"limit":77}}`, "update", "--resources", "-", two.ID); r.Code != 0 {
		t.Errorf("update: %v", r)
	}
	if got := two.Sh("cd /sys/fs/cgroup; cat pids.max 2>/dev/null || cat pids/pids.max"); got != "77\n" {
		t.Errorf("pids.max after update: %q", got)
	}

	// StopContainer: the signal by name or number, then all that is left; RemoveContainer: by force.
	p.OK("kill", two.ID, "15")
	if r := two.Wait(); r.Code != 3 {
		t.Errorf("the stopped member left %v", r)
	}
	two.WantStatus(specs.StateStopped)
	p.Refused("not running", "kill", two.ID, "9")
	p.OK("delete", "--force", two.ID)
	p.OK("delete", "--force", two.ID)
	again := create(two.Bundle, two.ID)
	again.Stdout.Expect(t, "ready")

	p.OK("kill", again.ID, "KILL")
	p.OK("kill", one.ID, "KILL")
	again.Wait()
	one.Wait()
	p.OK("delete", "--force", again.ID)
	p.OK("delete", "--force", one.ID)
	pod.WantStatus(specs.StateRunning) // also when the last member has gone
	p.OK("kill", pod.ID, "TERM")
	if r := pod.Wait(); r.Code != 3 {
		t.Errorf("the sandbox container left %v", r)
	}
	p.OK("delete", "--force", pod.ID)
	bare(t, p.in)
}

// process writes the file that exec reads.
func process(p *pair, terminal bool, args ...string) string {
	text, err := json.Marshal(specs.Process{Terminal: terminal, Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		p.T.Fatal(err)
	}
	return p.WriteFile(p.ID(), string(text), 0o600)
}

// execSync is what conmon does for ExecSync: a detached exec whose pid it reaps.
func execSync(t *testing.T, p *pair, c *harness.Container) {
	t.Helper()
	pidFile := p.Path(p.ID())
	e := p.Spawn(p.Command("exec", "--pid-file", pidFile, "--process", process(p, false, "sh", "-c", "echo out; exit 4"), "--detach", c.ID))
	e.Stdin.Close()
	if code := e.WaitExit(); code != 0 {
		t.Fatalf("exec: %d, %s", code, e.Stderr.All(t))
	}
	if code := p.Reap(p.ReadPid(pidFile)); code != 4 || e.Stdout.All(t) != "out\n" {
		t.Errorf("ExecSync: %d, %q", code, e.Stdout.Text())
	}
}

// streamingExec is CRI-O's own exec: in the foreground, over pipes or a terminal.
func streamingExec(t *testing.T, p *pair, c *harness.Container) {
	t.Helper()
	r := p.RunInput("typed\n", "exec", "--process", process(p, false, "sh", "-c", "cat; echo err >&2; exit 5"), c.ID)
	if r.Code != 5 || r.Stdout != "typed\n" || r.Stderr != "err\n" {
		t.Errorf("exec: %v", r)
	}
	terminal, slave := p.OpenTerminal()
	terminal.Resize(91, 17)
	cmd := p.Command("exec", "--process", process(p, true, "sh", "-c", "until stty size | grep -q 91; do :; done; stty size; read line; echo got=$line; exit 6"), c.ID)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	e := p.Spawn(cmd)
	slave.Close()
	terminal.Expect(t, "17 91\r\n")
	terminal.Type("hello\r")
	terminal.Expect(t, "got=hello\r\n")
	if code := e.WaitExit(); code != 6 {
		t.Errorf("exec in a terminal: %d", code)
	}
}
