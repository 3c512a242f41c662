package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestRun(t *testing.T) {
	t.Parallel()
	cases := []struct {
		script, stdin string
		want          harness.Result
	}{
		{"cat; echo oops >&2", "a line\n", harness.Result{Code: 0, Stdout: "a line\n", Stderr: "oops\n"}},
		{"exit 1", "", harness.Result{Code: 1}},
		{"printf 'no newline'; exit 255", "", harness.Result{Code: 255, Stdout: "no newline"}},
	}
	for _, c := range cases {
		t.Run(c.script, func(t *testing.T) {
			h := harness.New(t)
			b := h.Shell(c.script)
			b.Write()
			id := h.ID()
			if r := h.RunInput(c.stdin, "run", "--bundle", b.Dir, id); r != c.want {
				t.Errorf("run: %v, want %v", r, c.want)
			}
			h.Refused(doesNotExist, "state", id)
		})
	}
}

// What is not given by flag comes from the working directory: the bundle, and relative paths.
func TestRunInWorkingDirectory(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Shell("echo here")
	b.Write()
	cmd := h.Command("run", "--pid-file", "pid.txt", h.ID())
	cmd.Dir = b.Dir
	p := h.Spawn(cmd)
	p.Stdin.Close()
	if r := p.Wait(); r.Code != 0 || r.Stdout != "here\n" {
		t.Errorf("run: %v", r)
	}
	h.ReadPid(filepath.Join(b.Dir, "pid.txt"))
}

