package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// pod is a sandbox container and the means to make members of its pod, as CRI-O and podman do.
type pod struct {
	*harness.Host
	sandbox *harness.Container
	shm     string
}

// newPod starts the sandbox container, which waits to be told to end.
func newPod(t *testing.T) *pod {
	t.Helper()
	h := harness.New(t)
	p := &pod{Host: h, shm: filepath.Join("/dev/shm", h.Token)}
	if err := os.Mkdir(p.shm, 0o1777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(p.shm) }) // before the leak check, which would find it
	b := h.Sleeper()
	b.AddAnnotation("io.kubernetes.cri-o.ContainerType", "sandbox")
	b.SetHostname("the-pod")
	p.shareMemory(b)
	p.sandbox = h.StartNew(b)
	p.sandbox.Stdout.Expect(t, "ready")
	return p
}

func (p *pod) in(t *testing.T) *pod {
	sub := *p
	sub.Host = p.Host.In(t)
	return &sub
}

func (p *pod) shareMemory(b *harness.Bundle) {
	b.RemoveMount("/dev/shm")
	b.Bind(p.shm, "/dev/shm", "rw")
}

// join makes a bundle one of a member: annotations, and the namespaces that the kinds say.
func (p *pod) join(b *harness.Bundle, kinds ...specs.LinuxNamespaceType) *harness.Bundle {
	p.T.Helper()
	b.AddAnnotation("io.kubernetes.cri-o.ContainerType", "container")
	b.AddAnnotation("io.kubernetes.cri-o.SandboxID", p.sandbox.ID)
	b.SetHostname("the-pod")
	p.shareMemory(b)
	return joinOf(p.T, b, p.sandbox.Pid, kinds...)
}

