package hypervisor

import (
	"fmt"
	"strconv"
	"strings"
)

// Backends are a VM's ends on the host: what one VM of a machine has and the next one has not.
type Backends struct {
	// Share is the directory that the guest can mount, as an absolute path.
	Share string
	// QMP, Agent and Console are QEMU's descriptors of connected stream sockets.
	QMP, Agent, Console int
	// Tap and VHost are QEMU's descriptors of the NIC's queues: see NIC.
	Tap, VHost []int
	// Memory is a file that has the guest's memory, as an absolute path. Empty means memory of the VM's own.
	Memory string
	// Shared says that what the guest writes goes to Memory; else it reads the file's pages until it writes them.
	Shared bool
	// Role says what the VM has to do with a template.
	Role Role
}

// Role is what a VM has to do with a template.
type Role int

// A VM boots for itself, boots to become a template, or is a clone of one.
const (
	BootRole Role = iota
	TemplateRole
	CloneRole
)

// stateURI is where a clone reads its devices' state from: the descriptor after the sockets'.
const stateURI = "fd:6"

// Places on the root bus. They are fixed, so that a machine's guests see the same devices whatever QEMU's order is.
const (
	serialSlot  = 1
	shareSlot   = 2
	rngSlot     = 3
	balloonSlot = 4
	nicSlot     = 5
	portSlot    = 8 // and the following: eight ports in each
)

// translationCache bounds TCG's cache of translated code, in MiB. QEMU's default is up to 1 GiB, which a long-lived
// guest fills.
const translationCache = 64

// Args returns QEMU's arguments for this machine with these back ends. It is pure, and expects a valid machine.
//
// QEMU starts with the vCPUs stopped (-S), so that none of its events can be missed. Only a clone's run as soon as its
// state is there, for which nobody has to ask: a template is saved without the global state, which would say "paused".
func (m Machine) Args(b Backends) []string {
	m = m.withDefaults()
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-sandbox", option("on", "obsolete", "deny", "elevateprivileges", "deny", "spawn", "deny", "resourcecontrol", "deny"),
		"-machine", m.machine(),
		"-accel", m.accel(),
		"-cpu", m.CPUModel,
		"-smp", strconv.Itoa(m.VCPUs),
		"-m", strconv.Itoa(m.MemoryMiB) + "M",
		"-object", m.memory(b),
		"-kernel", m.Kernel, // these three are taken as they are
	}
	if m.Initrd != "" {
		args = append(args, "-initrd", m.Initrd)
	}
	switch b.Role {
	case BootRole:
		args = append(args, "-S")
	case TemplateRole:
		args = append(args, "-S", "-global", "migration.store-global-state=off")
	case CloneRole:
		// After a migration QEMU, and the guest when told to, announce where the NIC's address is now. A clone's is
		// nobody's.
		args = append(args, "-incoming", "defer", "-global", "migration.announce-rounds=0")
	}
	args = append(args, "-append", m.kernelArgs(b.Role),
		"-chardev", socket("qmp", b.QMP),
		"-mon", option("", "chardev", "qmp", "mode", "control"),
		"-chardev", socket("console", b.Console),
		"-serial", "chardev:console",
		"-device", virtio("virtio-serial", "serial", serialSlot, "max_ports", "2"),
		"-chardev", socket("agent", b.Agent),
		"-device", option("virtserialport", "id", "agent", "bus", "serial.0", "nr", "1", "chardev", "agent", "name", AgentPort),
		// A share inside the share is another file system: remap keeps their inode numbers apart.
		"-fsdev", option("local", "id", "share", "path", b.Share, "security_model", "passthrough", "multidevs", "remap"),
		"-device", virtio("virtio-9p", "share", shareSlot, "fsdev", "share", "mount_tag", ShareTag),
		"-object", option("rng-builtin", "id", "random"),
		"-device", virtio("virtio-rng", "rng", rngSlot, "rng", "random"),
	)
	args = append(args, m.nic(b)...)
	if m.Balloon {
		args = append(args, "-device",
			virtio("virtio-balloon", "balloon", balloonSlot, "free-page-reporting", "on", "deflate-on-oom", "on"))
	}
	if m.Arch == AMD64 {
		// Hot-plug by ACPI: an unplug takes milliseconds. PCI Express' own has the guest wait for five seconds, in case that
		// somebody presses the slot's button again (PCI Express Base Specification 3.0, 6.7.1.5).
		args = append(args, "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=on")
	}
	for i := range m.Ports {
		args = append(args, "-device", port(i))
	}
	return args
}

// memory is the backend of the guest's memory.
func (m Machine) memory(b Backends) string {
	size := strconv.Itoa(m.MemoryMiB) + "M"
	if b.Memory == "" {
		return option("memory-backend-ram", "id", "memory", "size", size)
	}
	return option("memory-backend-file", "id", "memory", "size", size, "mem-path", b.Memory, "share", onOff(b.Shared))
}