// Signals reach the container's process through `run` itself.
func TestRunForwardsSignals(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Shell("trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
	b.Write()
	p := h.Spawn(h.Command("run", "--bundle", b.Dir, h.ID()))
	p.Stdout.Expect(t, "ready\n")
	p.Signal(syscall.SIGUSR1)
	p.Stdout.Expect(t, "usr1\n")
	p.Signal(syscall.SIGTERM)
	if r := p.Wait(); r.Code != 9 || r.Stdout != "ready\nusr1\nterm\n" {
		t.Errorf("run: %v", r)
	}
}

// The pid in the pid file stands for the container: what is sent to it arrives, and its wait status is the container's.
func TestPidStandsForContainer(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartNew(h.Shell("trap 'echo usr1' USR1; echo ready; while :; do sleep 1000 & wait $!; done"))
	c.Stdout.Expect(t, "ready\n")
	if err := syscall.Kill(c.Pid, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	c.Stdout.Expect(t, "usr1\n")
	if err := syscall.Kill(c.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r := c.Wait(); r.Code != 128+9 {
		t.Errorf("container: %v", r)
	}
	c.WantStatus(specs.StateStopped)
	h.OK("delete", c.ID)
}

func TestRunDetached(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Shell("echo out; exit 5")
	b.Write()
	id, pidFile := h.ID(), h.Path("pid")
	p := h.Spawn(h.Command("run", "--detach", "--bundle", b.Dir, "--pid-file", pidFile, id))
	p.Stdin.Close()
	if r := p.Wait(); r.Code != 0 || r.Stdout != "out\n" {
		t.Errorf("run --detach: %v", r)
	}
	if code := h.Reap(h.ReadPid(pidFile)); code != 5 {
		t.Errorf("the container ended with %d", code)
	}
	h.OK("delete", id)
}

func TestList(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.AddAnnotation("org.example.key", "value")
	c := h.Create(b)

	if out := h.OK("list", "-q"); out != c.ID+"\n" {
		t.Errorf("list -q: %q", out)
	}
	table := strings.Split(h.OK("list"), "\n")
	if got := strings.Fields(table[0]); strings.Join(got, " ") != "ID PID STATUS BUNDLE CREATED OWNER" {
		t.Errorf("heads of the table: %q", got)
	}
	if row := strings.Fields(table[1]); len(row) != 6 || fmt.Sprint(row[:4], row[5:]) != fmt.Sprint([]string{c.ID, fmt.Sprint(c.Pid), "created", b.Dir}, []string{"root"}) {
		t.Errorf("row of the table: %q", table[1])
	}
	var list []struct {
		ID, Status, Bundle, Rootfs, Created, Owner string
		Pid                                        int
		Annotations                                map[string]string
	}
	for _, flags := range [][]string{{"--format=json"}, {"-f", "json"}} {
		if err := json.Unmarshal([]byte(h.OK(append([]string{"list"}, flags...)...)), &list); err != nil {
			t.Fatal(err)
		}
		if len(list) != 1 || list[0].ID != c.ID || list[0].Pid != c.Pid || list[0].Status != "created" || list[0].Bundle != b.Dir ||
			list[0].Annotations["org.example.key"] != "value" || list[0].Created == "" || list[0].Owner != "root" {
			t.Errorf("list %s: %+v", flags, list)
		}
	}
	c.Start()
	c.Remove()
	if out := h.OK("list", "-q"); out != "" {
		t.Errorf("list -q after delete: %q", out)
	}
}

// A root that was asked for and is not there is misspelt. runc says so since 1.2.
func TestOursListOfMissingRoot(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	h.Refused("no such file or directory", "list")
}

// What the kernel says of a program that was found and cannot run is told on stderr in one line, as a shell would.
func TestOursProgramThatCannotRun(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle("/script")
	if err := os.WriteFile(filepath.Join(b.Rootfs, "script"), []byte("#!/missing\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.Write()
	const want = "exec /script: no such file or directory\n"
	if r := h.Run("run", "--bundle", b.Dir, h.ID()); r.Code == 0 || r.Stdout != "" || r.Stderr != want {
		t.Errorf("run: %v, want %q", r, want)
	}
	b.SetProcessArgs([]string{"sleep", "1000"})
	c := h.StartNew(b)
	if r := c.Exec("/script"); r.Code == 0 || r.Stdout != "" || r.Stderr != want {
		t.Errorf("exec: %v, want %q", r, want)
	}
}

// An empty HOME is none; the last one counts.
func TestHome(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	for _, test := range []struct {
		env  []string
		want string
	}{
		{nil, "/root"},
		{[]string{"HOME="}, "/root"},
		{[]string{"HOME=/first", "HOME="}, "/root"},
		{[]string{"HOME=", "HOME=/last"}, "/last"},
	} {
		process, err := json.Marshal(specs.Process{Args: []string{"sh", "-c", "echo $HOME"}, Cwd: "/", Env: append(test.env, "PATH=/bin")})
		if err != nil {
			t.Fatal(err)
		}
		if out := h.OK("exec", "--process", h.WriteFile("home.json", string(process), 0o600), c.ID); out != test.want+"\n" {
			t.Errorf("HOME of %q is %q, want %q", test.env, out, test.want)
		}
	}
}

func TestSpec(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle("true")
	h.OK("spec", "--bundle", b.Dir)
	h.Refused("exists", "spec", "--bundle", b.Dir)
	var spec specs.Spec
	if err := json.Unmarshal([]byte(h.ReadFile(b.ConfigPath())), &spec); err != nil {
		t.Fatal(err)
	}
	if !spec.Process.Terminal || len(spec.Process.Args) != 1 || spec.Process.Args[0] != "sh" {
		t.Errorf("process of the default spec: %+v", spec.Process)
	}
	spec.Process.Terminal = false
	b.Config = &spec
	b.WriteUnchecked()
	if r := h.RunInput("echo it runs\n", "run", "--bundle", b.Dir, h.ID()); r.Code != 0 || r.Stdout != "it runs\n" {
		t.Errorf("run of the default spec: %v", r)
	}

	dir := t.TempDir()
	cmd := h.Command("spec")
	cmd.Dir = dir
	if r := h.Spawn(cmd).Wait(); r.Code != 0 {
		t.Errorf("spec: %v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err != nil {
		t.Error(err)
	}
}

func TestOursSpecIsValid(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle("true")
	h.OK("spec", "--bundle", b.Dir)
	var spec specs.Spec
	if err := json.Unmarshal([]byte(h.ReadFile(b.ConfigPath())), &spec); err != nil {
		t.Fatal(err)
	}
	b.Config = &spec
	b.Write() // runtime-tools finds no fault in it
}

func TestFeatures(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	r := h.Run("features")
	var features struct {
		OciVersionMin, OciVersionMax string
		Hooks, MountOptions          []string
		Linux                        struct{ Namespaces, Capabilities []string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &features); err != nil || r.Code != 0 || r.Stderr != "" {
		t.Fatalf("features: %v: %v", err, r)
	}
	if !strings.HasPrefix(features.OciVersionMin, "1.") || !strings.HasPrefix(features.OciVersionMax, "1.") || len(features.Hooks) == 0 ||
		len(features.MountOptions) == 0 || len(features.Linux.Namespaces) == 0 || len(features.Linux.Capabilities) == 0 {
		t.Errorf("features: %+v", features)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	lines := strings.Split(h.OK("--version"), "\n")
	name := filepath.Base(h.Runtime.Path)
	if !strings.HasPrefix(lines[0], name+" version ") {
		t.Errorf("first line: %q", lines[0])
	}
	for i, prefix := range []string{"commit: ", "spec: "} {
		if len(lines) < 3 || !strings.HasPrefix(lines[i+1], prefix) {
			t.Errorf("--version: %q, want %q in line %d", lines, prefix, i+2)
		}
	}
}

// On an error the log gets one JSON object of one line, which containerd and podman parse; else it stays empty.
func TestLog(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	log := h.Path("log.json")
	h.Flags = []string{"--log", log, "--log-format", "json"}
	h.OK("delete", "--force", "nothing")
	h.OK("list")
	if text, err := os.ReadFile(log); err == nil && len(text) > 0 {
		t.Errorf("log after success: %q", text)
	}
	h.Refused(doesNotExist, "start", "nothing")
	var record struct{ Level, Msg, Time string }
	text := h.ReadFile(log)
	if err := json.Unmarshal([]byte(text), &record); err != nil || strings.Count(text, "\n") != 1 {
		t.Fatalf("log: %v: %q", err, text)
	}
	if record.Level != "error" || !strings.Contains(record.Msg, doesNotExist) || record.Time == "" {
		t.Errorf("log record: %+v", record)
	}
	plain := h.Path("log.txt")
	h.Flags = []string{"--log", plain, "--log-format", "text"}
	h.Refused(doesNotExist, "start", "nothing")
	if text := h.ReadFile(plain); !strings.Contains(text, doesNotExist) {
		t.Errorf("text log: %q", text)
	}
	h.Flags = []string{"--log-format", "no-such-format"}
	h.Refused("", "list")
}
