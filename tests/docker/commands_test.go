package docker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// commandCases are the docker commands for containers that live on, one test each.
var commandCases = []struct {
	name string
	test func(t *testing.T, e *engine)
}{
	{"run -it", testRunTerminal},
	{"run -d, wait, logs", testLogs},
	{"run 137", testKilled},
	{"attach", testAttach},
	{"exec", testExec},
	{"exec -it", testExecTerminal},
	{"kill -s, stop", testKillAndStop},
	{"stop -t", testStopByForce},
	{"pause, unpause", testPause},
	{"restart, start", testRestart},
	{"inspect, top, stats", testInspect},
	{"cp, diff", testCopy},
	{"rm -f", testRemove},
	{"run --restart", testRestartPolicy},
	{"run --health-cmd", testHealth},
	{"update", testUpdate},
	{"run --memory", testOOM},
}

// inTerminal runs docker in a terminal.
func (e *engine) inTerminal(t *testing.T, args ...string) (*harness.Process, *harness.Terminal) {
	t.Helper()
	return e.In(t).SpawnInTerminal(e.command(args...))
}

func testRunTerminal(t *testing.T, e *engine) {
	p, terminal := e.inTerminal(t, "run", "--rm", "-it", image, "sh", "-c", harness.SizesScript)
	harness.TalkSizes(t, p, terminal)
}

func testLogs(t *testing.T, e *engine) {
	id := e.ok(t, "run", "-d", image, "sh", "-c", "seq 1 1000; echo err >&2; exit 6")
	if out := e.ok(t, "wait", id); out != "6" {
		t.Errorf("wait: %q", out)
	}
	r := e.run(t, "logs", id)
	if lines := strings.Split(r.Stdout, "\n"); len(lines) != 1001 || lines[999] != "1000" || r.Stderr != "err\n" {
		t.Errorf("logs: %d lines, %q", len(lines), r.Stderr)
	}
	if out := e.inspect(t, id, "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Pid}}"); out != "exited 6 false 0" {
		t.Errorf("state: %q", out)
	}
	e.ok(t, "rm", id)
}

func testKilled(t *testing.T, e *engine) {
	p := e.In(t).Spawn(e.command("run", "--name", "killed", image, "sh", "-c", "echo ready; exec sleep 1000"))
	p.Stdout.Expect(t, "ready")
	e.ok(t, "kill", "killed")
	if r := p.Wait(); r.Code != 137 {
		t.Errorf("run: %v", r)
	}
	e.ok(t, "rm", "killed")
}

func testAttach(t *testing.T, e *engine) {
	id := e.ok(t, "run", "-d", "-i", image, "sh", "-c", "read line; echo got=$line; read line; exit 5")
	p := e.In(t).Spawn(e.command("attach", id))
	if _, err := p.Stdin.WriteString("hello\n"); err != nil {
		t.Error(err)
	}
	p.Stdout.Expect(t, "got=hello\n")
	if _, err := p.Stdin.WriteString("end\n"); err != nil { // a container that was started apart keeps its stdin open
		t.Error(err)
	}
	if r := p.Wait(); r.Code != 5 {
		t.Errorf("attach: %v", r)
	}
	e.ok(t, "rm", id)
}

func testExec(t *testing.T, e *engine) {
	id := e.sleeper(t, "-e", "FROM=run")
	for _, c := range []struct {
		args []string
		want harness.Result
	}{
		{[]string{"exec", id, "sh", "-c", "echo out $FROM; echo err >&2; exit 7"}, harness.Result{Code: 7, Stdout: "out run\n", Stderr: "err\n"}},
		{[]string{"exec", "-u", "user", "-w", "/tmp", "-e", "A=b", id, "sh", "-c", "id -u; pwd; echo $A"}, harness.Result{Stdout: "1000\n/tmp\nb\n"}},
		{[]string{"exec", "-i", id, "wc", "-c"}, harness.Result{Stdout: "5\n"}},
		{[]string{"exec", "-d", id, "touch", "/tmp/made"}, harness.Result{}},
		{[]string{"exec", id, "sh", "-c", "kill -9 $$"}, harness.Result{Code: 137}},
	} {
		if r := e.finish(t, e.command(c.args...), "stdin"); r != c.want {
			t.Errorf("%v: %v, want %v", c.args, r, c.want)
		}
	}
	for command, code := range map[string]int{"/etc/passwd": 126, "no-such-command": 126, "/no/such/command": 126} { // what docker 20.10 makes of each
		if r := e.run(t, "exec", id, command); r.Code != code && r.Code != 127 {
			t.Errorf("exec %s: %v", command, r)
		}
	}
	e.ok(t, "rm", "-f", id)
}

