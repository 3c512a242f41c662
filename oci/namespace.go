package oci

import (
	"fmt"
	"os"
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaceFlags are the clone(2) flags of the namespace types, which ioctl_nsfs(2) answers too.
var namespaceFlags = map[specs.LinuxNamespaceType]uintptr{
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
}

// HostNamespaces are those that the process standing for a container on the host lives in.
type HostNamespaces struct {
	Flags uintptr         // CLONE_NEW… of the new ones
	Join  []NamespacePath // the existing ones
}

// NamespacePath is an existing namespace.
type NamespacePath struct {
	Type specs.LinuxNamespaceType
	Path string
}

// Namespaces are the host's namespaces of a checked configuration. The mount namespace is always a new one: ours must
// end with us. A user namespace exists in the guest only.
func Namespaces(spec *specs.Spec) HostNamespaces {
	host := HostNamespaces{Flags: unix.CLONE_NEWNS}
	for _, ns := range spec.Linux.Namespaces {
		switch {
		case ns.Type == specs.UserNamespace:
		case ns.Path == "":
			host.Flags |= namespaceFlags[ns.Type]
		default:
			host.Join = append(host.Join, NamespacePath{ns.Type, ns.Path})
		}
	}
	return host
}

// MemberNamespaces are the host's namespaces of a checked configuration whose container lives in the sandbox that the
// process sandbox stands for: the network is always that one's. There are no mounts of its own on the host.
func MemberNamespaces(spec *specs.Spec, sandbox int) HostNamespaces {
	host := Namespaces(spec)
	host.Flags &^= unix.CLONE_NEWNS | unix.CLONE_NEWNET
	host.Join = slices.DeleteFunc(host.Join, func(n NamespacePath) bool { return n.Type == specs.NetworkNamespace })
	host.Join = append(host.Join, ProcessNamespace(specs.NetworkNamespace, sandbox))
	return host
}

// ProcessNamespace is the namespace of that type that a process of the host lives in.
func ProcessNamespace(kind specs.LinuxNamespaceType, pid int) NamespacePath {
	name := string(kind)
	switch kind {
	case specs.NetworkNamespace:
		name = "net"
	case specs.MountNamespace:
		name = "mnt"
	}
	return NamespacePath{kind, fmt.Sprintf("/proc/%d/ns/%s", pid, name)}
}

// WithinMounts calls f in the mount namespace of a process of the host, by a thread that is given up afterwards. f starts
// no goroutine: that would be elsewhere.
func WithinMounts(pid int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the first thread does not end, and /proc shows its namespaces as ours
			defer runtime.UnlockOSThread()
			done <- WithinMounts(pid, f) // by another thread, as this one is taken
			return
		}
		// Never unlocked: the thread ends with this goroutine.
		if err := EnterMounts(ProcessNamespace(specs.MountNamespace, pid).Path); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// Is tells whether both paths lead to one namespace. A path that leads nowhere does not.
func (n NamespacePath) Is(other NamespacePath) bool {
	a, err := os.Stat(n.Path)
	if err != nil {
		return false
	}
	b, err := os.Stat(other.Path)
	return err == nil && os.SameFile(a, b)
}

// Enter moves the calling thread into the namespace; a pid namespace takes only its children in. The path must name a
// namespace of the type it is said to have. A mount namespace is looked at, and not entered: see EnterMounts. A network
// namespace must not be the caller's own: we would redirect the traffic of the host.
func (n NamespacePath) Enter() error {
	// What is no namespace at all may be a FIFO or a device: O_NONBLOCK never waits for it.
	file, err := os.OpenFile(n.Path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("%s namespace: %w", n.Type, err)
	}
	defer file.Close()
	if err := n.prove(file); err != nil {
		return err
	}
	if n.Type == specs.MountNamespace {
		return nil
	}
	if err := unix.Setns(int(file.Fd()), int(namespaceFlags[n.Type])); err != nil {
		return fmt.Errorf("enter %s namespace %s: %w", n.Type, n.Path, err)
	}
	return nil
}

// JoinedPath is the path of the namespace of that type that a checked configuration joins; empty when it joins none.
func JoinedPath(spec *specs.Spec, kind specs.LinuxNamespaceType) string {
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == kind {
			return ns.Path
		}
	}
	return ""
}

// EnterMounts moves the calling thread, which must be locked, into the mount namespace at path. The process's other
// threads stay where they are.
func EnterMounts(path string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns(2) wants a root directory of the thread's own
		return fmt.Errorf("enter mount namespace %s: %w", path, err)
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace %s: %w", path, err)
	}
	return nil
}

func (n NamespacePath) prove(file *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil {
		return fmt.Errorf("%s: %w", n.Path, err)
	}
	// Asked first, because an ioctl means something else to each kind of file.
	if fs.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("%s is not a namespace", n.Path)
	}
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("type of namespace %s: %w", n.Path, err)
	}
	if uintptr(kind) != namespaceFlags[n.Type] {
		return fmt.Errorf("%s is not a %s namespace", n.Path, n.Type)
	}
	if n.Type != specs.NetworkNamespace {
		return nil
	}
	joined, err := file.Stat()
	if err != nil {
		return err
	}
	own, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	if os.SameFile(joined, own) {
		return errHostNetwork
	}
	return nil
}
