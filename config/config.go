// Package config turns the admin's TOML file and the annotations that he allows into one checked value.
//
// Every setting is one field of Config: its key, default, bounds and meaning stand there and nowhere else.
// docs/configuration.md and default.toml are made from that struct (go test ./config -update).
package config

// DefaultPath is the file that Load reads when no other is named. It need not exist.
const DefaultPath = "/etc/hyper/config.toml"

// Config is the settings of one hyper command. The comment of a field is what the admin reads in
// docs/configuration.md; its tags are the rule:
//
//	toml     the key
//	default  the value without the key, written as TOML
//	min, max bounds of a number, both included
//	oneof    the words that a string may be, separated by blanks
type Config struct {
	// The QEMU binary: an absolute path, or a name that is searched in PATH.
	// Empty: qemu-system-x86_64 or qemu-system-aarch64, as the host is.
	QEMU string `toml:"qemu" default:"\"\""`

	// The guest kernel, an absolute path.
	// Empty: ../share/hyper/kernel, seen from the directory of the hyper binary.
	Kernel string `toml:"kernel" default:"\"\""`

	// The guest's initramfs, an absolute path.
	// Empty: ../share/hyper/initrd, seen from the directory of the hyper binary.
	Initrd string `toml:"initrd" default:"\"\""`

	// More arguments for the guest kernel's command line, added after our own.
	KernelArgs string `toml:"kernel_args" default:"\"\""`

	// What runs the guest's code. "auto" takes KVM when /dev/kvm opens and the CPU shows vmx or svm
	// (on arm64: when /dev/kvm opens), and TCG otherwise. "kvm" and "tcg" force it.
	Accelerator string `toml:"accelerator" default:"\"auto\"" oneof:"auto kvm tcg"`

	// QEMU's machine type. Empty: q35 on x86_64, virt on aarch64.
	Machine string `toml:"machine" default:"\"\""`

	// QEMU's CPU model. Empty: host under KVM, max under TCG.
	CPUModel string `toml:"cpu_model" default:"\"\""`

	// vCPUs of a VM whose container has no CPU quota. With a quota it is quota / period, rounded up.
	VCPUs int `toml:"vcpus" default:"1" min:"1" max:"1024"`

	// The most vCPUs that a VM gets, whatever a quota or an annotation asks for.
	// 0: as many as the host has CPUs. A VM never gets more than that.
	MaxVCPUs int `toml:"max_vcpus" default:"0" min:"0" max:"1024"`

	// MiB that a container without a memory limit finds in its VM. The host gives a page only when the guest
	// touches it, and the guest gives free pages back; but its kernel keeps 1/64 of all memory as its page table.
	MemoryMiB int `toml:"memory_mib" default:"512" min:"16" max:"16777216"`

	// The most MiB that a container finds in its VM, whatever its limit or an annotation asks for.
	// 0: as much as the host has. A VM never gets more than that.
	MaxMemoryMiB int `toml:"max_memory_mib" default:"0" min:"0" max:"16777216"`

	// MiB that the guest needs for itself (kernel, initramfs, agent, guest runtime). They are added to what the
	// container gets, so that it really gets its limit. The tuned kernel needs about 50, a distribution's about 90.
	MemoryOverheadMiB int `toml:"memory_overhead_mib" default:"128" min:"0" max:"4096"`

	// MiB of room that the sandbox's cgroup on the host has beside the VM's memory: QEMU itself, its translated
	// code under TCG, the keeper, file server processes. Too little, and a container's limit kills its VM.
	VMMOverheadMiB int `toml:"vmm_overhead_mib" default:"256" min:"64" max:"16384"`

	// PCIe ports left empty for devices that are added to a running VM.
	HotplugPorts int `toml:"hotplug_ports" default:"4" min:"0" max:"16"`

	// How an interface of the container's network namespace reaches the guest. "tc" puts a tap beside it and redirects
	// each packet of one to the other. "macvtap" puts a macvtap on it, which some drivers of host interfaces do better
	// with; the device is then always hot-plugged, which costs time at the start.
	NetworkModel string `toml:"network_model" default:"\"tc\"" oneof:"tc macvtap"`

	// KiB that are kept of the guest kernel's console. Older lines go.
	ConsoleKiB int `toml:"console_kib" default:"256" min:"4" max:"65536"`

	// Seconds until a VM that does not answer counts as hung in its boot. It only guards against hanging:
	// a VM that dies is noticed at once. A boot takes seconds without KVM, more on a busy host.
	BootTimeoutSeconds int `toml:"boot_timeout_seconds" default:"120" min:"1" max:"3600"`

	// "auto" starts a VM from a template: the memory and state of a machine like it, kept when its guest was ready.
	// The first VM of a size boots, and the template is made after it in the background. "off" boots every VM; these
	// have a balloon that gives free memory back to the host, which clones of a template cannot have.
	Template string `toml:"template" default:"\"auto\"" oneof:"auto off"`

	// The directory of the templates, an absolute path, on a disk: its pages are shared and can be dropped. On a tmpfs
	// each page that a clone touches first, also a free one, is allocated once more, counts against the container's
	// limit on the host, and stays.
	TemplateDir string `toml:"template_dir" default:"\"/var/cache/hyper/templates\""`

	// MiB that all templates together may take, about 70 each, or 100 with a distribution's kernel. The least recently
	// used go when it is more.
	TemplateMaxMiB int `toml:"template_max_mib" default:"1024" min:"64" max:"1048576"`

	// Which settings a container's annotation may change: "vcpus", "memory_mib", or both. The annotation's name is
	// "io.hyper-runtime." and the key. No other setting can be listed. A value is refused when it is above max_vcpus
	// or max_memory_mib. An annotation with our prefix that is not listed is refused, too.
	AllowedAnnotations []string `toml:"allowed_annotations" default:"[]"`
}

// resolve fills in the settings whose empty value means "as the installation and the host are".
// shareDir is where kernel and initrd were installed, goarch the host's architecture in Go's words.
func (c *Config) resolve(shareDir, goarch string) {
	qemu, machine := "qemu-system-x86_64", "q35"
	if goarch == "arm64" {
		qemu, machine = "qemu-system-aarch64", "virt"
	}
	for _, f := range []struct {
		field *string
		value string
	}{
		{&c.QEMU, qemu},
		{&c.Machine, machine},
		{&c.Kernel, shareDir + "/kernel"},
		{&c.Initrd, shareDir + "/initrd"},
	} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
}
