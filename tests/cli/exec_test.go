package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestExec(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.AddProcessEnv("FROM", "spec")
	b.SetProcessCwd("/tmp")
	c := h.StartNew(b)
	c.Stdout.Expect(t, "ready")

	cases := []struct {
		name  string
		flags []string
		argv  string // split at blanks; the last word may be a script after "sh -c"
		stdin string
		want  harness.Result
	}{
		{"stdout, stderr and code", nil, "sh -c|echo out; echo err >&2; exit 42", "", harness.Result{Code: 42, Stdout: "out\n", Stderr: "err\n"}},
		{"stdin and its end", nil, "wc -c", strings.Repeat("x", 100_000), harness.Result{Stdout: "100000\n"}},
		{"empty stdin", nil, "cat", "", harness.Result{}},
		{"environment and directory of the container", nil, "sh -c|echo $FROM; pwd", "", harness.Result{Stdout: "spec\n/tmp\n"}},
		{"cwd", []string{"--cwd", "/var/lib"}, "pwd", "", harness.Result{Stdout: "/var/lib\n"}},
		{"env", []string{"--env", "A=1 2", "--env", "B=x=y", "--env=FROM=flag"}, "sh -c|echo $A,$B,$FROM", "", harness.Result{Stdout: "1 2,x=y,flag\n"}},
		{"user", []string{"--user", "1000:2000"}, "sh -c|id -u; id -g", "", harness.Result{Stdout: "1000\n2000\n"}},
		{"user without group", []string{"-u", "1000"}, "id -u", "", harness.Result{Stdout: "1000\n"}},
		{"additional groups", []string{"-u", "1000:1000", "-g", "5", "-g", "6"}, "id -G", "", harness.Result{Stdout: "1000 5 6\n"}},
		{"capability", []string{"--cap", "CAP_SYS_ADMIN"}, "sh -c|test $((0x$(sed -n 's/^CapEff:.//p' /proc/self/status) >> 21 & 1)) = 1", "", harness.Result{}},
		{"no such capability by default", nil, "sh -c|test $((0x$(sed -n 's/^CapEff:.//p' /proc/self/status) >> 21 & 1)) = 0", "", harness.Result{}},
		{"no new privileges", []string{"--no-new-privs"}, "grep NoNewPrivs /proc/self/status", "", harness.Result{Stdout: "NoNewPrivs:\t1\n"}},
		{"killed", nil, "sh -c|kill -KILL $$", "", harness.Result{Code: 137}},
		{"terminated", nil, "sh -c|kill -TERM $$", "", harness.Result{Code: 143}},
		{"code 255", nil, "sh -c|exit 255", "", harness.Result{Code: 255}},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			command, script, found := strings.Cut(test.argv, "|")
			argv := strings.Fields(command)
			if found {
				argv = append(argv, script)
			}
			r := h.In(t).RunInput(test.stdin, slices.Concat([]string{"exec"}, test.flags, []string{c.ID}, argv)...)
			if r != test.want {
				t.Errorf("%v, want %v", r, test.want)
			}
		})
	}
	c.WantStatus(specs.StateRunning)
}

func TestExecErrors(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	if err := os.WriteFile(b.Rootfs+"/not-executable", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := h.StartNew(b)
	c.Stdout.Expect(t, "ready")
	// The texts are those that docker and podman turn into the exit codes 126 and 127.
	h.Refused("executable file not found in $PATH", "exec", c.ID, "no-such-command")
	h.Refused("no such file or directory", "exec", c.ID, "/no/such/command")
	h.Refused("permission denied", "exec", c.ID, "/not-executable")
	h.Refused("", "exec", c.ID, "/tmp")
	h.Refused("", "exec", c.ID)
	h.Refused("", "exec", "--process", h.Path("missing.json"), c.ID)
	h.Refused("", "exec", "--process", h.WriteFile("broken.json", "{", 0o644), c.ID)
	c.WantStatus(specs.StateRunning)
	if r := c.Exec("true"); r.Code != 0 {
		t.Errorf("exec after the errors: %v", r)
	}
}

func TestOursExecRefuses(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	h.Refused("", "exec", "--user", "4294967296", c.ID, "true")
	h.Refused("preserve-fds", "exec", "--preserve-fds", "1", c.ID, "true")
}

// As containerd and conmon do it: a process file, a pid file, no stdio of the runtime's own.
func TestExecDetached(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	process := specs.Process{Args: []string{"sh", "-c", "echo $WORD; cat; exit 6"}, Cwd: "/tmp", Env: []string{"PATH=/bin", "WORD=from file"},
		User: specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{2000}}}
	file, err := json.Marshal(process)
	if err != nil {
		t.Fatal(err)
	}
	path, pidFile := h.WriteFile("process.json", string(file), 0o600), h.Path("exec.pid")
	p := h.Spawn(h.Command("exec", "--process", path, "--detach", "--pid-file", pidFile, c.ID))
	p.Stdout.Expect(t, "from file\n") // and so exec has returned, or will
	if _, err := p.Stdin.WriteString("input\n"); err != nil {
		t.Error(err)
	}
	p.Stdin.Close()
	if r := p.Wait(); r.Code != 0 || r.Stdout != "from file\ninput\n" || r.Stderr != "" {
		t.Errorf("exec: %v", r)
	}
	if code := h.Reap(h.ReadPid(pidFile)); code != 6 {
		t.Errorf("the process ended with %d", code)
	}
}

