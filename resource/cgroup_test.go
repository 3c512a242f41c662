package resource

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sleeper starts a process that lives until the test's end, or until stop is called, which returns when it is gone.
func sleeper(t *testing.T) (pid int, stop func()) {
	cmd := exec.Command("sleep", "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(stop)
	return cmd.Process.Pid, stop
}

// unified mounts the unified hierarchy at a place of its own, which works beside v1 too, and describes it.
func unified(t *testing.T) hierarchies {
	dir := t.TempDir()
	if err := unix.Mount("cgroup2", dir, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return hierarchies{v2: true, all: []hierarchy{{mount: dir, root: "/"}}, own: map[string]string{"": "/"}}
}

func unique(t *testing.T) string {
	return fmt.Sprintf("hypertest-%d-%s", os.Getpid(), strings.ToLower(t.Name()[4:8]))
}

// again saves the cgroup and loads it, as another command would.
func again(t *testing.T, c *Cgroup) *Cgroup {
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var loaded Cgroup
	if err := json.Unmarshal(text, &loaded); err != nil {
		t.Fatal(err)
	}
	return &loaded
}

func TestLifeOfACgroup(t *testing.T) {
	host, err := readHierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]hierarchies{"as the host has it": host, "unified": unified(t)} {
		c, err := newCgroup(h, "/"+unique(t)+"/c", "id")
		if err != nil {
			t.Fatal(err)
		}
		parent := &Cgroup{V2: c.V2}
		for _, d := range c.Directories {
			parent.Directories = append(parent.Directories, Directory{Path: filepath.Dir(d.Path), Mount: d.Mount})
		}
		t.Cleanup(func() {
			if err := parent.Remove(); err != nil {
				t.Error(err)
			}
		})
		live(t, name, c)
	}
}

func live(t *testing.T, name string, c *Cgroup) {
	if len(c.Directories) == 0 {
		t.Fatalf("%s: no directories", name)
	}
	if err := c.Create(); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(); err != nil {
		t.Errorf("%s: an empty cgroup that exists: %v", name, err)
	}
	pid, stop := sleeper(t)
	if err := c.Add(pid); err != nil {
		t.Fatal(err)
	}
	for _, d := range c.Directories {
		if got := d.processes(); got != strconv.Itoa(pid) {
			t.Errorf("%s: %s has processes %q", name, d.Path, got)
		}
	}
	if err := c.Apply(Limits{MemoryBytes: 64 * mib, CPUShares: 512, CPUs: "0", Mems: "0", CPUQuota: 30_000, CPUPeriod: 50_000}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"memory.limit_in_bytes": "67108864", "memory.max": "67108864", "cpu.shares": "512", "cpu.weight": "20", "cpuset.cpus": "0",
		"cpu.cfs_quota_us": "30000", "cpu.cfs_period_us": "50000", "cpu.max": "30000 50000",
	}
	for _, d := range c.Directories {
		for file, value := range want {
			if text, err := os.ReadFile(filepath.Join(d.Path, file)); err == nil && strings.TrimSpace(string(text)) != value {
				t.Errorf("%s: %s is %s, want %s", name, file, text, value)
			}
		}
	}
	if err := c.Apply(Limits{MemoryBytes: -1, CPUQuota: -1}); err != nil {
		t.Errorf("%s: lift the memory limit: %v", name, err)
	}
	for idle := range int64(2) {
		if err := c.Apply(Limits{CPUIdle: new(1 - idle), CPUShares: 512}); err != nil {
			t.Errorf("%s: idle %d: %v", name, 1-idle, err)
		}
	}
	if err := c.Create(); err == nil || !strings.Contains(err.Error(), strconv.Itoa(pid)) {
		t.Errorf("%s: a cgroup with strangers was taken: %v", name, err)
	}
	loaded := again(t, c)
	if err := loaded.Remove(); err == nil || !strings.Contains(err.Error(), "still has processes: "+strconv.Itoa(pid)) {
		t.Errorf("%s: removing a busy cgroup: %v", name, err)
	}
	stop()
	for _, d := range c.Directories {
		if err := os.MkdirAll(filepath.Join(d.Path, "sub", "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := loaded.Remove(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, d := range c.Directories {
		if _, err := os.Stat(d.Path); err == nil {
			t.Errorf("%s: %s is still there", name, d.Path)
		}
	}
}

func TestNewUsesTheRealHost(t *testing.T) {
	c, err := New("", unique(t), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
}

func TestAddOfAProcessThatIsGone(t *testing.T) {
	c, err := New("", unique(t), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(); err != nil {
		t.Fatal(err)
	}
	defer c.Remove()
	pid, stop := sleeper(t)
	stop()
	if err := c.Add(pid); err == nil {
		t.Error("no error")
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	h, err := readHierarchies()
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCgroup(h, "/"+unique(t), "id")
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "missing")
	c.Directories = append(c.Directories, Directory{Path: filepath.Join(bad, "x", "y"), Mount: filepath.Join(bad, "x")})
	if err := c.Create(); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	for _, d := range c.Directories {
		if _, err := os.Stat(d.Path); err == nil {
			t.Errorf("%s is still there", d.Path)
		}
	}
}

func TestRemoveTouchesOnlyCgroups(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "canary")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &Cgroup{Directories: []Directory{{Path: dir}}}
	if err := c.Remove(); err == nil || !strings.Contains(err.Error(), "not a cgroup") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 60: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

// BenchmarkAdd is what every create pays: the first write of each round waits for the kernel.
func BenchmarkAdd(b *testing.B) {
	c, err := New("", fmt.Sprintf("hypertest-%d-bench", os.Getpid()), false)
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Create(); err != nil {
		b.Fatal(err)
	}
	defer c.Remove()
	for b.Loop() {
		b.StopTimer()
		cmd := exec.Command("sleep", "infinity")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := c.Add(cmd.Process.Pid); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		cmd.Process.Kill()
		cmd.Wait()
		b.StartTimer()
	}
}
