package cli_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// Whatever ends the sandbox ends its members; they can be deleted without it.
func TestOursSandboxEnds(t *testing.T) {
	t.Parallel()
	ways := map[string]func(t *testing.T, p *pod){
		"by itself": func(_ *testing.T, p *pod) { p.OK("kill", p.sandbox.ID, "TERM") },
		"deleted":   func(_ *testing.T, p *pod) { p.OK("delete", "--force", p.sandbox.ID) },
		"keeper":    func(t *testing.T, p *pod) { kill(t, p.sandbox.Pid) },
		"QEMU": func(t *testing.T, p *pod) {
			for _, pid := range p.VMs() {
				kill(t, pid)
			}
		},
	}
	for name, end := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			created := p.Create(p.join(p.Sleeper(), usual...))
			running := p.sleeper(usual...)
			exec := p.Spawn(p.Command("exec", running.ID, "sh", "-c", "echo up; exec sleep 1000"))
			exec.Stdout.Expect(t, "up")
			paused := p.sleeper(append(usual, specs.PIDNamespace)...)
			p.OK("pause", paused.ID)
			end(t, p)
			p.sandbox.Wait()
			for _, c := range []*harness.Container{created, running, paused} {
				if r := c.Wait(); r.Code != 128+9 {
					t.Errorf("member: %v", r)
				}
				c.WantStatus(specs.StateStopped)
				p.Refused(notRunning, "kill", c.ID, "TERM")
			}
			if r := exec.Wait(); r.Code != 128+9 {
				t.Errorf("exec: %v", r)
			}
			if name != "deleted" {
				if _, r := p.TryCreate(p.join(p.Sleeper())); !strings.Contains(r.Stderr, "is not running: stopped") {
					t.Errorf("create in a sandbox that has ended: %v", r)
				}
				p.OK("delete", p.sandbox.ID)
			}
			p.OK("delete", running.ID)
			p.OK("delete", "--force", paused.ID)
			p.OK("delete", created.ID)
		})
	}
}

// A member whose host process dies is killed in the guest, and nobody else.
func TestOursStandInDies(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	for _, state := range []string{"created", "running", "paused"} {
		t.Run(state, func(t *testing.T) {
			p := p.in(t)
			b := p.join(p.Sleeper(), usual...)
			c := p.Create(b)
			if state != "created" {
				c.Start()
				c.Stdout.Expect(t, "ready")
			}
			if state == "paused" {
				p.OK("pause", c.ID)
			}
			kill(t, c.Pid)
			if r := c.Wait(); r.Code != 128+9 {
				t.Errorf("member: %v", r)
			}
			c.WantStatus(specs.StateStopped)
			p.Refused(notRunning, "kill", c.ID, "TERM")
			p.Refused("", "exec", c.ID, "true")
			p.OK("delete", c.ID)
			p.sandbox.WantStatus(specs.StateRunning)
			again, r := p.CreateWritten(b, c.ID)
			if again == nil {
				t.Fatalf("create again: %v", r)
			}
			again.Remove()
		})
	}
	p.sandbox.Sh("true")
}

// A create that is killed at any time leaves nothing that delete by force does not clear away, and the sandbox takes
// the id again.
func TestOursMemberCreateDies(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	b := p.join(p.Sleeper(), usual...)
	b.Write()
	id := p.ID()
	for _, ms := range []int{0, 3, 10, 20, 30, 50, 80, 120, 200, 400} {
		t.Run(strconv.Itoa(ms)+"ms", func(t *testing.T) {
			p := p.in(t)
			process := p.Spawn(p.Command("create", "--bundle", b.Dir, id))
			time.Sleep(time.Duration(ms) * time.Millisecond) // the moment of death is what the test varies
			process.Signal(syscall.SIGKILL)
			process.WaitExit()
			p.OK("delete", "--force", id)
			process.Wait() // nobody holds its pipes
			p.Refused(doesNotExist, "state", id)
		})
	}
	c, r := p.CreateWritten(b, id)
	if c == nil {
		t.Fatalf("create: %v", r)
	}
	c.Start()
	c.Stdout.Expect(t, "ready")
	c.Remove()
}