// Engines signal an exec'd process by its pid on the host.
func TestExecPidStandsForProcess(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	pidFile := h.Path("exec.pid")
	start := func(script string) (*harness.Process, int) {
		p := h.Spawn(h.Command("exec", "--detach", "--pid-file", pidFile, c.ID, "sh", "-c", script))
		p.Stdout.Expect(t, "ready\n")
		p.WaitExit()
		return p, h.ReadPid(pidFile)
	}
	p, pid := start("trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
	for _, s := range []struct {
		signal syscall.Signal
		want   string
	}{{syscall.SIGUSR1, "usr1\n"}, {syscall.SIGTERM, "term\n"}} {
		if err := syscall.Kill(pid, s.signal); err != nil {
			t.Fatal(err)
		}
		p.Stdout.Expect(t, s.want)
	}
	if code := h.Reap(pid); code != 3 {
		t.Errorf("the process ended with %d", code)
	}

	p, pid = start("echo ready; exec sleep 2000")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := h.Reap(pid); code != 128+9 {
		t.Errorf("the killed process ended with %d", code)
	}
	p.Wait() // its output has ended
	if out := c.Sh("ps | grep -c 'sleep 200[0]' || true"); strings.TrimSpace(out) != "0" {
		t.Errorf("%s processes live on in the container", out)
	}
}

// Execs end when their container does.
func TestExecEndsWithContainer(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	p := h.Spawn(h.Command("exec", c.ID, "sh", "-c", "echo up; exec sleep 1000"))
	p.Stdout.Expect(t, "up")
	h.OK("kill", c.ID, "TERM")
	if r := c.Wait(); r.Code != 0 {
		t.Errorf("container: %v", r)
	}
	if r := p.Wait(); r.Code != 128+9 {
		t.Errorf("exec: %v", r)
	}
	h.OK("delete", c.ID)
}

func TestManyExecs(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	var all sync.WaitGroup
	for i := range 30 {
		p := h.Spawn(h.Command("exec", c.ID, "sh", "-c", fmt.Sprintf("read word; echo out-%d-$word; echo err-%d >&2; exit %d", i, i, i)))
		all.Go(func() {
			fmt.Fprintf(p.Stdin, "in-%d\n", i)
			p.Stdin.Close()
			want := harness.Result{Code: i, Stdout: fmt.Sprintf("out-%d-in-%d\n", i, i), Stderr: fmt.Sprintf("err-%d\n", i)}
			if r := p.Wait(); r != want {
				t.Errorf("exec %d: %v", i, r)
			}
		})
	}
	all.Wait()
}

func TestPs(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	pidFile := h.Path("exec.pid")
	h.Spawn(h.Command("exec", "--detach", "--pid-file", pidFile, c.ID, "sleep", "1000")).WaitExit()
	execPid := h.ReadPid(pidFile)
	var pids []int
	if err := json.Unmarshal([]byte(h.OK("ps", "--format", "json", c.ID)), &pids); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{c.Pid, execPid} {
		if !slices.Contains(pids, want) {
			t.Errorf("ps: %v, want %d in it", pids, want)
		}
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("ps names %d: %v", pid, err)
		}
	}
	table := h.OK("ps", c.ID)
	if !strings.HasPrefix(table, "UID") || !strings.Contains(table, fmt.Sprint(c.Pid)) {
		t.Errorf("ps: %q", table)
	}
	if err := syscall.Kill(execPid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.Reap(execPid)
}