// joinOf gives a bundle namespaces of a process.
func joinOf(t testing.TB, b *harness.Bundle, pid int, kinds ...specs.LinuxNamespaceType) *harness.Bundle {
	t.Helper()
	for _, kind := range kinds {
		name := string(kind)
		if kind == specs.NetworkNamespace {
			name = "net"
		}
		if err := b.AddOrReplaceLinuxNamespace(string(kind), fmt.Sprintf("/proc/%d/ns/%s", pid, name)); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// usual are the namespaces that the members of a pod share by default.
var usual = []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}

func (p *pod) start(script string, kinds ...specs.LinuxNamespaceType) *harness.Container {
	p.T.Helper()
	return p.StartNew(p.join(p.Shell(script), kinds...))
}

// sleeper starts a member that waits to be told to end.
func (p *pod) sleeper(kinds ...specs.LinuxNamespaceType) *harness.Container {
	p.T.Helper()
	c := p.StartNew(p.join(p.Sleeper(), kinds...))
	c.Stdout.Expect(p.T, "ready")
	return c
}

func TestPod(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	a := p.sleeper(usual...)
	if host := a.Sh("hostname"); host != "the-pod\n" {
		t.Errorf("host name %q", host)
	}
	if init := a.Sh("readlink /proc/1/exe; cat /proc/1/comm"); !strings.HasSuffix(init, "sh\n") {
		t.Errorf("process 1 is %q, want its own", init)
	}

	server := p.start("echo up; echo from-server | nc -l -p 7007", usual...)
	server.Stdout.Expect(t, "up")
	client := p.start("until nc 127.0.0.1 7007 </dev/null 2>/dev/null; do sleep 0.1; done; exit 5", usual...)
	if r := client.Wait(); r.Code != 5 || r.Stdout != "from-server\n" {
		t.Errorf("client: %v", r)
	}
	if r := server.Wait(); r.Code != 0 {
		t.Errorf("server: %v", r)
	}
	server.WantStatus(specs.StateStopped)

	p.sandbox.Sh("echo text >/dev/shm/file; >/dev/mqueue/queue")
	if got := a.Sh("cat /dev/shm/file; ls /dev/mqueue"); got != "text\nqueue\n" {
		t.Errorf("shared memory and queues: %q", got)
	}
	a.Sh("echo mine >/tmp/file")
	if r := p.sandbox.Exec("cat", "/tmp/file"); r.Code == 0 {
		t.Errorf("the sandbox sees the member's root: %v", r)
	}

	p.OK("delete", client.ID)
	p.OK("delete", server.ID)
	p.OK("kill", a.ID, "TERM")
	if r := a.Wait(); r.Code != 0 {
		t.Errorf("member: %v", r)
	}
	p.OK("delete", a.ID)
	// The last member is gone, the sandbox goes on, and takes new ones: also of an id that was there.
	p.sandbox.WantStatus(specs.StateRunning)
	again, r := p.CreateWritten(a.Bundle, a.ID)
	if again == nil {
		t.Fatalf("create again: %v", r)
	}
	again.Start()
	again.Stdout.Expect(t, "ready")
	if got := again.Sh("cat /dev/shm/file; cat /tmp/file"); got != "text\nmine\n" {
		t.Errorf("again: %q", got)
	}
	again.Remove()
}

// Engines mount a member's files when the sandbox is there already, where no mount spreads from.
func TestPodLateMount(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	b := p.join(p.Shell("cat /volume/file; exit 2"), usual...)
	volume, root := p.Path("volume"), p.Path("root-source")
	p.WriteFile("volume-source/file", "late\n", 0o644)
	if err := os.Rename(b.Rootfs, root); err != nil {
		t.Fatal(err)
	}
	for source, target := range map[string]string{root: b.Rootfs, p.Path("volume-source"): volume} {
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		if err := unix.Mount("", target, "", unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
	}
	b.Bind(volume, "/volume", "rbind", "ro")
	c := p.StartNew(b)
	if r := c.Wait(); r.Code != 2 || r.Stdout != "late\n" {
		t.Errorf("member: %v", r)
	}
	again, r := p.CreateWritten(b, p.ID())
	if again == nil {
		t.Fatalf("create again: %v", r)
	}
	again.Start()
	if r := again.Wait(); r.Code != 2 || r.Stdout != "late\n" {
		t.Errorf("a second member with the same files: %v", r)
	}
}

func TestPodVerbs(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	c := p.Create(p.join(p.Sleeper(), usual...))
	c.WantStatus(specs.StateCreated)
	if state := c.State(); state.Pid != c.Pid || state.Pid == p.sandbox.Pid {
		t.Errorf("state's pid is %d, the file's %d, the sandbox's %d", state.Pid, c.Pid, p.sandbox.Pid)
	}
	for _, name := range []string{"net", "ipc", "uts"} {
		own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Pid, name))
		sandbox, serr := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.sandbox.Pid, name))
		if err != nil || serr != nil || own != sandbox {
			t.Errorf("%s namespace: %s, %v; of the sandbox %s, %v", name, own, err, sandbox, serr)
		}
	}
	p.Refused(alreadyExists, "create", "--bundle", c.Bundle.Dir, c.ID)
	c.Start()
	c.Stdout.Expect(t, "ready")
	if r := c.Exec("sh", "-c", "echo out; echo err >&2; exit 9"); r.Code != 9 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("exec: %v", r)
	}
	pidFile := p.Path("exec-pid")
	p.OK("exec", "--detach", "--pid-file", pidFile, c.ID, "sh", "-c", "exit 4")
	if code := p.Reap(p.ReadPid(pidFile)); code != 4 {
		t.Errorf("detached exec: exit %d", code)
	}
	if ps := p.OK("ps", "--format", "json", c.ID); !strings.Contains(ps, fmt.Sprint(c.Pid)) || strings.Contains(ps, fmt.Sprint(p.sandbox.Pid)) {
		t.Errorf("ps: %s, want %d only", ps, c.Pid)
	}
	p.OK("pause", c.ID)
	c.WantStatus("paused")
	p.sandbox.WantStatus(specs.StateRunning)
	p.sandbox.Sh("true")
	p.OK("resume", c.ID)
	c.WantStatus(specs.StateRunning)
	if list := p.OK("list", "--quiet"); list != p.sandbox.ID+"\n"+c.ID+"\n" {
		t.Errorf("list: %q", list)
	}
	p.Refused("", "delete", c.ID)
	p.OK("kill", "--all", c.ID, "KILL")
	if r := c.Wait(); r.Code != 128+9 {
		t.Errorf("killed: %v", r)
	}
	c.WantStatus(specs.StateStopped)
	p.Refused(notRunning, "kill", c.ID, "TERM")
	p.OK("delete", c.ID)
	p.Refused(doesNotExist, "state", c.ID)
	p.sandbox.WantStatus(specs.StateRunning)
}

