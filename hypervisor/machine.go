// Package hypervisor runs one virtual machine in one QEMU: a Machine says what it is, Launch makes a VM of it.
package hypervisor

import (
	"fmt"
	"strings"
)

// Arch is a machine's architecture, by Go's name.
type Arch string

// The architectures that there are machines for.
const (
	AMD64 Arch = "amd64"
	ARM64 Arch = "arm64"
)

// Accel is who runs the guest's instructions.
type Accel string

// The accelerators: the host's processor, or QEMU's translator, which needs nothing and is slower.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg"
)

// Names that the guest knows its devices by.
const (
	ShareTag  = "share"       // mount tag of the 9p share
	AgentPort = "hyper.agent" // virtio-serial port of the agent: /sys/class/virtio-ports/*/name
	// SlotMAC is the address of the NIC that each machine has. It is part of a template, so the guest changes it to
	// the VM's own before it takes the interface up.
	SlotMAC = "02:68:79:70:65:72"
)

// MaxQueues is how many queue pairs a NIC can have.
const MaxQueues = 8

// MaxPorts is how many hot-plug ports a machine can have.
const MaxPorts = 32

// Machine describes a VM: all that the guest can see, and nothing else, so that equal machines have equal guests.
// Besides what the fields say, each has one 9p share, one NIC, a virtio-serial controller with the agent's port, a
// random number device, and a serial console.
type Machine struct {
	Arch  Arch
	Accel Accel
	// QEMU is the emulator's binary: a path, or a name to look up in PATH.
	QEMU string
	// Type is QEMU's machine type. Empty means q35 on amd64, virt on arm64; versioned names (pc-q35-7.2) are taken too.
	//
	// Why not pc: its PCI has no root ports, hence neither native hot-plug nor PCIe devices for VFIO. Why not microvm:
	// it has no slots for hot-plug, and under TCG no timer that a kernel could measure the TSC with.
	Type string
	// CPUModel is the value of -cpu. Empty means the host's processor with KVM, all that can be emulated with TCG.
	CPUModel string
	VCPUs    int
	// TakeTurns has TCG run all vCPUs in one thread: see MustTakeTurns.
	TakeTurns bool
	// MemoryMiB is the guest's memory, the kernel's own included.
	MemoryMiB int
	// Kernel is a Linux image: bzImage, PVH vmlinux, or arm64 Image.
	Kernel string
	// Initrd is the initramfs. Empty means none.
	Initrd string
	// KernelArgs follow our own on the kernel's command line, so that they win.
	KernelArgs string
	// Ports is the number of empty PCIe ports for hot-plug.
	Ports int
	// Balloon gives the machine a balloon that reports free pages, so that the host gets them back. A machine that is
	// made a template must not have one: to give a page of a clone back QEMU punches a hole into the memory file,
	// also where it is mapped privately, and so into the template (ram_block_discard_range in QEMU 7.2; measured).
	Balloon bool
	// VHost says that the host's kernel moves the packets of the NICs (vhost-net), not QEMU. The guest sees other
	// features then.
	VHost bool
}

// Queues returns how many queue pairs each NIC of the machine has: so many taps' descriptors its NIC wants.
func (m Machine) Queues() int { return min(m.VCPUs, MaxQueues) }

const (
	lowerAlphanumeric = "abcdefghijklmnopqrstuvwxyz0123456789"
	alphanumeric      = lowerAlphanumeric + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// isMachineType tells whether name is the architecture's newest machine type, as "q35", or one of its versions, as
// "pc-q35-7.2".
func isMachineType(arch Arch, name string) bool {
	newest, versions := "q35", "pc-q35-"
	if arch == ARM64 {
		newest, versions = "virt", "virt-"
	}
	version, ok := strings.CutPrefix(name, versions)
	return name == newest || ok && version != "" && strings.Trim(version, lowerAlphanumeric+".") == ""
}

// isCPUModel tells whether s is a model and its features: "max,la57=off", "Cascadelake-Server-v2,+vmx".
func isCPUModel(s string) bool {
	for i, part := range strings.Split(s, ",") {
		name, value := part, ""
		if i > 0 {
			name, value, _ = strings.Cut(part, "=")
			if strings.HasPrefix(name, "+") || strings.HasPrefix(name, "-") {
				name = name[1:]
			}
		}
		if name == "" || strings.IndexByte(alphanumeric, name[0]) < 0 || strings.Trim(name+value, alphanumeric+"._-") != "" {
			return false
		}
	}
	return true
}

// Validate tells the first thing in m that no QEMU could be started with.
func (m Machine) Validate() error {
	m = m.withDefaults()
	switch {
	case m.Arch != AMD64 && m.Arch != ARM64:
		return fmt.Errorf("machine: unknown architecture %q", m.Arch)
	case m.Accel != KVM && m.Accel != TCG:
		return fmt.Errorf("machine: unknown accelerator %q", m.Accel)
	case m.QEMU == "":
		return fmt.Errorf("machine: no QEMU binary")
	case !isMachineType(m.Arch, m.Type):
		return fmt.Errorf("machine: type %q is not one of %s's", m.Type, m.Arch)
	case !isCPUModel(m.CPUModel):
		return fmt.Errorf("machine: malformed CPU model %q", m.CPUModel)
	case m.VCPUs < 1:
		return fmt.Errorf("machine: %d vCPUs", m.VCPUs)
	case m.MemoryMiB < 1:
		return fmt.Errorf("machine: %d MiB of memory", m.MemoryMiB)
	case m.Ports < 0 || m.Ports > MaxPorts:
		return fmt.Errorf("machine: %d hot-plug ports, at most %d", m.Ports, MaxPorts)
	case m.Kernel == "":
		return fmt.Errorf("machine: no kernel")
	}
	for _, s := range []struct{ name, value string }{
		{"QEMU binary", m.QEMU}, {"kernel", m.Kernel}, {"initrd", m.Initrd}, {"kernel arguments", m.KernelArgs},
	} {
		if err := checkString(s.name, s.value); err != nil {
			return fmt.Errorf("machine: %w", err)
		}
	}
	return nil
}

// checkString refuses what cannot stand in an argument (NUL) or in one line of a log (the other control characters).
func checkString(name, value string) error {
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s %q has a control character", name, value)
	}
	return nil
}

// withDefaults fills in the fields whose empty value means something.
func (m Machine) withDefaults() Machine {
	if m.Type == "" {
		m.Type = map[Arch]string{AMD64: "q35", ARM64: "virt"}[m.Arch]
	}
	if m.CPUModel == "" {
		m.CPUModel = defaultCPU(m.Arch, m.Accel)
	}
	return m
}

func defaultCPU(arch Arch, accel Accel) string {
	switch {
	case accel == KVM:
		return "host"
	case arch == ARM64:
		// The architected pointer authentication is a cipher that TCG computes in software; QEMU's own hash costs a
		// fraction (QEMU docs/system/arm/cpu-features.rst).
		return "max,pauth-impdef=on"
	default:
		// A distribution's kernel uses page tables of five levels where it can, and TCG walks them in software.
		return "max,la57=off"
	}
}
