package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDefaultsAreWhatTheTagsSay(t *testing.T) {
	c, err := Parse("empty.toml", "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Accelerator != "auto" || c.VCPUs != 1 || c.MemoryMiB != 512 || c.BootTimeoutSeconds != 120 || len(c.AllowedAnnotations) != 0 {
		t.Errorf("defaults are %+v", c)
	}
}

func TestParseTakesEveryKey(t *testing.T) {
	c, err := Parse("full.toml", `
qemu = "/opt/qemu"
kernel = "/opt/my kernel"
initrd = "/opt/initrd"
kernel_args = "quiet loglevel=3"
accelerator = "tcg"
machine = "pc"
cpu_model = "max,-avx"
vcpus = 2
max_vcpus = 4
memory_mib = 64
max_memory_mib = 1024
memory_overhead_mib = 50
vmm_overhead_mib = 100
hotplug_ports = 0
console_kib = 64
boot_timeout_seconds = 10
allowed_annotations = ["vcpus"]
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.QEMU != "/opt/qemu" || c.Kernel != "/opt/my kernel" || c.VCPUs != 2 || c.HotplugPorts != 0 ||
		c.KernelArgs != "quiet loglevel=3" || c.AllowedAnnotations[0] != "vcpus" {
		t.Errorf("got %+v", c)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"vcpu = 1", `f.toml:1: "vcpu": unknown key`},
		{"# comment\n\nvcpus = 1\nmemory = 3\n", `f.toml:4: "memory": unknown key`},
		{"Vcpus = 1", `f.toml:1: "Vcpus": unknown key`},
		{`"a b\n" = 1`, `f.toml:1: "a b\n": unknown key`},
		{"\n[vm]\nvcpus = 1", `f.toml:2: "vm": unknown key`},
		{"[[vm]]\nvcpus = 1", `f.toml:1: "vm": unknown key`},
		{"vm.vcpus = 1", `f.toml:1: "vm.vcpus": unknown key`},
		{"\nvcpus.x = 1", `f.toml:2: "vcpus.x": unknown key`},
		{"vcpus = {}", `f.toml:1: vcpus: must be a whole number, not a table`},
		{"\nvcpus = \"1\"", `f.toml:2: vcpus: must be a whole number, not a string`},
		{"vcpus = 1.0", `f.toml:1: vcpus: must be a whole number, not a float`},
		{"vcpus = 1979-05-27", `f.toml:1: vcpus: must be a whole number, not a date or time`},
		{"qemu = true", `f.toml:1: qemu: must be a string, not a boolean`},
		{"allowed_annotations = \"vcpus\"", `f.toml:1: allowed_annotations: must be a list of strings, not a string`},
		{"allowed_annotations = [1]", `f.toml:1: allowed_annotations: in the list: must be a string, not a whole number`},
		{"allowed_annotations = [\"kernel\"]", `f.toml: allowed_annotations: "kernel" can not be set by an annotation, only memory_mib, vcpus`},
		{"vcpus = 0", `f.toml:1: vcpus: 0 is not between 1 and 1024`},
		{"vcpus = -9223372036854775808", `f.toml:1: vcpus: -9223372036854775808 is not between 1 and 1024`},
		{"memory_mib = 15", `f.toml:1: memory_mib: 15 is not between 16 and 16777216`},
		{"accelerator = \"hvf\"", `f.toml:1: accelerator: "hvf" is none of auto, kvm, tcg`},
		{"kernel_args = \"a\\nb\"", `f.toml:1: kernel_args: "a\nb" has a control character`},
		{"kernel = \"vmlinux\"", `f.toml: kernel: "vmlinux" is not an absolute path`},
		{"qemu = \"./qemu\"", `f.toml: qemu: "./qemu" is neither an absolute path nor a name to be searched in PATH`},
		{"vcpus = 4\nmax_vcpus = 2", `f.toml: vcpus: 4 is above max_vcpus, which is 2`},
		{"max_memory_mib = 100", `f.toml: memory_mib: 512 is above max_memory_mib, which is 100`},
		{"vcpus = 1\nvcpus = 2", `f.toml:2: `},
		{"vcpus = ", `f.toml:1: `},
	} {
		_, err := Parse("f.toml", tt.text)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "no.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file that was named: %v", err)
	}
	file := filepath.Join(dir, "c.toml")
	if err := os.WriteFile(file, []byte("vcpus = 3\nkernel = \"/k\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	share := filepath.Join(filepath.Dir(filepath.Dir(exe)), "share", "hyper")
	if c.VCPUs != 3 || c.Kernel != "/k" || c.Initrd != filepath.Join(share, "initrd") || c.QEMU == "" || c.Machine == "" {
		t.Errorf("got %+v", c)
	}
}

func TestResolve(t *testing.T) {
	for _, tt := range []struct{ arch, qemu, machine string }{
		{"amd64", "qemu-system-x86_64", "q35"},
		{"arm64", "qemu-system-aarch64", "virt"},
	} {
		var c Config
		c.resolve("/usr/share/hyper", tt.arch)
		if c.QEMU != tt.qemu || c.Machine != tt.machine || c.Kernel != "/usr/share/hyper/kernel" {
			t.Errorf("%s: got %+v", tt.arch, c)
		}
	}
}

func TestAnnotated(t *testing.T) {
	both := []string{"vcpus", "memory_mib"}
	for _, tt := range []struct {
		name, key, value string
		allowed          []string
		want             string // part of the error
	}{
		{"not ours", "io.kubernetes.cri.sandbox-id", "x", nil, ""},
		{"prefix of ours", "io.hyper-runtime", "x", nil, ""},
		{"allowed", "io.hyper-runtime.vcpus", "2", both, ""},
		{"at the limit", "io.hyper-runtime.memory_mib", "1024", both, ""},
		{"not listed", "io.hyper-runtime.vcpus", "2", []string{"memory_mib"}, `annotation "io.hyper-runtime.vcpus": not in the config's allowed_annotations`},
		{"a path, even if listed", "io.hyper-runtime.kernel", "/k", []string{"kernel"}, "not in the config's allowed_annotations"},
		{"empty key", "io.hyper-runtime.", "1", both, "not in the config's allowed_annotations"},
		{"other case", "io.hyper-runtime.VCPUS", "1", both, "not in the config's allowed_annotations"},
		{"above the limit", "io.hyper-runtime.vcpus", "5", both, "5 is above the config's max_vcpus, which is 4"},
		{"zero", "io.hyper-runtime.vcpus", "0", both, "0 is not between 1 and 1024"},
		{"negative", "io.hyper-runtime.memory_mib", "-1", both, "-1 is not between 16 and"},
		{"no number", "io.hyper-runtime.vcpus", "2,maxcpus=9", both, `"2,maxcpus=9" is not a whole number`},
		{"overflow", "io.hyper-runtime.vcpus", "99999999999999999999", both, "is not a whole number"},
		{"newline", "io.hyper-runtime.a\nb", "1", both, `annotation "io.hyper-runtime.a\nb": not in`},
	} {
		c := Default()
		c.MaxVCPUs, c.MaxMemoryMiB, c.AllowedAnnotations = 4, 1024, tt.allowed
		got, err := c.Annotated(map[string]string{tt.key: tt.value})
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		case tt.name == "allowed" && (got.VCPUs != 2 || c.VCPUs != 1):
			t.Errorf("%s: got %d vCPUs, the original has %d", tt.name, got.VCPUs, c.VCPUs)
		}
	}
}
