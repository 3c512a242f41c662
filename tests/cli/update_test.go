package cli_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// sleeperWithCgroups sees its own cgroup.
func sleeperWithCgroups(h *harness.Host) *harness.Bundle {
	b := limited(h.Sleeper())
	b.AddMount(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "ro"}})
	return b
}

// The guest's cgroup is v2, and the values are what runc writes there.
func TestOursUpdateInGuest(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartNew(sleeperWithCgroups(h))
	c.Stdout.Expect(t, "ready")
	steps := []struct {
		flags string
		want  string // "file=content ...", _ for a blank
	}{
		{"", "memory.max=67108864 pids.max=50 cpu.max=max_100000"},
		{"--memory 100M --memory-reservation 33554432", "memory.max=104857600 memory.low=33554432"},
		{"--memory-swap 104861696", "memory.max=104857600 memory.swap.max=4096"},
		{"--memory 60M --memory-swap 80M", "memory.max=62914560 memory.swap.max=20971520"},
		{"--memory-swap -1", "memory.max=62914560 memory.swap.max=max"},
		{"--memory -1", "memory.max=max memory.swap.max=max memory.low=33554432"},
		{"--pids-limit 40", "pids.max=40"},
		{"--pids-limit -1", "pids.max=max"},
		{"--cpu-quota 500000 --cpu-period 1000000", "cpu.max=500000_1000000"},
		{"--cpu-period 900000", "cpu.max=500000_900000"},
		{"--cpu-quota 600000", "cpu.max=600000_900000"},
		{"--cpu-burst 100000", "cpu.max.burst=100000"},
		{"--memory 100M", "cpu.max.burst=100000 cpu.max=600000_900000"},
		{"--cpu-burst 0", "cpu.max.burst=0"},
		{"--cpu-quota -1", "cpu.max=max_900000"},
		{"--cpu-share 200", "cpu.weight=8"},
		{"--cpu-idle 1", "cpu.idle=1"},
		{"--cpu-period 100000", "cpu.idle=1 cpu.max=max_100000"},
		{"--cpu-idle 0", "cpu.idle=0"},
		{"--cpu-rt-period 5 --cpu-rt-runtime 5 --blkio-weight 50", "memory.max=104857600"}, // no effect
	}
	for _, step := range steps {
		h.OK(append([]string{"update", c.ID}, strings.Fields(step.flags)...)...)
		for _, pair := range strings.Fields(step.want) {
			file, want, _ := strings.Cut(pair, "=")
			if got := strings.TrimSpace(c.Sh("cat /sys/fs/cgroup/" + file)); got != strings.ReplaceAll(want, "_", " ") {
				t.Errorf("%q: %s is %q, want %q", step.flags, file, got, want)
			}
		}
	}
	h.Refused("", "update", "--cpu-idle", "2", c.ID)
	h.Refused("", "update", "--cpu-period", "5", c.ID)
	h.Refused("memory+swap limit should be >= memory limit", "update", "--memory-swap", "50M", c.ID)
	h.Refused("unable to set swap limit without memory limit", "update", "--memory", "-1", "--memory-swap", "50M", c.ID)
	if r := h.RunInput(`{"memory":{"limit":1024,"checkBeforeUpdate":true}}`, "update", "-r", "-", c.ID); !strings.Contains(r.Stderr, "rejecting memory limit 1024 <= usage") {
		t.Errorf("a limit below the usage: %v", r)
	}
	// What runc's update does not touch, containerd sends along.
	if r := h.RunInput(`{"devices":[{"allow":false,"access":"rwm"}],"hugepageLimits":[{"pageSize":"7MB","limit":7}],
		"unified":{"memory.high":"73400320"},"cpu":{"shares":0}}`, "update", "-r", "-", c.ID); r.Code != 0 {
		t.Errorf("a whole linux.resources: %v", r)
	}
	if got := c.Sh("cat /sys/fs/cgroup/memory.high; echo >/dev/null && echo written"); got != "73400320\nwritten\n" {
		t.Errorf("memory.high %q", got)
	}
	h.OK("update", "--pids-limit", "0", c.ID)
	if f := parseFigures(t, h.OK("events", "--stats", c.ID)); f.Data.Pids.Limit != 1 {
		t.Errorf("pids limit 0 became %d", f.Data.Pids.Limit)
	}
}

