package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent"
	"github.com/hyper-runtime/hyper/agent/client"
	"github.com/hyper-runtime/hyper/agent/protocol"
)

// guard is the time after which a test that hangs is ended.
const guard = 2 * time.Minute

// TestMain runs the tests, or, started by them, an agent: as PID 1 of its own namespaces like the real one, so that it
// gets orphans and takes all containers with it when it ends.
func TestMain(m *testing.M) {
	if text := os.Getenv("HYPER_AGENT_TEST"); text != "" {
		err := serve(text)
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func serve(text string) error {
	var config agent.Config
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	// crun refuses a host with both versions of cgroups when the second one has controllers.
	if err := unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return err
	}
	unix.CloseOnExec(3)
	conn, err := net.FileConn(os.NewFile(3, "port"))
	if err != nil {
		return err
	}
	a, err := agent.New(config)
	if err != nil {
		return err
	}
	if err := agent.AwaitSession(conn); err != nil {
		return err
	}
	return a.Serve(conn)
}

// guest is an agent without a VM.
type guest struct {
	*client.Client
	t       *testing.T
	ctx     context.Context
	rootfs  string
	network string // path of the containers' network namespace
	pid     int    // of the agent, on the host
	last    atomic.Uint32
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	dir := t.TempDir()
	config := agent.Config{
		Runtime:     "/usr/bin/crun",
		RuntimeRoot: filepath.Join(dir, "crun"),
		Bundles:     filepath.Join(dir, "containers"),
		Scratch:     filepath.Join(dir, "s"),
		Share:       filepath.Join(dir, "share"),
		Cgroups:     "/sys/fs/cgroup/pids", // a v1 host: one hierarchy stands for the tree
		MachineID:   filepath.Join(dir, "machine-id"),
		Network:     filepath.Join(dir, "network"),
		BareNetwork: filepath.Join(dir, "network.bare"),
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "port")
	ours := os.NewFile(uintptr(pair[0]), "port")
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	ours.Close()
	program := exec.Command("/proc/self/exe")
	program.Env = append(os.Environ(), "HYPER_AGENT_TEST="+string(text))
	program.ExtraFiles = []*os.File{theirs}
	program.Stdout, program.Stderr = io.Discard, t.Output()
	program.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	c, err := client.New(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		c.Close()
		program.Wait()
		removeCgroups(t)
	})
	g := &guest{Client: c, t: t, ctx: ctx, rootfs: busybox(t), network: config.Network, pid: program.Process.Pid}
	if _, err := g.Setup(ctx, &protocol.SetupRequest{Hostname: "guest"}); err != nil {
		t.Fatal(err)
	}
	return g
}

// cgroup is where the containers of this test process are.
var cgroup = fmt.Sprintf("/hyper-agent-test-%d", os.Getpid())

// removeCgroups removes what containers that a test left running have left behind.
func removeCgroups(t *testing.T) {
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*" + cgroup)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range hierarchies {
		containers, _ := filepath.Glob(dir + "/*")
		for _, container := range containers {
			if info, err := os.Stat(container); err == nil && info.IsDir() {
				unix.Rmdir(container)
			}
		}
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			t.Errorf("remove %s: %v", dir, err)
		}
	}
}

// busybox makes a root file system.
func busybox(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "proc", "dev", "tmp", "etc", "sys"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "echo", "cat", "sleep", "true", "yes", "stty", "sha256sum", "dd", "kill", "seq", "setsid", "ls", "nslookup", "nc"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/motd"), []byte("no program\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

type object = map[string]any

// process is an OCI process object.
func process(args ...string) object {
	return object{
		"args": args, "cwd": "/", "env": []string{"PATH=/bin", "HOME=/"},
		"user": object{"uid": 0, "gid": 0},
	}
}

// spec is a config.json around a process.
func (g *guest) spec(id string, process object) []byte {
	return encode(g.t, object{
		"ociVersion": "1.0.2",
		"process":    process,
		"root":       object{"path": g.rootfs},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		"linux": object{
			"cgroupsPath": cgroup + "/" + id,
			"namespaces":  []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}},
		},
	})
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// ends are the host's ends of a process's streams.
type ends struct {
	numbers               *protocol.Streams
	stdin, stdout, stderr *client.Stream
}

