package cli_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// Texts that engines look for in a runtime's errors.
const (
	doesNotExist  = "container does not exist"
	notRunning    = "container not running"
	alreadyExists = "container with given ID already exists"
)

func TestLifecycle(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Shell("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
	b.AddAnnotation("org.example.key", "a value")
	c := h.Create(b)

	created := c.State()
	want := specs.State{Version: created.Version, ID: c.ID, Status: specs.StateCreated, Pid: c.Pid, Bundle: b.Dir,
		Annotations: map[string]string{"org.example.key": "a value"}}
	if fmt.Sprint(created) != fmt.Sprint(want) || created.Version == "" {
		t.Errorf("state is %+v, want %+v", created, want)
	}
	if c.Stdout.Text() != "" {
		t.Errorf("the process ran before start: %q", c.Stdout.Text())
	}
	_, again := h.CreateWritten(b, c.ID)
	if again.Code == 0 || !strings.Contains(again.Stderr, alreadyExists) {
		t.Errorf("create with a taken id: %v", again)
	}

	c.Start()
	c.Stdout.Expect(t, "ready")
	c.WantStatus(specs.StateRunning)
	h.Refused("", "start", c.ID)
	h.Refused("", "delete", c.ID)
	c.WantStatus(specs.StateRunning)

	h.OK("kill", c.ID, "TERM")
	if r := c.Wait(); r.Code != 7 || r.Stdout != "ready\nbye\n" || r.Stderr != "" {
		t.Errorf("the container left %v", r)
	}
	stopped := c.State()
	if stopped.Status != specs.StateStopped || stopped.Pid != 0 {
		t.Errorf("state after the end is %+v", stopped)
	}
	h.Refused(notRunning, "kill", c.ID, "TERM")
	h.Refused("", "start", c.ID)
	h.Refused("", "exec", c.ID, "true")

	h.OK("delete", c.ID)
	for _, verb := range []string{"state", "start", "kill", "delete", "pause", "resume", "ps"} {
		h.Refused(doesNotExist, verb, c.ID)
	}
	h.Refused(doesNotExist, "exec", c.ID, "true")
	if r := h.Run("delete", "--force", c.ID); r.Code != 0 || r.Stderr != "" {
		t.Errorf("delete --force of nothing: %v, want silence", r)
	}
}

// One without a process can be created and deleted. start refuses it, and ends it: it will never run. runc refuses create.
func TestOursNoProcess(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.Config.Process = nil
	c := h.Create(b)
	c.WantStatus(specs.StateCreated)
	h.OK("delete", c.ID)

	c = h.Create(b)
	h.Refused("process property must not be empty", "start", c.ID)
	c.WantStatus(specs.StateStopped)
	h.OK("delete", c.ID)
}

// start answers when the process is the program: a signal for what it handles comes right after.
func TestStartWaitsForTheProgram(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.Create(h.Bundle("sleep", "1000"))
	c.Start()
	if name := c.Sh("cat /proc/1/comm"); name != "sleep\n" {
		t.Errorf("the process is %q", name)
	}
}

// The same id can be used again at once, and each of the ways out of the created state leaves nothing.
func TestCreated(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.Write()
	id := h.ID()
	ways := []struct {
		name string
		end  func(c *harness.Container)
	}{
		{"kill and delete", func(c *harness.Container) {
			h.OK("kill", id, "KILL")
			if r := c.Wait(); r.Code != 128+9 {
				t.Errorf("killed before start: %v", r)
			}
			c.WantStatus(specs.StateStopped)
			h.OK("delete", id)
		}},
		{"delete by force", func(c *harness.Container) {
			h.OK("delete", "--force", id)
			c.Wait()
		}},
	}
	for _, way := range ways {
		c, r := h.CreateWritten(b, id)
		if c == nil {
			t.Fatalf("%s: create: %v", way.name, r)
		}
		way.end(c)
		h.Refused(doesNotExist, "state", id)
	}
}

func TestDeleteRunningByForce(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	h.OK("delete", "-f", c.ID)
	if r := c.Wait(); r.Code != 128+9 {
		t.Errorf("deleted by force: %v", r)
	}
}

func TestKillNames(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	signals := []struct{ name, trap string }{
		{"HUP", "HUP"}, {"SIGUSR1", "USR1"}, {"usr2", "USR2"}, {"14", "ALRM"}, {"sigwinch", "WINCH"}, {"SIGINT", "INT"}, {"18", "CONT"},
	}
	script := "trap 'echo TERM; exit 3' TERM\n"
	for _, s := range signals {
		script += fmt.Sprintf("trap 'echo %s' %s\n", s.trap, s.trap)
	}
	c := h.StartNew(h.Shell(script + "echo ready; while :; do sleep 1000 & wait $!; done"))
	c.Stdout.Expect(t, "ready\n")
	for _, s := range signals {
		h.OK("kill", c.ID, s.name)
		c.Stdout.Expect(t, "\n"+s.trap+"\n")
	}
	for _, bad := range []string{"NOSUCH", "0x9", "999"} {
		h.Refused("", "kill", c.ID, bad)
	}
	h.OK("kill", c.ID) // TERM is the default
	if r := c.Wait(); r.Code != 3 || !strings.HasSuffix(r.Stdout, "\nTERM\n") {
		t.Errorf("after TERM: %v", r)
	}
}

func TestKillAll(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	p := h.Spawn(h.Command("exec", c.ID, "sh", "-c", "echo up; exec sleep 1000"))
	p.Stdout.Expect(t, "up")
	h.OK("kill", "--all", c.ID, "KILL")
	if r := p.Wait(); r.Code != 128+9 {
		t.Errorf("exec process: %v", r)
	}
	if r := c.Wait(); r.Code != 128+9 {
		t.Errorf("container: %v", r)
	}
	h.OK("delete", c.ID)
}

func TestArguments(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.Write()
	calls := [][]string{
		{"create"}, {"create", "--bundle", b.Dir}, {"create", "--bundle", h.Path("missing"), "x"},
		{"start"}, {"state"}, {"kill"}, {"delete"}, {"exec"}, {"exec", "x"}, {"pause"}, {"resume"}, {"ps"},
		{"start", "a", "b"}, {"no-such-verb"}, {"create", "--no-such-flag", "x"},
	}
	for _, call := range calls {
		if r := h.Run(call...); r.Code == 0 || r.Stderr == "" && r.Stdout == "" {
			t.Errorf("%q: %v, want a failure with a reason", call, r)
		}
	}
	if entries, err := os.ReadDir(h.Root); err == nil && len(entries) > 0 {
		t.Errorf("left in the root: %v", entries)
	}
}