func testExecTerminal(t *testing.T, e *engine) {
	id := e.sleeper(t)
	p, terminal := e.inTerminal(t, "exec", "-it", id, "sh", "-c", harness.SizesScript)
	harness.TalkSizes(t, p, terminal)
	e.ok(t, "rm", "-f", id)
}

func testKillAndStop(t *testing.T, e *engine) {
	p := e.In(t).Spawn(e.command("run", "--name", "signalled", image, "sh", "-c",
		"trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 1000 & wait $!; done"))
	p.Stdout.Expect(t, "ready\n")
	e.ok(t, "kill", "-s", "USR1", "signalled")
	p.Stdout.Expect(t, "usr1\n")
	e.ok(t, "stop", "signalled")
	if r := p.Wait(); r.Code != 3 || r.Stdout != "ready\nusr1\nterm\n" {
		t.Errorf("run: %v", r)
	}
	e.ok(t, "rm", "signalled")
}

func testStopByForce(t *testing.T, e *engine) {
	id := e.ok(t, "run", "-d", image, "sh", "-c", "trap '' TERM; sleep 1000")
	e.ok(t, "stop", "-t", "1", id)
	if code := e.inspect(t, id, "{{.State.ExitCode}}"); code != "137" {
		t.Errorf("exit code %s", code)
	}
	e.ok(t, "rm", id)
}

func testPause(t *testing.T, e *engine) {
	p := e.In(t).Spawn(e.command("run", "-i", "--name", "paused", image, "sh", "-c", "echo ready; while read word; do echo got=$word; done"))
	p.Stdout.Expect(t, "ready")
	e.ok(t, "pause", "paused")
	if status := e.inspect(t, "paused", "{{.State.Status}}"); status != "paused" {
		t.Errorf("status %s", status)
	}
	if _, err := p.Stdin.WriteString("one\n"); err != nil {
		t.Error(err)
	}
	time.Sleep(500 * time.Millisecond) // that nothing happens can only be seen by waiting
	if out := p.Stdout.Text(); out != "ready\n" {
		t.Errorf("the paused container wrote %q", out)
	}
	e.ok(t, "unpause", "paused")
	p.Stdout.Expect(t, "got=one\n")
	p.Stdin.Close()
	if r := p.Wait(); r.Code != 0 {
		t.Errorf("run: %v", r)
	}
	e.ok(t, "rm", "paused")
}

func testRestart(t *testing.T, e *engine) {
	id := e.ok(t, "run", "-d", image, "sh", "-c", "trap 'exit 0' TERM; echo x >>/count; wc -l </count; while :; do sleep 1000 & wait $!; done")
	e.follow(t, id, "1\n")
	e.ok(t, "restart", id)
	e.follow(t, id, "1\n2\n")
	e.ok(t, "stop", id)
	e.ok(t, "start", id)
	e.follow(t, id, "1\n2\n3\n") // the rootfs kept what was written
	e.ok(t, "rm", "-f", id)
}

// follow waits until the container's log has the text.
func (e *engine) follow(t *testing.T, id, text string) {
	t.Helper()
	p := e.In(t).Spawn(e.command("logs", "--follow", id))
	p.Stdout.Expect(t, text)
	p.Signal(syscall.SIGTERM)
	p.WaitExit()
}

func testInspect(t *testing.T, e *engine) {
	id := e.sleeper(t, "-m", "128m")
	pid, err := strconv.Atoi(e.inspect(t, id, "{{.State.Pid}}"))
	if err != nil || !exists(fmt.Sprintf("/proc/%d", pid)) {
		t.Errorf("pid %d: %v", pid, err)
	}
	if out := e.inspect(t, id, "{{.State.Status}} {{.HostConfig.Runtime}} {{.HostConfig.Memory}}"); out != "running tested 134217728" {
		t.Errorf("inspect: %q", out)
	}
	top := e.ok(t, "top", id)
	if !strings.HasPrefix(top, "UID") || !regexp.MustCompile(fmt.Sprintf(`(?m)^\S+\s+%d\s`, pid)).MatchString(top) {
		t.Errorf("top: %q, want pid %d in it", top, pid)
	}
	stats := e.ok(t, "stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", id)
	if memory := strings.Fields(stats); strings.HasPrefix(memory[0], "0B") || memory[len(memory)-1] == "0" {
		t.Errorf("stats: %q", stats)
	}
	e.ok(t, "rm", "-f", id)
}

