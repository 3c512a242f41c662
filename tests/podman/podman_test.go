package podman_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// cases are podman's commands, one test each.
var cases = []struct {
	name string
	test func(t *testing.T, e *engine)
}{
	{"run", testRun},
	{"run -it", testRunTerminal},
	{"exec", testExec},
	{"exec -it", testExecTerminal},
	{"logs, wait", testLogs},
	{"stop, kill", testStop},
	{"pause", testPause},
	{"rm -f", testRemove},
	{"cp", testCopy},
	{"top, stats, inspect", testLook},
	{"update", testUpdate},
	{"run --memory", testOOM},
	{"network", testNetwork},
}

func TestPodman(t *testing.T) {
	e := newEngine(t)
	t.Run("commands", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.test(t, e)
			})
		}
	})
}

func testRun(t *testing.T, e *engine) {
	for _, c := range []struct {
		flags, argv string
		stdin       string
		want        harness.Result // Stderr is only looked for
	}{
		{argv: "echo|hello", want: harness.Result{Stdout: "hello\n"}},
		{argv: "sh|-c|echo out; echo err >&2; exit 3", want: harness.Result{Code: 3, Stdout: "out\n", Stderr: "err\n"}},
		{flags: "-i", argv: "cat", stdin: "typed\n", want: harness.Result{Stdout: "typed\n"}},
		{argv: "/etc/passwd", want: harness.Result{Code: 126, Stderr: "permission denied"}},
		{argv: "no-such-command", want: harness.Result{Code: 127, Stderr: "not found"}},
		{flags: "--read-only", argv: "touch|/x", want: harness.Result{Code: 1, Stderr: "Read-only file system"}},
		{flags: "--user 7:8 --workdir /tmp", argv: "sh|-c|id -u; id -g; pwd", want: harness.Result{Stdout: "7\n8\n/tmp\n"}},
		{flags: "--tmpfs /mnt:size=1m", argv: "sh|-c|df -k /mnt | awk 'NR==2{print $2}'", want: harness.Result{Stdout: "1024\n"}},
	} {
		args := append(e.flags("run", "--rm", "--network", "none"), strings.Fields(c.flags)...)
		r := e.input(t, c.stdin, append(append(args, image), strings.SplitN(c.argv, "|", 3)...)...)
		if r.Code != c.want.Code || r.Stdout != c.want.Stdout || !strings.Contains(r.Stderr, c.want.Stderr) {
			t.Errorf("run %s %s: %v, want %v", c.flags, c.argv, r, c.want)
		}
	}
}

// inTerminal runs podman in a terminal of 91 columns and 17 rows.
func (e *engine) inTerminal(t *testing.T, args ...string) (*harness.Process, *harness.Terminal) {
	t.Helper()
	return e.In(t).SpawnInTerminal(e.command(args...))
}

func testRunTerminal(t *testing.T, e *engine) {
	p, terminal := e.inTerminal(t, append(e.flags("run"), "--rm", "-it", "--network", "none", image, "sh", "-c", harness.SizesScript)...)
	harness.TalkSizes(t, p, terminal)
}

func testExec(t *testing.T, e *engine) {
	id := e.sleeper(t, "--network", "none")
	r := e.input(t, "typed\n", "exec", "-i", "--env", "A=1", "--user", "user", id, "sh", "-c", "cat; echo $A; id -un; echo err >&2; exit 5")
	if r.Code != 5 || r.Stdout != "typed\n1\nuser\n" || !strings.Contains(r.Stderr, "err\n") {
		t.Errorf("%v", r)
	}
	if r := e.run(t, "exec", id, "no-such-command"); r.Code != 127 {
		t.Errorf("%v", r)
	}
	e.ok(t, "exec", "--detach", id, "sh", "-c", "echo x >/tmp/x")
	e.ok(t, "exec", id, "sh", "-c", "until test -s /tmp/x; do sleep 0.1; done")
}

func testExecTerminal(t *testing.T, e *engine) {
	id := e.sleeper(t, "--network", "none")
	p, terminal := e.inTerminal(t, "exec", "-it", id, "sh", "-c", harness.SizesScript)
	harness.TalkSizes(t, p, terminal)
}

func testLogs(t *testing.T, e *engine) {
	id := e.ok(t, append(e.flags("run", "-d", "--network", "none"), image, "sh", "-c", "seq 1 1000; echo err >&2; exit 6")...)
	if out := e.ok(t, "wait", id); out != "6" {
		t.Errorf("wait: %q", out)
	}
	r := e.run(t, "logs", id)
	if lines := strings.Split(r.Stdout, "\n"); len(lines) != 1001 || lines[999] != "1000" || r.Stderr != "err\n" {
		t.Errorf("logs: %d lines, %q", len(lines), r.Stderr)
	}
	if got := e.ok(t, "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}", id); got != "exited 6 false" {
		t.Errorf("state: %s", got)
	}
}