// open opens the streams of a process; of a terminal stderr is not used.
func (g *guest) open() *ends {
	g.t.Helper()
	e := &ends{numbers: &protocol.Streams{Stdin: g.last.Add(1), Stdout: g.last.Add(1), Stderr: g.last.Add(1)}}
	e.stdin, e.stdout, e.stderr = g.stream(e.numbers.Stdin), g.stream(e.numbers.Stdout), g.stream(e.numbers.Stderr)
	return e
}

func (g *guest) stream(number uint32) *client.Stream {
	g.t.Helper()
	s, err := g.Stream(g.ctx, number)
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

// createRequest asks for the container of a config.json.
func (g *guest) createRequest(id string, config []byte, streams *protocol.Streams) *protocol.CreateRequest {
	g.t.Helper()
	var spec specs.Spec
	if err := json.Unmarshal(config, &spec); err != nil {
		g.t.Fatal(err)
	}
	r := &protocol.CreateRequest{
		ContainerId: id, Spec: config, Streams: streams, Root: spec.Root.Path, Cgroup: spec.Linux.CgroupsPath,
		Program: &protocol.Program{Command: spec.Process.Args[0], Terminal: spec.Process.Terminal},
	}
	if spec.Hooks != nil {
		for _, hook := range spec.Hooks.StartContainer {
			r.StartContainerHooks = append(r.StartContainerHooks, hook.Path)
		}
	}
	return r
}

// execRequest asks for one more process.
func (g *guest) execRequest(id, exec string, p object, streams *protocol.Streams) *protocol.ExecRequest {
	g.t.Helper()
	terminal, _ := p["terminal"].(bool)
	return &protocol.ExecRequest{
		ContainerId: id, ExecId: exec, Process: encode(g.t, p), Streams: streams,
		Program: &protocol.Program{Command: p["args"].([]string)[0], Terminal: terminal},
	}
}

// create creates a container with open streams.
func (g *guest) create(id string, p object) *ends {
	g.t.Helper()
	e := g.open()
	if _, err := g.Create(g.ctx, g.createRequest(id, g.spec(id, p), e.numbers)); err != nil {
		g.t.Fatalf("create %s: %v", id, err)
	}
	return e
}

func (g *guest) start(id string) {
	g.t.Helper()
	if _, err := g.Start(g.ctx, &protocol.StartRequest{ContainerId: id}); err != nil {
		g.t.Fatalf("start %s: %v", id, err)
	}
}

// run creates and starts a container.
func (g *guest) run(id string, args ...string) *ends {
	g.t.Helper()
	e := g.create(id, process(args...))
	g.start(id)
	return e
}

// exec starts an exec process with open streams.
func (g *guest) exec(id, exec string, p object) *ends {
	g.t.Helper()
	e := g.open()
	r := g.execRequest(id, exec, p, e.numbers)
	if _, err := g.Exec(g.ctx, r); err != nil {
		g.t.Fatalf("exec %s in %s: %v", exec, id, err)
	}
	return e
}

func (g *guest) wait(id, exec string) *protocol.WaitResponse {
	g.t.Helper()
	r, err := g.Wait(g.ctx, &protocol.WaitRequest{ContainerId: id, ExecId: exec})
	if err != nil {
		g.t.Fatalf("wait for %s %s: %v", id, exec, err)
	}
	return r
}

func (g *guest) kill(id, exec string, signal unix.Signal) error {
	_, err := g.Signal(g.ctx, &protocol.SignalRequest{ContainerId: id, ExecId: exec, Signal: uint32(signal)})
	return err
}

func (g *guest) delete(id, exec string) {
	g.t.Helper()
	if _, err := g.Delete(g.ctx, &protocol.DeleteRequest{ContainerId: id, ExecId: exec}); err != nil {
		g.t.Fatalf("delete %s %s: %v", id, exec, err)
	}
}

// read reads a stream to its end.
func read(t *testing.T, s *client.Stream) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := io.Copy(&b, s); err != nil {
		t.Errorf("read stream: %v", err)
	}
	s.Close()
	return b.String()
}

// line reads a stream until a line ends.
func line(t *testing.T, s *client.Stream) string {
	t.Helper()
	var text []byte
	for one := make([]byte, 1); !bytes.HasSuffix(text, []byte("\n")); text = append(text, one...) {
		if _, err := io.ReadFull(s, one); err != nil {
			t.Fatalf("read line: %v after %q", err, text)
		}
	}
	return string(text)
}