func TestPodPid(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	b := p.join(p.Shell("cat /proc/1/cmdline; echo; exit 6"), append(usual, specs.PIDNamespace)...)
	c := p.StartNew(b)
	if r := c.Wait(); r.Code != 6 || !strings.Contains(r.Stdout, "echo ready") {
		t.Errorf("process 1 as the member sees it: %v", r)
	}
	// Its first process is not the namespace's: what it leaves behind goes on until it is told to end, as with runc.
	c = p.StartNew(p.join(p.Shell("sleep 2345 >/dev/null 2>&1 & echo left; exec sleep 1000"), append(usual, specs.PIDNamespace)...))
	c.Stdout.Expect(t, "left")
	if r := c.Exec("sh", "-c", "ps -o args; exit 8"); r.Code != 8 || !strings.Contains(r.Stdout, "sleep 2345") {
		t.Errorf("exec: %v", r)
	}
	p.OK("kill", c.ID, "KILL")
	if r := c.Wait(); r.Code != 128+9 {
		t.Errorf("killed: %v", r)
	}
	if ps := p.sandbox.Sh("ps -o args"); !strings.Contains(ps, "sleep 2345") {
		t.Errorf("what it left is gone: %q", ps)
	}
	p.OK("kill", "--all", c.ID, "KILL")
	p.sandbox.Sh("while ps -o args | grep -q 'sleep [2]345'; do sleep 0.1; done") // the kernel's work goes on a moment
	p.OK("delete", c.ID)
	// A debugging container joins the namespace of another member.
	target := p.sleeper(usual...)
	target.Sh("sleep 1234 >/dev/null 2>&1 &")
	b = joinOf(t, p.join(p.Shell("ps -o args; exit 7"), usual...), target.Pid, specs.PIDNamespace)
	debug := p.StartNew(b)
	if r := debug.Wait(); r.Code != 7 || !strings.Contains(r.Stdout, "sleep 1234") {
		t.Errorf("the target's processes: %v", r)
	}
	// It ends with the process that holds the namespace.
	late := p.StartNew(joinOf(t, p.join(p.Sleeper(), usual...), target.Pid, specs.PIDNamespace))
	late.Stdout.Expect(t, "ready")
	p.OK("kill", target.ID, "KILL")
	target.Wait()
	if r := late.Wait(); r.Code != 128+9 {
		t.Errorf("a member in another's pid namespace: %v", r)
	}
}

// A container that joins the network of another lives in its VM, annotations or not (docker run --network container:x).
func TestNetworkOfContainer(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	one := h.StartSleeper()
	b := joinOf(t, h.Shell("echo up; echo hello | nc -l -p 7008"), one.Pid, specs.NetworkNamespace)
	two := h.StartNew(b)
	two.Stdout.Expect(t, "up")
	if got := one.Sh("until nc 127.0.0.1 7008 </dev/null 2>/dev/null; do sleep 0.1; done"); got != "hello\n" {
		t.Errorf("over the network: %q", got)
	}
	if r := two.Wait(); r.Code != 0 {
		t.Errorf("the second: %v", r)
	}
	// Also where the first is not the one that the VM was made for.
	middle := h.StartNew(joinOf(t, h.Sleeper(), one.Pid, specs.NetworkNamespace))
	middle.Stdout.Expect(t, "ready")
	third := h.StartNew(joinOf(t, h.Shell("cat /proc/1/cmdline; exit 3"), middle.Pid, specs.NetworkNamespace, specs.PIDNamespace))
	if r := third.Wait(); r.Code != 3 || !strings.Contains(r.Stdout, "echo ready") {
		t.Errorf("the third: %v", r)
	}
}