// A member whose run directory was lost does not keep its id.
func TestOursMemberLost(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	c := p.sleeper(usual...)
	if err := os.RemoveAll(filepath.Join(p.Root, c.ID)); err != nil {
		t.Fatal(err)
	}
	kill(t, c.Pid)
	c.Wait()
	for _, cgroup := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		left, err := filepath.Glob(cgroup + c.Bundle.Config.Linux.CgroupsPath)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range left {
			os.Remove(dir) // the other name of the same; what stays is reported as a leak
		}
	}
	again, r := p.CreateWritten(c.Bundle, c.ID)
	if again == nil {
		t.Fatalf("create again: %v", r)
	}
	again.Start()
	again.Stdout.Expect(t, "ready")
	again.Remove()
}

func TestOursPodRefusals(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	c := p.sleeper(usual...)
	p.Refused("cannot delete container", "delete", p.sandbox.ID)

	b := p.Sleeper()
	b.AddAnnotation("io.kubernetes.cri.container-type", "container")
	b.AddAnnotation("io.kubernetes.cri.sandbox-id", "../"+p.sandbox.ID)
	if _, r := p.TryCreate(b); !strings.Contains(r.Stderr, "invalid container ID format") {
		t.Errorf("sandbox with a path for an id: %v", r)
	}
	// The namespaces of a container in another VM can only be had with its network.
	alone := joinOf(t, p.Sleeper(), c.Pid, specs.PIDNamespace)
	if _, r := p.TryCreate(alone); !strings.Contains(r.Stderr, "the pid namespace of a process that is not in the same VM cannot be shared") {
		t.Errorf("pid namespace without the network: %v", r)
	}
	// An engine that runs no container for the pod itself names one that there is not.
	b = p.Sleeper()
	b.AddAnnotation("io.kubernetes.cri-o.ContainerType", "container")
	b.AddAnnotation("io.kubernetes.cri-o.SandboxID", "nobody")
	own := p.StartNew(b)
	own.Stdout.Expect(t, "ready")
	if got := own.Sh("ls /dev/shm"); got != "" {
		t.Errorf("shared memory of a container of its own: %q", got)
	}
	p.sandbox.Sh("echo >/dev/shm/file")
	if r := own.Exec("test", "-e", "/dev/shm/file"); r.Code == 0 {
		t.Error("a container of another VM shares memory with the pod")
	}
	if n := len(p.VMs()); n != 2 {
		t.Errorf("%d VMs, want 2", n)
	}
}

// A sandbox that has not started yet goes only by force when a member lives.
func TestOursDeleteCreatedSandbox(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	one := h.Create(h.Sleeper())
	two := h.StartNew(joinOf(t, h.Sleeper(), one.Pid, specs.NetworkNamespace))
	two.Stdout.Expect(t, "ready")
	h.Refused("its sandbox has container "+two.ID, "delete", one.ID)
	h.OK("delete", "--force", one.ID)
	if r := two.Wait(); r.Code != 128+9 {
		t.Errorf("member: %v", r)
	}
	h.OK("delete", two.ID)
}

// The pod's sums size the VM, and each member has its own limits in it.
func TestOursPodSize(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.AddAnnotation("io.kubernetes.cri.container-type", "sandbox")
	b.AddAnnotation("io.kubernetes.cri.sandbox-memory", strconv.Itoa(300<<20))
	b.AddAnnotation("io.kubernetes.cri.sandbox-cpu-quota", "200000")
	b.AddAnnotation("io.kubernetes.cri.sandbox-cpu-period", "100000")
	one := h.StartNew(b)
	one.Stdout.Expect(t, "ready")
	if got := one.Sh("nproc"); got != "2\n" {
		t.Errorf("CPUs of the VM: %q", got)
	}
	total, err := strconv.Atoi(strings.TrimSpace(one.Sh("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")))
	if err != nil || total < 300<<10 || total > 450<<10 {
		t.Errorf("KiB of the VM: %d, %v", total, err)
	}
	limited := joinOf(t, h.Shell("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"), one.Pid, specs.NetworkNamespace)
	limited.SetLinuxResourcesMemoryLimit(64 << 20)
	limited.SetLinuxResourcesPidsLimit(50)
	limited.RemoveMount("/sys/fs/cgroup")
	limited.AddMount(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
	two := h.StartNew(limited)
	if r := two.Wait(); r.Code != 0 || r.Stdout != "67108864\n50\n" {
		t.Errorf("limits of the member: %v", r)
	}
}
