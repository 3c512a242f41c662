package hypervisor

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// TestArgs compares whole command lines with golden files, one argument a line.
func TestArgs(t *testing.T) {
	plain := Machine{
		QEMU: "/usr/bin/qemu-system-x86_64", VCPUs: 2, MemoryMiB: 256,
		Kernel: "/usr/share/hyper/vmlinux", Initrd: "/usr/share/hyper/initrd", Ports: 3, Balloon: true,
	}
	ends := Backends{Share: "/run/hyper/web1/share", QMP: 3, Agent: 4, Console: 5, Tap: []int{6, 7}}
	for _, arch := range []Arch{AMD64, ARM64} {
		for _, accel := range []Accel{KVM, TCG} {
			m, ends := plain, ends
			m.Arch, m.Accel = arch, accel
			if accel == KVM {
				m.VHost, ends.VHost = true, []int{8, 9}
			}
			golden(t, string(accel)+"-"+string(arch), m, ends)
		}
	}
	m := plain
	m.Arch, m.Accel, m.Balloon, m.VCPUs = AMD64, TCG, false, 1
	ends.Tap = []int{6}
	ends.Role, ends.Memory, ends.Shared = TemplateRole, "/dev/shm/hyper/0123/memory", true
	golden(t, "template", m, ends)
	ends.Tap = []int{7}
	ends.Role, ends.Shared = CloneRole, false
	golden(t, "clone", m, ends)
	ends.Memory, ends.Shared = "/proc/self/fd/8", true
	golden(t, "shared", m, ends)
	golden(t, "nasty", Machine{
		Arch: AMD64, Accel: TCG, QEMU: "/opt/q e,mu", Type: "pc-q35-7.2", CPUModel: "qemu64,-la57,+vmx,level=30",
		VCPUs: 100, TakeTurns: true, MemoryMiB: 64, Kernel: `/k,ernel=a "b" 'c'`, Initrd: `-initrd,readonly=on`,
		KernelArgs: `init=/bin/sh dyndbg="file a,b +p" ünï=1`, Ports: 10,
	}, Backends{Share: `/run/a,b/c=d,,security_model=none "e" 'f' \g %h /share`, QMP: 10, Agent: 11, Console: 12})
}

func golden(t *testing.T, name string, m Machine, b Backends) {
	t.Helper()
	if err := m.Validate(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	got := strings.Join(m.Args(b), "\n") + "\n"
	path := filepath.Join("testdata", name+".args")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: the arguments have changed (go test -update rewrites them):\n%s", path, got)
	}
}

func TestValidate(t *testing.T) {
	good := Machine{Arch: AMD64, Accel: TCG, QEMU: "qemu", VCPUs: 1, MemoryMiB: 64, Kernel: "/vmlinux"}
	for want, change := range map[string]func(*Machine){
		"": func(*Machine) {},
		`machine: unknown architecture "riscv64"`:                        func(m *Machine) { m.Arch = "riscv64" },
		`machine: unknown accelerator "xen"`:                             func(m *Machine) { m.Accel = "xen" },
		`machine: no QEMU binary`:                                        func(m *Machine) { m.QEMU = "" },
		`machine: type "virt" is not one of amd64's`:                     func(m *Machine) { m.Type = "virt" },
		`machine: type "q35,kernel-irqchip=off" is not one of amd64's`:   func(m *Machine) { m.Type = "q35,kernel-irqchip=off" },
		`machine: malformed CPU model "max,,x"`:                          func(m *Machine) { m.CPUModel = "max,,x" },
		`machine: malformed CPU model "max -kernel"`:                     func(m *Machine) { m.CPUModel = "max -kernel" },
		`machine: malformed CPU model "help\n"`:                          func(m *Machine) { m.CPUModel = "help\n" },
		`machine: 0 vCPUs`:                                               func(m *Machine) { m.VCPUs = 0 },
		`machine: -1 MiB of memory`:                                      func(m *Machine) { m.MemoryMiB = -1 },
		`machine: 33 hot-plug ports, at most 32`:                         func(m *Machine) { m.Ports = 33 },
		`machine: no kernel`:                                             func(m *Machine) { m.Kernel = "" },
		`machine: kernel "/a\nb" has a control character`:                func(m *Machine) { m.Kernel = "/a\nb" },
		`machine: initrd "/a\x00b" has a control character`:              func(m *Machine) { m.Initrd = "/a\x00b" },
		`machine: kernel arguments "a\x1b[31m" has a control character`:  func(m *Machine) { m.KernelArgs = "a\x1b[31m" },
		`machine: QEMU binary "/usr/bin/qemu\r" has a control character`: func(m *Machine) { m.QEMU = "/usr/bin/qemu\r" },
	} {
		m := good
		change(&m)
		got := ""
		if err := m.Validate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"q35": true, "pc-q35-7.2": true, "pc-q35-": false, "pc": false, "q35 ": false, "pc-q35-7,x": false, "virt-7.2": false,
	} {
		if got := isMachineType(AMD64, name); got != want {
			t.Errorf("machine type %q: %t", name, got)
		}
	}
	if !isMachineType(ARM64, "virt-7.2") || isMachineType(ARM64, "q35") {
		t.Error("machine types of arm64")
	}
	for name, want := range map[string]bool{
		"max": true, "Cascadelake-Server-v2,+vmx,-la57": true, "qemu64,level=30": true, "max,x=": true, "max,a.b_c=d-e": true,
		"": false, "-max": false, "max,": false, "max,+": false, "max,+-x": false, "max,=on": false, "max,x=y=z": false,
		"max=on": false, "max,x=é": false, "max,.x": false,
	} {
		if got := isCPUModel(name); got != want {
			t.Errorf("CPU model %q: %t", name, got)
		}
	}
}

func TestLaunchChecksTheShare(t *testing.T) {
	m := Machine{Arch: AMD64, Accel: TCG, QEMU: "qemu", VCPUs: 1, MemoryMiB: 64, Kernel: "/vmlinux"}
	for _, share := range []string{"", "relative", "/a\nb", "/a\x00b"} {
		if _, err := Launch(t.Context(), m, Options{Share: share}); err == nil {
			t.Errorf("%q was taken", share)
		}
	}
}
