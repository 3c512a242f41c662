// Package storage gives the files of the host to a guest: which bind mounts the share needs and what a container mounts
// in the guest instead (Plan), and the share itself.
package storage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// GuestShare is where the guest mounts the share.
	GuestShare = "/run/share"
	// guestShm is where the guest mounts its tmpfs file systems that containers have in common.
	guestShm = "/run/shm"
	// rootfs is the name of a container's root file system in the container's directory of the share.
	rootfs = "rootfs"
)

// Plan is what the root file system and the mounts of a container become.
type Plan struct {
	Binds  []Bind        // for OpenSources
	Mounts []specs.Mount // of the guest, one for each of the configuration, in its order
	Shm    *Shm          // nil: none
}

// Bind is one directory or file of the host that appears in the share.
type Bind struct {
	Source    string // absolute; a link is followed, once
	Target    string // path in the share: "<cid>/rootfs", or "<cid>/<n>/<base>" for the n-th mount of the configuration
	Place     string // where the container has it
	Dir       bool   // a directory; else anything that is no directory
	ReadOnly  bool
	Recursive bool // with the mounts below it
}

// guestPath is where the guest has the bind.
func (b Bind) guestPath() string { return path.Join(GuestShare, b.Target) }

// Shm is a tmpfs of the guest, for the containers of its sandbox that have the same /dev/shm on the host.
type Shm struct {
	Path string // in the guest
	Size uint64 // bytes
}

// RootPath is the root file system of a container in the guest.
func RootPath(cid string) string { return path.Join(GuestShare, cid, rootfs) }

// NewPlan plans for the container cid with the given bundle, whose root file system is at root. All are absolute paths
// of the host. It learns from inspect what the source of a bind mount is; Inspect is the real one. As with runc a
// destination that begins with the root file system's own path is meant below that.
func NewPlan(cid, bundle, root string, mounts []specs.Mount, inspect func(path string) (Source, error)) (*Plan, error) {
	if cid == "" || cid == "." || cid == ".." || strings.ContainsAny(cid, "/\x00") {
		return nil, fmt.Errorf("container id %q is no file name", cid)
	}
	plan := &Plan{Binds: []Bind{{Source: root, Target: path.Join(cid, rootfs), Place: "/", Dir: true, Recursive: true}}}
	for n, m := range mounts {
		if place, ok := within(root, m.Destination); ok {
			m.Destination = place
		}
		guest, err := plan.mount(cid, n, bundle, m, inspect)
		if err != nil {
			return nil, err
		}
		plan.Mounts = append(plan.Mounts, guest)
	}
	return plan, nil
}

// within finds the place of an absolute path in the root file system, if that is where it leads.
func within(root, name string) (place string, ok bool) {
	rest, ok := strings.CutPrefix(path.Clean(name), path.Clean(root))
	if !ok || path.Clean(root) == "/" || rest != "" && rest[0] != '/' {
		return "", false
	}
	return "/" + strings.TrimPrefix(rest, "/"), true
}

// target is where the share has the n-th mount of the configuration. Its last name is that of the source: it is what a
// container sees as the mount's root (proc_pid_mountinfo(5)).
func target(cid string, n int, source string) string {
	base := path.Base(path.Clean(source))
	if base == "/" {
		base = "root"
	}
	return path.Join(cid, strconv.Itoa(n), base)
}

// mount plans one mount, and returns what the guest mounts.
func (p *Plan) mount(cid string, n int, bundle string, m specs.Mount, inspect func(string) (Source, error)) (specs.Mount, error) {
	options := parseOptions(m.Options)
	m.Options = options.guest
	if m.Type != "bind" && !options.bind {
		return m, checkType(m)
	}
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(bundle, source)
	}
	if place, ok := within(p.Binds[0].Source, source); ok {
		// What lies there may be an earlier mount of the same container, which only the guest has.
		m.Type, m.Source, m.Options = "bind", path.Join(RootPath(cid), place), options.shared()
		return m, nil
	}
	info, err := inspect(source)
	if err != nil {
		return m, fmt.Errorf("mount %s to %s: %w", m.Source, m.Destination, err)
	}
	if own, ok := p.guestOwn(source, m, info, options); ok {
		return own, nil
	}
	if err := info.shareable(); err != nil {
		return m, fmt.Errorf("mount %s to %s: %w", m.Source, m.Destination, err)
	}
	bind := Bind{
		Source: source, Target: target(cid, n, source), Place: m.Destination,
		Dir: info.IsDir(), ReadOnly: options.readOnly, Recursive: options.recursive,
	}
	p.Binds = append(p.Binds, bind)
	m.Type, m.Source, m.Options = "bind", bind.guestPath(), options.shared()
	return m, nil
}