func testCopy(t *testing.T, e *engine) {
	id := e.sleeper(t)
	if err := os.MkdirAll(e.Path("cp/dir/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	e.In(t).WriteFile("cp/dir/sub/file", "copied\n", 0o640)
	e.ok(t, "cp", e.Path("cp/dir"), id+":/tmp/in")
	if out := e.ok(t, "exec", id, "sh", "-c", "cat /tmp/in/sub/file; mkdir /tmp/out; echo back >/tmp/out/file; chmod 600 /tmp/out/file"); out != "copied" {
		t.Errorf("copied in: %q", out)
	}
	e.ok(t, "cp", id+":/tmp/out", e.Path("cp/back"))
	if got := e.In(t).ReadFile(filepath.Join(e.Path("cp/back"), "file")); got != "back\n" {
		t.Errorf("copied out: %q", got)
	}
	if diff := e.ok(t, "diff", id); !strings.Contains(diff, "A /tmp/out/file") {
		t.Errorf("diff: %q", diff)
	}
	e.ok(t, "rm", "-f", id)
}

func testRemove(t *testing.T, e *engine) {
	id := e.sleeper(t)
	if r := e.run(t, "rm", id); r.Code == 0 {
		t.Errorf("rm of a running container: %v", r)
	}
	e.ok(t, "rm", "-f", id)
	if r := e.run(t, "inspect", id); r.Code == 0 {
		t.Errorf("inspect after rm: %v", r)
	}
}

func testRestartPolicy(t *testing.T, e *engine) {
	events := e.events(t, "container=again", "event=die")
	id := e.ok(t, "run", "-d", "--name", "again", "--restart", "on-failure:2", image, "sh", "-c", "echo try; exit 1")
	events.Stdout.ExpectCount(t, "container die", 3)
	events.Signal(syscall.SIGTERM)
	events.WaitExit()
	if out := e.inspect(t, id, "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}"); out != "2 exited 1" {
		t.Errorf("state: %q", out)
	}
	if out := e.ok(t, "logs", id); out != "try\ntry\ntry" {
		t.Errorf("logs: %q", out)
	}
	e.ok(t, "rm", id)
}

// events follows the engine's events from now on, as `docker events` with filters.
func (e *engine) events(t *testing.T, filters ...string) *harness.Process {
	t.Helper()
	args := []string{"events", "--since", fmt.Sprint(time.Now().Unix())}
	for _, filter := range filters {
		args = append(args, "--filter", filter)
	}
	return e.In(t).Spawn(e.command(args...))
}

func testHealth(t *testing.T, e *engine) {
	events := e.events(t, "container=healthy", "event=health_status")
	id := e.sleeper(t, "--name", "healthy", "--health-cmd", "test -e /tmp/well", "--health-interval", "1s", "--health-retries", "1", "--health-timeout", "30s")
	events.Stdout.Expect(t, "unhealthy")
	e.ok(t, "exec", id, "touch", "/tmp/well")
	events.Stdout.Expect(t, "health_status: healthy")
	events.Signal(syscall.SIGTERM)
	events.WaitExit()
	e.ok(t, "rm", "-f", id)
}

func testUpdate(t *testing.T, e *engine) {
	id := e.sleeper(t, "--pids-limit", "1000")
	e.ok(t, "update", "--pids-limit", "20", id)
	r := e.run(t, "exec", id, "sh", "-c", "(for i in $(seq 40); do sleep 2000 >/dev/null 2>&1 & echo $i; done); exec killall sleep")
	if n := strings.Count(r.Stdout, "\n"); n >= 20 || n < 10 {
		t.Errorf("%d forks within a limit of 20: %v", n, r)
	}
	e.ok(t, "rm", "-f", id)
}