func testStop(t *testing.T, e *engine) {
	id := e.ok(t, append(e.flags("run", "-d", "--network", "none"), image, "sh", "-c",
		"trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 1000 & wait $!; done")...)
	e.expectLog(t, id, "ready")
	e.ok(t, "kill", "--signal", "USR1", id)
	e.expectLog(t, id, "usr1")
	e.ok(t, "stop", id)
	if got := e.ok(t, "wait", id); got != "3" {
		t.Errorf("stopped with %s", got)
	}
	e.ok(t, "start", id) // the same id once more
	e.ok(t, "kill", id)
	if got := e.ok(t, "wait", id); got != "137" {
		t.Errorf("killed with %s", got)
	}
	deaf := e.ok(t, append(e.flags("run", "-d", "--network", "none"), image, "sh", "-c", "trap '' TERM; while :; do sleep 1000; done")...)
	e.ok(t, "stop", "--time", "1", deaf)
	if got := e.ok(t, "wait", deaf); got != "137" {
		t.Errorf("stopped by force with %s", got)
	}
}

// expectLog waits until the container has written a line.
func (e *engine) expectLog(t *testing.T, id, line string) {
	t.Helper()
	p := e.In(t).Spawn(e.command("logs", "--follow", id))
	p.Stdout.Expect(t, line+"\n")
	p.Signal(syscall.SIGTERM)
	p.Stdin.Close()
	p.Wait()
}

func testPause(t *testing.T, e *engine) {
	id := e.ok(t, append(e.flags("run", "-d", "--network", "none"), image, "sh", "-c", "while :; do date +%s.%N >/tmp/t; sleep 0.1; done")...)
	e.ok(t, "exec", id, "sh", "-c", "until test -s /tmp/t; do sleep 0.1; done")
	e.ok(t, "pause", id)
	if got := e.ok(t, "inspect", "--format", "{{.State.Status}}", id); got != "paused" {
		t.Errorf("status %s", got)
	}
	mount := e.ok(t, "mount", id)
	first := e.ReadFile(mount + "/tmp/t")
	e.net.Sh("sleep 1")
	if second := e.ReadFile(mount + "/tmp/t"); second != first {
		t.Errorf("it went on while paused: %q, then %q", first, second)
	}
	e.ok(t, "unpause", id)
	e.ok(t, "exec", id, "sh", "-c", fmt.Sprintf("until test \"$(cat /tmp/t)\" != %q; do sleep 0.1; done", strings.TrimSpace(first)))
	e.ok(t, "umount", id)
}

func testRemove(t *testing.T, e *engine) {
	id := e.sleeper(t, "--network", "none")
	e.ok(t, "rm", "--force", "--time", "0", id)
	if r := e.run(t, "inspect", id); r.Code == 0 {
		t.Errorf("it is still there: %v", r)
	}
}

func testCopy(t *testing.T, e *engine) {
	id := e.sleeper(t, "--network", "none")
	e.ok(t, "cp", e.In(t).WriteFile("from-host", "host\n", 0o644), id+":/tmp/from-host")
	if got := e.ok(t, "exec", id, "sh", "-c", "cat /tmp/from-host; echo guest >/tmp/from-guest"); got != "host" {
		t.Errorf("in the container: %q", got)
	}
	e.ok(t, "cp", id+":/tmp/from-guest", e.Path("from-guest"))
	if got := e.ReadFile(e.Path("from-guest")); got != "guest\n" {
		t.Errorf("on the host: %q", got)
	}
}

func testLook(t *testing.T, e *engine) {
	id := e.sleeper(t, "--network", "none", "--memory", "64m")
	if got := e.ok(t, "stats", "--no-stream", "--format", "{{.MemUsage}}", id); !strings.Contains(got, "MB") {
		t.Errorf("stats: %q", got)
	}
	if got := e.ok(t, "inspect", "--format", "{{.State.Running}} {{.HostConfig.Memory}}", id); got != "true 67108864" {
		t.Errorf("inspect: %q", got)
	}
	if got := e.ok(t, "top", id, "args"); !strings.Contains(got, "sh -c") {
		t.Errorf("top: %q", got)
	}
}

func testUpdate(t *testing.T, e *engine) {
	id := e.sleeper(t, "--network", "none", "--memory", "64m")
	e.ok(t, "update", "--memory", "48m", id)
	out := e.ok(t, "exec", id, "sh", "-c", "cd /sys/fs/cgroup; cat memory.max || cat memory/memory.limit_in_bytes")
	if out != "50331648" {
		t.Errorf("in the container: %q", out)
	}
}

// testNetwork uses podman's default bridge, by CNI.
func testNetwork(t *testing.T, e *engine) {
	id := e.sleeper(t)
	gateway := e.ok(t, "inspect", "--format", "{{.NetworkSettings.Gateway}}", id)
	e.ok(t, "exec", id, "ping", "-c", "1", "-W", "20", gateway)
	e.net.Sh("busybox ping -c 1 -W 20 " + e.ok(t, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", id))
}
