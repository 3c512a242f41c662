package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// withConfig lets the runtime read the config under test with some keys set otherwise.
func withConfig(t *testing.T, h *harness.Host, keys map[string]any) {
	t.Helper()
	text := h.ReadFile(h.Runtime.Config)
	for key, value := range keys {
		line, err := json.Marshal(value) // TOML's strings and numbers are written alike
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`(?m)^`+key+` *=.*$`).ReplaceAllString(text, "")
		text += fmt.Sprintf("\n%s = %s\n", key, line)
	}
	h.Runtime.Args = []string{"--config", h.WriteFile("config.toml", text, 0o644)}
}

// Whatever fails in boot, the error names the stage, and shows the guest's last words where it had any.
func TestOursBootFailures(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		keys func(h *harness.Host) map[string]any
		want []string
	}{
		{"no QEMU", func(*harness.Host) map[string]any { return map[string]any{"qemu": "/no/such/qemu"} }, []string{"QEMU", "/no/such/qemu", "no such file"}},
		{"QEMU that fails", func(*harness.Host) map[string]any { return map[string]any{"qemu": "/bin/false"} }, []string{"QEMU did not start"}},
		{"no kernel", func(*harness.Host) map[string]any { return map[string]any{"kernel": "/no/such/kernel"} }, []string{"/no/such/kernel"}},
		{"kernel of zeros", func(h *harness.Host) map[string]any { return map[string]any{"kernel": zeros(h, "kernel")} }, []string{"QEMU did not start"}},
		{"no initrd", func(*harness.Host) map[string]any { return map[string]any{"initrd": "/no/such/initrd"} }, []string{"/no/such/initrd"}},
		{"initrd of zeros", func(h *harness.Host) map[string]any { return map[string]any{"initrd": zeros(h, "initrd")} }, []string{"did not", "Kernel panic"}},
		{"agent missing", func(*harness.Host) map[string]any { return map[string]any{"kernel_args": "rdinit=/no/such/init"} }, []string{"did not", "Kernel panic"}},
		{"agent silent", func(*harness.Host) map[string]any {
			return map[string]any{"kernel_args": "rdinit=/bin/crun", "boot_timeout_seconds": 20}
		}, []string{"did not"}},
		{"too slow", func(*harness.Host) map[string]any {
			return map[string]any{"boot_timeout_seconds": 1, "kernel_args": "initcall_debug loglevel=8"}
		}, []string{"did not"}},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			h := harness.New(t)
			withConfig(t, h, test.keys(h))
			c, r := h.TryCreate(h.Sleeper())
			if c != nil {
				t.Fatal("create succeeded")
			}
			for _, want := range test.want {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("%v, want %q on stderr", r, want)
				}
			}
			wantNothing(t, h)
		})
	}
}

// zeros makes a file of zeros.
func zeros(h *harness.Host, name string) string {
	path := h.WriteFile(name, "", 0o644)
	if err := os.Truncate(path, 1<<20); err != nil {
		h.T.Fatal(err)
	}
	return path
}

// A config with a mistake is refused with the line, before anything is made.
func TestOursBadConfig(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	h.Runtime.Args = []string{"--config", h.WriteFile("config.toml", "\nno_such_key = 1\n", 0o644)}
	b := h.Sleeper()
	b.Write()
	h.Refused(`config.toml:2`, "create", "--bundle", b.Dir, h.ID())
	h.Runtime.Args = []string{"--config", h.Path("missing.toml")}
	h.Refused("missing.toml", "create", "--bundle", b.Dir, h.ID())
	h.Runtime.Args = nil // for the clean-up
	withConfig(t, h, nil)
}

// The VM is a machine of its own: another kernel, its own processors and memory.
func TestOursMachine(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle()
	b.SetLinuxResourcesCPUQuota(150_000)
	b.SetLinuxResourcesCPUPeriod(100_000)
	b.SetLinuxResourcesMemoryLimit(200 << 20)
	b.SetLinuxResourcesMemorySwap(200 << 20)
	b.SetLinuxResourcesPidsLimit(77)
	b.SetLinuxResourcesCPUShares(512)
	b.AddMount(cgroupMount)
	ask(t, h, b, []probe{
		{"processors", "nproc", "2"},
		{"memory", "awk '/MemTotal/ { print ($2 >= 200 * 1024 && $2 < 500 * 1024) }' /proc/meminfo", "1"},
		{"memory limit", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max", "209715200\n0"},
		{"processor limit", "cat /sys/fs/cgroup/cpu.max", "150000 100000"},
		{"process limit", "cat /sys/fs/cgroup/pids.max", "77"},
	})
	host := strings.TrimSpace(h.ReadFile("/proc/sys/kernel/osrelease"))
	if r := h.Run("run", "--bundle", written(h.Bundle("uname", "-r")).Dir, h.ID()); r.Code != 0 || strings.TrimSpace(r.Stdout) == host {
		t.Errorf("the container's kernel: %v, the host's is %s", r, host)
	}
}