func TestPodTwoAtOnce(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	var all sync.WaitGroup
	for i := range 4 {
		b := p.join(p.Shell(fmt.Sprintf("echo %d; exit %d", i, i)), usual...)
		b.Write()
		id := p.ID()
		all.Go(func() {
			c, r := p.CreateWritten(b, id)
			if c == nil {
				t.Errorf("create %d: %v", i, r)
				return
			}
			if r := p.Run("start", id); r.Code != 0 {
				t.Errorf("start %d: %v", i, r)
			}
			if r := c.Wait(); r.Code != i || r.Stdout != fmt.Sprintf("%d\n", i) {
				t.Errorf("member %d: %v", i, r)
			}
			if r := p.Run("delete", id); r.Code != 0 {
				t.Errorf("delete %d: %v", i, r)
			}
		})
	}
	all.Wait()
}

func TestPodForeground(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	b := p.join(p.Shell("cat; echo done >&2; exit 8"), usual...)
	b.Write()
	if r := p.RunInput("typed", "run", "--bundle", b.Dir, p.ID()); r.Code != 8 || r.Stdout != "typed" || r.Stderr != "done\n" {
		t.Errorf("run: %v", r)
	}
	b = p.join(p.Shell("trap 'exit 11' TERM; echo ready; while :; do sleep 1000 & wait $!; done"), usual...)
	b.Write()
	process := p.Spawn(p.Command("run", "--bundle", b.Dir, p.ID()))
	process.Stdin.Close()
	process.Stdout.Expect(t, "ready")
	process.Signal(15)
	if r := process.Wait(); r.Code != 11 {
		t.Errorf("run and TERM: %v", r)
	}
	if list := p.OK("list", "--quiet"); list != p.sandbox.ID+"\n" {
		t.Errorf("left: %q", list)
	}
}

func TestPodTerminal(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	b := p.join(p.Shell(terminalScript), usual...)
	b.SetProcessTerminal(true)
	b.SetProcessConsoleSize(91, 17)
	socket := p.ListenConsole()
	c := p.Create(b, "--console-socket", socket.Path)
	terminal := socket.Receive()
	c.Start()
	talk(t, terminal)
	if r := c.Wait(); r.Code != 4 || r.Stdout != "" {
		t.Errorf("member: %v, terminal %q", r, terminal.Text())
	}
	terminal.All(t)

	b = p.join(p.Shell(terminalScript), usual...)
	b.SetProcessTerminal(true)
	b.Write()
	process, terminal := inTerminal(p.Host, "run", "--bundle", b.Dir, p.ID())
	talk(t, terminal)
	if r := process.Wait(); r.Code != 4 {
		t.Errorf("run: %v", r)
	}
}

func TestPodHooks(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	log := p.Path("hooks")
	b := p.join(p.Sleeper(), usual...)
	b.Config.Hooks = &specs.Hooks{
		CreateRuntime:   []specs.Hook{recorder("createRuntime", log)},
		CreateContainer: []specs.Hook{recorder("createContainer", log)},
		Poststart:       []specs.Hook{recorder("poststart", log)},
		Poststop:        []specs.Hook{recorder("poststop", log)},
	}
	c := p.StartNew(b)
	c.Remove()
	want := []string{"createRuntime", "createContainer", "poststart", "poststop"}
	calls := readCalls(t, log)
	if got := kinds(calls); !slices.Equal(got, want) {
		t.Fatalf("hooks: %v, want %v", got, want)
	}
	for _, call := range calls {
		pid := c.Pid
		if call.kind == "poststop" {
			pid = 0
		}
		if call.kind == "createContainer" {
			call.net, call.state.Pid = "own", pid // runc's answers are those of the container's namespaces
		}
		if call.state.ID != c.ID || call.state.Pid != pid || pid != 0 && call.net != "own" {
			t.Errorf("%s: pid %d, network %s, state %+v", call.kind, c.Pid, call.net, call.state)
		}
	}

	b.Config.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/false"}}}
	if again, r := p.CreateWritten(rewritten(b), c.ID); again != nil || !strings.Contains(r.Stderr, "hook #0") {
		t.Errorf("create with a hook that fails: %v", r)
	}
	p.Refused(doesNotExist, "state", c.ID)
	b.Config.Hooks = nil
	again, r := p.CreateWritten(rewritten(b), c.ID)
	if again == nil {
		t.Fatalf("create after a hook has failed: %v", r)
	}
	again.Remove()
}

// rewritten is the bundle with its changes written.
func rewritten(b *harness.Bundle) *harness.Bundle {
	b.Write()
	return b
}