// guestOwn finds those binds that mean what the guest has too: kernel file systems at their usual places, which engines
// bind for containers that shall share the host's namespaces, the shared memory of a group of containers, and devices
// like /dev/null.
func (p *Plan) guestOwn(source string, m specs.Mount, info Source, options options) (specs.Mount, bool) {
	destination := path.Clean(m.Destination)
	if kind, usual := kernelFS[info.FSType]; usual && kind.place == destination || source == "/sys/fs/cgroup" && destination == source {
		if source == "/sys/fs/cgroup" {
			kind.guest = "cgroup" // of version 1 it is a tmpfs
		}
		m.Type, m.Source, m.Options = kind.guest, kind.guest, options.unbound()
		return m, true
	}
	if info.FSType == "tmpfs" && destination == "/dev/shm" && info.IsDir() {
		name := sha256.Sum256([]byte(source))
		p.Shm = &Shm{Path: path.Join(guestShm, hex.EncodeToString(name[:8])), Size: info.Size}
		m.Type, m.Source, m.Options = "bind", p.Shm.Path, options.shared()
		return m, true
	}
	if node, ok := guestNodes[info.Rdev]; ok && info.Kind == unix.S_IFCHR {
		m.Type, m.Source, m.Options = "bind", node, options.shared()
		return m, true
	}
	return m, false
}

// guestNodes are the devices that every guest has as its own and that give nothing of the host away.
var guestNodes = map[uint64]string{
	unix.Mkdev(1, 3):  "/dev/null",
	unix.Mkdev(1, 5):  "/dev/zero",
	unix.Mkdev(1, 7):  "/dev/full",
	unix.Mkdev(1, 8):  "/dev/random",
	unix.Mkdev(1, 9):  "/dev/urandom",
	unix.Mkdev(1, 11): "/dev/kmsg",
	unix.Mkdev(5, 0):  "/dev/tty",
}

// kernelFS are file systems that are views of the kernel, or of its devices. The host's are never shared. Those with a
// usual place in a container have a counterpart in the guest.
var kernelFS = map[string]struct{ place, guest string }{
	"proc":        {"/proc", "proc"},
	"sysfs":       {"/sys", "sysfs"},
	"cgroup":      {"/sys/fs/cgroup", "cgroup"},
	"cgroup2":     {"/sys/fs/cgroup", "cgroup"},
	"mqueue":      {"/dev/mqueue", "mqueue"},
	"devpts":      {"/dev/pts", "devpts"},
	"devtmpfs":    {},
	"binfmt_misc": {},
	"bpf":         {},
	"configfs":    {},
	"debugfs":     {},
	"efivarfs":    {},
	"fusectl":     {},
	"nsfs":        {},
	"pstore":      {},
	"securityfs":  {},
	"selinuxfs":   {},
	"tracefs":     {},
}

// guestTypes are the types of file systems that a container may mount in the guest: those without a source.
var guestTypes = map[string]bool{
	"bpf": true, "cgroup": true, "cgroup2": true, "debugfs": true, "devpts": true, "hugetlbfs": true, "mqueue": true,
	"proc": true, "ramfs": true, "securityfs": true, "sysfs": true, "tmpfs": true, "tracefs": true,
}

func checkType(m specs.Mount) error {
	if m.Type == "" {
		return fmt.Errorf("mount %s has no type", m.Destination)
	}
	if !guestTypes[m.Type] {
		return fmt.Errorf("mount %s: file system type %q is not supported: mount it on the host and bind it", m.Destination, m.Type)
	}
	return nil
}

// Source is what a bind mount has as its source.
type Source struct {
	Kind   uint32 // S_IFMT bits of the mode: unix.S_IFDIR …
	Rdev   uint64 // of a device
	FSType string // as in mountinfo; empty: not known
	Size   uint64 // bytes of the whole file system
}

// IsDir says whether the source is a directory.
func (s Source) IsDir() bool { return s.Kind == unix.S_IFDIR }

var (
	errKernelFS = errors.New("this belongs to the host's kernel and cannot be shared with a VM")
	errDevice   = errors.New("a device of the host cannot be shared with a VM")
)

// shareable says whether the source may appear in a share. Sockets and FIFOs may, but do not connect guest and host.
func (s Source) shareable() error {
	if s.Kind == unix.S_IFCHR || s.Kind == unix.S_IFBLK {
		return fmt.Errorf("device %d:%d: %w", unix.Major(s.Rdev), unix.Minor(s.Rdev), errDevice)
	}
	if _, ok := kernelFS[s.FSType]; ok {
		return fmt.Errorf("%s file system: %w", s.FSType, errKernelFS)
	}
	return nil
}

// Inspect looks at the file at path, following links. It opens nothing that could block or act.
func Inspect(path string) (Source, error) {
	file, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return Source{}, err
	}
	defer file.Close()
	return inspect(file)
}

func inspect(file *os.File) (Source, error) {
	fd := int(file.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Source{}, &os.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return Source{}, &os.PathError{Op: "statfs", Path: file.Name(), Err: err}
	}
	id, err := mountID(file)
	if err != nil {
		return Source{}, err
	}
	mounts, err := readMounts()
	if err != nil {
		return Source{}, err
	}
	source := Source{Kind: st.Mode & unix.S_IFMT, Rdev: st.Rdev, Size: fs.Blocks * uint64(fs.Bsize)}
	if m, ok := findMount(mounts, id); ok {
		source.FSType = m.fsType
	}
	return source, nil
}