// The host's cgroup holds what only the host can hold. Its memory limit is one that the VM fits in, whatever it is.
func TestOursUpdateOnHost(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartNew(limited(h.Sleeper()))
	c.Stdout.Expect(t, "ready")
	read := func(v1, v2 string) string {
		file := filepath.Join("/sys/fs/cgroup", filepath.Dir(v1), c.Bundle.Config.Linux.CgroupsPath, filepath.Base(v1))
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			file = filepath.Join("/sys/fs/cgroup", c.Bundle.Config.Linux.CgroupsPath, v2)
		}
		return strings.TrimSpace(h.ReadFile(file))
	}
	memory := func() string { return read("memory/memory.limit_in_bytes", "memory.max") }
	before := memory()
	h.OK("update", "--memory", "16M", c.ID)
	if after := memory(); after != before {
		t.Errorf("the VM's limit was %s and is %s", before, after)
	}
	c.WantStatus(specs.StateRunning)
	h.OK("update", "--memory", "-1", c.ID)
	if n, err := strconv.ParseUint(memory(), 10, 64); memory() != "max" && (err != nil || n < 1<<60) {
		t.Errorf("no limit became %s", memory())
	}
	h.OK("update", "--cpuset-cpus", "0", "--cpuset-mems", "0", "--cpu-share", "262144", c.ID)
	if got := read("cpuset/cpuset.cpus", "cpuset.cpus"); got != "0" {
		t.Errorf("CPUs %q", got)
	}
	if got := read("cpu/cpu.shares", "cpu.weight"); got != "262144" && got != "10000" {
		t.Errorf("CPU shares %q", got)
	}
	h.OK("update", "--cpu-idle", "1", c.ID)
	if got := read("cpu/cpu.idle", "cpu.idle"); got != "1" {
		t.Errorf("idle %q", got)
	}
	h.OK("update", "--cpu-idle", "1", "--cpu-share", "5", c.ID)
	h.OK("update", "--cpu-idle", "0", c.ID)
	h.Refused("cpuset.cpus", "update", "--cpuset-cpus", "8191", c.ID)
}

func TestUpdateRefuses(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	h.OK("update", c.ID)
	h.Refused("requires exactly 1 argument", "update")
	h.Refused("requires exactly 1 argument", "update", c.ID, "more")
	h.Refused("does not exist", "update", "nobody")
	h.Refused("invalid value for memory: invalid size: 'lots'", "update", "--memory", "lots", c.ID)
	h.Refused("invalid value for cpu-quota: strconv.ParseInt: parsing ", "update", "--cpu-quota", "x", c.ID)
	h.Refused("Intel RDT/CAT: l3 cache schema is not enabled", "update", "--l3-cache-schema", "L3:0=f", c.ID)
	h.Refused("Intel RDT/MBA: memory bandwidth schema is not enabled", "update", "--mem-bw-schema", "MB:0=20", c.ID)
	h.OK("pause", c.ID)
	h.OK("update", "--pids-limit", "30", c.ID)
	c.WantStatus("paused")
	h.OK("resume", c.ID)
	h.OK("kill", c.ID, "KILL")
	c.Wait()
	h.Refused("container not running", "update", "--pids-limit", "30", c.ID)
	h.OK("delete", c.ID)
}

// Engines give these flags: docker and podman the first, conmon and containerd's shim the second.
func TestOursCheckpointIsRefused(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	stderr := h.Refused("checkpoint is not supported", "checkpoint", "--image-path", h.Path("i"), "--work-path", h.Path("w"),
		"--leave-running", "--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--empty-ns", "network", c.ID)
	if strings.Count(stderr, "\n") != 1 {
		t.Errorf("not one line: %q", stderr)
	}
	c.WantStatus(specs.StateRunning)
	h.Refused("does not exist", "checkpoint", "nobody")
	stderr = h.Refused("restore is not supported", "restore", "--detach", "--pid-file", h.Path("pid"), "--image-path", h.Path("i"),
		"--work-path", h.Path("w"), "--no-subreaper", "--bundle", c.Bundle.Dir, "--manage-cgroups-mode", "soft", "new")
	if strings.Count(stderr, "\n") != 1 {
		t.Errorf("not one line: %q", stderr)
	}
	h.Refused("does not exist", "state", "new")
}
