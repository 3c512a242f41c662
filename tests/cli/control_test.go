package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestPause(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartNew(h.Shell("echo ready; while read word; do echo got=$word; done"))
	c.Stdout.Expect(t, "ready")
	h.Refused("", "resume", c.ID)

	h.OK("pause", c.ID)
	c.WantStatus("paused")
	if _, err := c.Stdin.WriteString("one\n"); err != nil {
		t.Fatal(err)
	}
	h.Refused("", "exec", c.ID, "true")
	h.Refused("", "pause", c.ID)
	h.Refused("", "delete", c.ID)
	time.Sleep(500 * time.Millisecond) // that nothing happens can only be seen by waiting
	if out := c.Stdout.Text(); out != "ready\n" {
		t.Errorf("the paused container wrote %q", out)
	}
	h.OK("resume", c.ID)
	c.Stdout.Expect(t, "got=one\n")
	c.WantStatus(specs.StateRunning)

	h.OK("pause", c.ID)
	h.OK("delete", "--force", c.ID) // whatever its state
	if r := c.Wait(); r.Code != 128+9 {
		t.Errorf("deleted in pause: %v", r)
	}
}

// A container that has stopped has no processes, which is no error.
func TestPsOfStopped(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartNew(h.Bundle("true"))
	c.Wait()
	if out := h.OK("ps", c.ID); strings.Count(out, "\n") != 1 || !strings.Contains(out, "PID") {
		t.Errorf("ps: %q, want the head line", out)
	}
}

// A limit on processes is a limit that shows from inside in the same way everywhere.
func TestUpdate(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartNew(h.Shell("echo ready; read word")) // which needs no fork to go on
	c.Stdout.Expect(t, "ready")
	forks := func() int {
		r := c.Exec("sh", "-c", "(for i in $(seq 40); do sleep 2000 >/dev/null 2>&1 & echo $i; done); exec killall sleep")
		return strings.Count(r.Stdout, "\n")
	}
	if n := forks(); n != 40 {
		t.Fatalf("%d forks without a limit", n)
	}
	file := h.WriteFile("resources.json", `{"pids":{"limit":20},"memory":{"limit":0},"cpu":{"shares":0},"blockIO":{"weight":0}}`, 0o644)
	updates := []struct {
		name, stdin string
		flags       []string
		limited     bool
	}{
		{"file", "", []string{"--resources=" + file}, true},
		{"stdin, lifted", `{"pids":{"limit":-1}}`, []string{"--resources", "-"}, false},
		{"stdin", `{"pids":{"limit":20}}`, []string{"--resources=-"}, true},
		{"lifted by short flag", `{"pids":{"limit":-1}}`, []string{"-r", "-"}, false},
	}
	for _, u := range updates {
		args := slices.Concat([]string{"update"}, u.flags, []string{c.ID})
		if r := h.RunInput(u.stdin, args...); r.Code != 0 {
			t.Errorf("%s: %v", u.name, r)
		}
		if n := forks(); (n < 20) != u.limited {
			t.Errorf("%s: %d forks", u.name, n)
		}
	}
	if r := h.RunInput("{", "update", "--resources", "-", c.ID); r.Code == 0 {
		t.Error("update took broken JSON")
	}
	h.Refused("", "update", "--resources", h.Path("missing.json"), c.ID)
}

// Engines read a container's figures from the host's cgroup at cgroupsPath.
func TestHostCgroup(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	c := h.StartNew(b)
	c.Stdout.Expect(t, "ready")
	c.Sh("i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done")
	for _, controller := range []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"} {
		hierarchy := filepath.Join("/sys/fs/cgroup", controller)
		if _, err := os.Stat(hierarchy); err != nil {
			continue // a host without this controller
		}
		procs := strings.Fields(h.ReadFile(filepath.Join(hierarchy, b.Config.Linux.CgroupsPath, "cgroup.procs")))
		if !slices.Contains(procs, fmt.Sprint(c.Pid)) {
			t.Errorf("%s: processes %v, want %d among them", controller, procs, c.Pid)
		}
	}
	for file, least := range map[string]int{
		"memory/" + b.Config.Linux.CgroupsPath + "/memory.usage_in_bytes": 100_000,
		"cpuacct/" + b.Config.Linux.CgroupsPath + "/cpuacct.usage":        1_000_000,
	} {
		n, err := strconv.Atoi(strings.TrimSpace(h.ReadFile("/sys/fs/cgroup/" + file)))
		if err != nil || n < least {
			t.Errorf("%s: %d, %v, want at least %d", file, n, err, least)
		}
	}
}