// nic is the NIC in its slot.
func (m Machine) nic(b Backends) []string {
	var args []string
	properties := []string{"mac", SlotMAC, "romfile", ""} // nobody boots from it
	if len(b.Tap) > 0 {
		args = append(args, "-netdev", tap(b.Tap, b.VHost))
		properties = append(properties, "netdev", "nic")
	}
	if n := m.Queues(); n > 1 {
		properties = append(properties, "mq", "on", "vectors", strconv.Itoa(vectors(n)))
	}
	return append(args, "-device", virtio("virtio-net", "nic", nicSlot, properties...))
}

// vectors is how many interrupts a NIC with that many queue pairs wants: one for each queue, one for the control
// queue, one for changes.
func vectors(queues int) int { return 2*queues + 2 }

// tap is the back end of the NIC.
func tap(fds, vhost []int) string {
	list := func(fds []int) string {
		var names []string
		for _, fd := range fds {
			names = append(names, strconv.Itoa(fd))
		}
		return strings.Join(names, ":")
	}
	options := []string{"id", "nic", "fds", list(fds)}
	if len(vhost) > 0 {
		options = append(options, "vhost", "on", "vhostfds", list(vhost))
	}
	return option("tap", options...)
}

func (m Machine) machine() string {
	options := []string{
		"memory-backend", "memory",
		"mem-merge", "off", // shared pages tell guests of each other
		"dump-guest-core", "off",
	}
	if m.Arch == AMD64 {
		// What a PC has and a sandbox does not need: less for a hostile guest to play with.
		for _, name := range []string{"i8042", "sata", "smbus", "smm", "usb", "vmport"} {
			options = append(options, name, "off")
		}
	} else {
		options = append(options, "gic-version", "max") // the best that the accelerator has
	}
	return option(m.Type, options...)
}

func (m Machine) accel() string {
	if m.Accel == TCG {
		thread := "multi"
		if m.TakeTurns {
			thread = "single"
		}
		return option("tcg", "thread", thread, "tb-size", strconv.Itoa(translationCache))
	}
	return "kvm"
}

// kernelArgs returns the kernel's command line (Linux Documentation/admin-guide/kernel-parameters.txt).
func (m Machine) kernelArgs(role Role) string {
	console := "ttyS0"
	if m.Arch == ARM64 {
		console = "ttyAMA0"
	}
	args := []string{
		"console=" + console,
		"quiet",    // errors and panics only: each line on a serial port costs time
		"panic=-1", // reset at once, which ends QEMU (-no-reboot)
		"cgroup_no_v1=all",
		// A distribution's kernel tests its ciphers at boot, a sixth of its time under TCG.
		"cryptomgr.notests",
		// Namespaces wait for RCU, and with one or two vCPUs it costs nothing to hurry it: half the time of a container's.
		"rcupdate.rcu_expedited=1",
	}
	if m.Accel == TCG {
		// What the kernel does not know is init's environment. The agent is of Go, whose runtime interrupts what has run for
		// 10 ms by a signal: under TCG that is much of what the agent does for the first time.
		args = append(args, "GODEBUG=asyncpreemptoff=1")
	}
	if m.Arch == AMD64 {
		args = append(args, "reboot=t") // a triple fault needs no device to work
		if m.Accel == TCG {
			// A busy host delays timers: a kernel that checks them finds no working one, or calls the TSC unstable.
			args = append(args, "no_timer_check", "tsc=reliable")
		}
		if m.VCPUs == 1 {
			// With one vCPU a kernel patches its locks away, and TCG translates all that code again: a tenth of a boot.
			args = append(args, "noreplace-smp")
		}
	}
	if role == TemplateRole {
		args = append(args, "hyper.rehearse") // for the agent
	}
	if m.KernelArgs != "" {
		args = append(args, m.KernelArgs)
	}
	return strings.Join(args, " ")
}

// virtio returns a virtio PCI device without the legacy interface, which wants I/O ports and knows no VERSION_1.
func virtio(driver, id string, slot int, properties ...string) string {
	place := []string{"id", id, "bus", "pcie.0", "addr", fmt.Sprintf("%02x.0", slot), "disable-legacy", "on"}
	return option(driver+"-pci", append(place, properties...)...)
}

// port returns the i-th empty hot-plug port. Eight share a slot, as functions.
func port(i int) string {
	properties := []string{
		"id", portName(i), "bus", "pcie.0", "addr", fmt.Sprintf("%02x.%d", portSlot+i/8, i%8),
		"chassis", strconv.Itoa(i + 1), "slot", strconv.Itoa(i + 1),
	}
	if i%8 == 0 {
		properties = append(properties, "multifunction", "on")
	}
	return option("pcie-root-port", properties...)
}

func portName(i int) string { return fmt.Sprintf("port%d", i) }

func socket(id string, fd int) string {
	return option("socket", "id", id, "fd", strconv.Itoa(fd))
}

// option writes one of QEMU's option lists: the implied first value, then names and values in turn. It is the one place
// where a string becomes part of such a list: a comma ends a value unless it is doubled (qemu(1), -drive file=).
func option(first string, pairs ...string) string {
	var parts []string
	if first != "" {
		parts = append(parts, quote(first))
	}
	for i := 0; i < len(pairs); i += 2 {
		parts = append(parts, pairs[i]+"="+quote(pairs[i+1]))
	}
	return strings.Join(parts, ",")
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func quote(value string) string { return strings.ReplaceAll(value, ",", ",,") }
