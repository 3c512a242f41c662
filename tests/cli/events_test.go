package cli_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// limited is a bundle that may use 64 MiB of memory and 50 processes.
func limited(b *harness.Bundle) *harness.Bundle {
	b.SetLinuxResourcesMemoryLimit(64 << 20)
	b.SetLinuxResourcesPidsLimit(50)
	return b
}

// hog takes more memory than limited has, and no more than the VM has: else it would not get as far.
const hog = "dd if=/dev/zero of=/dev/null bs=90M count=1"

// figures is what the tests want to know of an event.
type figures struct {
	Type string
	ID   string
	Data struct {
		CPU    struct{ Usage struct{ Total uint64 } }
		Memory struct{ Usage struct{ Limit, Usage uint64 } }
		Pids   struct{ Current, Limit uint64 }
	}
}

func parseFigures(t *testing.T, line string) figures {
	t.Helper()
	var f figures
	if err := json.Unmarshal([]byte(line), &f); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	return f
}

func TestEventsStats(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartNew(limited(h.Shell("echo ready; sleep 1000 & wait")))
	c.Stdout.Expect(t, "ready")
	out := h.OK("events", "--stats", c.ID)
	f := parseFigures(t, out)
	if strings.Count(out, "\n") != 1 || f.Type != "stats" || f.ID != c.ID {
		t.Errorf("not one event of %s: %q", c.ID, out)
	}
	d := f.Data
	if d.Memory.Usage.Limit != 64<<20 || d.Memory.Usage.Usage == 0 || d.Memory.Usage.Usage > 64<<20 {
		t.Errorf("memory %+v", d.Memory)
	}
	if d.Pids.Current < 1 || d.Pids.Current > 3 || d.Pids.Limit != 50 {
		t.Errorf("pids %+v", d.Pids)
	}
	c.Sh("i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done")
	if later := parseFigures(t, h.OK("events", "--stats", c.ID)); d.CPU.Usage.Total == 0 || later.Data.CPU.Usage.Total <= d.CPU.Usage.Total {
		t.Errorf("CPU time %d, later %d", d.CPU.Usage.Total, later.Data.CPU.Usage.Total)
	}
	for _, key := range []string{`"throttling":`, `"cpuset":`, `"kernelTCP":`, `"raw":{"`, `"blkio":`, `"hugetlb":`, `"intel_rdt":{}`,
		`"network_interfaces":null`} {
		if !strings.Contains(out, key) {
			t.Errorf("no %s in %s", key, out)
		}
	}
}

func TestEventsStream(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	stream := h.Spawn(h.Command("events", "--interval", "100ms", c.ID))
	stream.Stdout.ExpectCount(t, "\n", 3)
	h.OK("pause", c.ID) // figures come all the same
	seen := strings.Count(stream.Stdout.Text(), "\n")
	stream.Stdout.ExpectCount(t, "\n", seen+3)
	h.OK("resume", c.ID)
	c.Remove()
	r := stream.Wait()
	if r.Code != 0 || r.Stderr != "" {
		t.Errorf("the stream of a container that stopped: %v", r)
	}
	for line := range strings.Lines(r.Stdout) {
		if f := parseFigures(t, line); f.Type != "stats" || f.ID != c.ID {
			t.Errorf("event %q", line)
		}
	}
}

// Who follows a container that dies of it learns why before the stream ends.
func TestEventsOOM(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	follow := func(c *harness.Container) *harness.Process {
		stream := h.Spawn(h.Command("events", "--interval", "200ms", c.ID))
		stream.Stdout.Expect(t, "stats")
		return stream
	}
	event := func(c *harness.Container) string { return fmt.Sprintf(`{"type":"oom","id":"%s"}`+"\n", c.ID) }

	c := h.StartNew(limited(h.Shell("echo ready; sleep 1000 & wait")))
	c.Stdout.Expect(t, "ready")
	stream := follow(c)
	if r := c.Exec("sh", "-c", hog); r.Code != 128+9 {
		t.Errorf("the hog: %v", r)
	}
	stream.Stdout.Expect(t, event(c))
	c.WantStatus("running")
	c.Remove()
	stream.Wait()

	c = h.Create(limited(h.Shell("exec " + hog)))
	stream = follow(c)
	c.Start()
	if r := c.Wait(); r.Code != 128+9 {
		t.Errorf("the container: %v", r)
	}
	h.OK("delete", c.ID)
	if r := stream.Wait(); r.Code != 0 || !strings.Contains(r.Stdout, event(c)) {
		t.Errorf("its stream: %v", r)
	}
}

func TestEventsRefuses(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	h.Refused("does not exist", "events", "nobody")
	h.Refused("", "events")
	c := h.StartSleeper()
	h.Refused("duration interval must be greater than 0", "events", "--interval", "0s", c.ID)
	h.Refused("duration interval must be greater than 0", "events", "--interval", "-1s", c.ID)
	h.Refused("", "events", "--interval", "soon", c.ID)
	h.Refused("requires exactly 1 argument", "events", "--stats", c.ID, "more")
	h.OK("kill", c.ID, "KILL")
	c.Wait()
	h.Refused("container with id "+c.ID+" is not running", "events", c.ID)
	h.Refused("container with id "+c.ID+" is not running", "events", "--stats", c.ID)
	h.OK("delete", c.ID)
}

// The stream of a pod's member ends with that, not with the pod.
func TestEventsOfMember(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	one, two := p.sleeper(), p.sleeper()
	p.OK("update", "--pids-limit", "30", one.ID)
	stream := p.Spawn(p.Command("events", "--interval", "100ms", one.ID))
	stream.Stdout.ExpectCount(t, "\n", 2)
	one.Remove()
	r := stream.Wait()
	if r.Code != 0 || r.Stderr != "" {
		t.Errorf("the stream of a member that stopped: %v", r)
	}
	for line := range strings.Lines(r.Stdout) {
		if f := parseFigures(t, line); f.ID != one.ID || f.Data.Pids.Limit != 30 {
			t.Errorf("event %q", line)
		}
	}
	if f := parseFigures(t, p.OK("events", "--stats", two.ID)); f.Data.Pids.Limit == 30 {
		t.Error("the other member was updated")
	}
	p.OK("events", "--stats", p.sandbox.ID)
	two.Remove()
}
