package oci

import (
	"errors"
	"fmt"
	"path"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities are the names of linux/capability.h, in its order.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// errHostNetwork is for a container that would use the network of its engine.
var errHostNetwork = errors.New("host network is not supported: a VM has a network of its own, give the container a network namespace")

func checkNamespaces(spec *specs.Spec) error {
	if spec.Linux == nil {
		return errHostNetwork
	}
	has := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range spec.Linux.Namespaces {
		if _, known := namespaceFlags[ns.Type]; !known {
			return fmt.Errorf("unknown namespace type %q", ns.Type)
		}
		if has[ns.Type] {
			return fmt.Errorf("namespace %s is given twice", ns.Type)
		}
		has[ns.Type] = true
		switch {
		case ns.Type == specs.TimeNamespace:
			// crun 1.8.1 cannot make one together with a pid namespace: the process that it forks from is the first there.
			return errors.New("a time namespace is not supported")
		case ns.Path == "":
		case !path.IsAbs(ns.Path):
			return fmt.Errorf("path %q of namespace %s is not absolute", ns.Path, ns.Type)
		case ns.Type == specs.UserNamespace:
			return fmt.Errorf("joining a user namespace is not supported: %s", ns.Path)
		}
	}
	switch {
	case !has[specs.NetworkNamespace]:
		return errHostNetwork
	case !has[specs.UTSNamespace] && spec.Hostname != "":
		return errors.New("unable to set hostname without a private UTS namespace")
	case !has[specs.UTSNamespace] && spec.Domainname != "":
		return errors.New("unable to set domainname without a private UTS namespace")
	case len(spec.Linux.TimeOffsets) > 0:
		return errors.New("linux.timeOffsets needs a time namespace, which is not supported")
	case has[specs.UserNamespace] && (len(spec.Linux.UIDMappings) == 0 || len(spec.Linux.GIDMappings) == 0):
		return errors.New("a user namespace needs linux.uidMappings and linux.gidMappings")
	case !has[specs.UserNamespace] && len(spec.Linux.UIDMappings)+len(spec.Linux.GIDMappings) > 0:
		return errors.New("linux.uidMappings and linux.gidMappings need a user namespace")
	}
	return nil
}

func checkLinux(spec *specs.Spec) error {
	l := spec.Linux
	switch {
	case l.IntelRdt != nil:
		return errors.New("linux.intelRdt is not supported: a guest has no cache allocation of its own")
	case l.MemoryPolicy != nil:
		return errors.New("linux.memoryPolicy is not supported: it names memory nodes of the host")
	case len(l.NetDevices) > 0:
		return errors.New("linux.netDevices is not supported: a device of the host cannot move into a VM")
	case l.Seccomp != nil && l.Seccomp.ListenerPath != "":
		return errors.New("linux.seccomp.listenerPath is not supported: the guest cannot reach a socket of the host")
	}
	if p := l.Personality; p != nil {
		if p.Domain != specs.PerLinux && p.Domain != specs.PerLinux32 {
			return fmt.Errorf("unknown linux.personality.domain %q", p.Domain)
		}
		if len(p.Flags) > 0 {
			return errors.New("linux.personality.flags are not supported: the specification defines none")
		}
	}
	for _, p := range slices.Concat(l.MaskedPaths, l.ReadonlyPaths) {
		if !path.IsAbs(p) {
			return fmt.Errorf("masked or read-only path %q is not absolute", p)
		}
	}
	if !slices.Contains([]string{"", "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"}, l.RootfsPropagation) {
		return fmt.Errorf("unknown linux.rootfsPropagation %q", l.RootfsPropagation)
	}
	for _, d := range l.Devices {
		if !path.IsAbs(d.Path) {
			return fmt.Errorf("device path %q is not absolute", d.Path)
		}
		if !slices.Contains([]string{"b", "c", "u", "p"}, d.Type) {
			return fmt.Errorf("device %s: unknown type %q", d.Path, d.Type)
		}
	}
	return CheckResources(l.Resources)
}

// CheckResources says what is invalid in the limits of a container. Zero and nil mean "not set", as in runc.
func CheckResources(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if m := r.Memory; m != nil {
		limit, swap := value(m.Limit), value(m.Swap)
		switch {
		case limit < -1 || swap < -1 || value(m.Reservation) < -1:
			return errors.New("linux.resources.memory: a limit must be -1, 0 or more")
		case swap > 0 && limit <= 0:
			return errors.New("unable to set swap limit without memory limit")
		case swap > 0 && swap < limit:
			return fmt.Errorf("memory+swap limit %d is less than memory limit %d", swap, limit)
		}
	}
	if c := r.CPU; c != nil {
		// kernel/sched/core.c, tg_set_cfs_bandwidth: a period has 1 ms to 1 s, a quota at least 1 ms.
		if p := value(c.Period); p != 0 && (p < 1000 || p > 1_000_000) {
			return fmt.Errorf("cpu period %d is not between 1000 and 1000000", p)
		}
		if q := value(c.Quota); q > 0 && q < 1000 {
			return fmt.Errorf("cpu quota %d is less than 1000", q)
		}
	}
	for _, d := range r.Devices {
		for _, c := range d.Access {
			if c != 'r' && c != 'w' && c != 'm' && c != 'a' { // runc takes an a, and gives it no meaning
				return fmt.Errorf("unknown device access %q", d.Access)
			}
		}
		if !slices.Contains([]string{"", "a", "b", "c"}, d.Type) {
			return fmt.Errorf("unknown type %q in linux.resources.devices", d.Type)
		}
	}
	return nil
}

// value is what p points to, or zero.
func value[T int64 | uint64](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}
