package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// keepGuard keeps the program that the runtime has made of protocol.UsualDevices and attached to a cgroup. To check it and to
// compile it is a twentieth of what a start has the kernel do; so a guest that becomes a template has it done. The
// program is attached to a cgroup without processes, too: with the last one the kernel would take out its hooks, and
// with the next one patch them in again.
func (a *Agent) keepGuard(cgroup string) error {
	id, err := guardOf(filepath.Join(a.config.Cgroups, cgroup))
	if err != nil {
		return err
	}
	open := struct{ id, next, flags uint32 }{id: id} // of union bpf_attr, see bpf(2) and linux/bpf.h; likewise below
	program, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&open), unsafe.Sizeof(open))
	if err != nil {
		return fmt.Errorf("open device program: %w", err)
	}
	if err := attachGuard(program, filepath.Join(a.config.Cgroups, "guard")); err != nil {
		unix.Close(program)
		return err
	}
	a.guard = program
	return nil
}

// guardOf returns the id of the one device program that is attached to a cgroup.
func guardOf(dir string) (id uint32, err error) {
	cgroup, err := openCgroup(dir)
	if err != nil {
		return 0, err
	}
	defer unix.Close(cgroup)
	query := struct {
		cgroup, kind, flags, attached uint32
		ids                           uint64
		count                         uint32
	}{cgroup: uint32(cgroup), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&id))), count: 1}
	_, err = bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query))
	runtime.KeepAlive(&id)
	if err == nil && query.count != 1 {
		err = fmt.Errorf("%d programs", query.count)
	}
	if err != nil {
		return 0, fmt.Errorf("query device programs: %w", err)
	}
	return id, nil
}

// withGuard takes protocol.UsualDevices out of a config.json, when the kept program has been attached to the container's new
// cgroup in their place. Other rules stay.
func (a *Agent) withGuard(config []byte, cgroup string) ([]byte, error) {
	before, after, usual := bytes.Cut(config, []byte(protocol.UsualDevices))
	if !usual || a.guard == 0 {
		return config, nil
	}
	if err := attachGuard(a.guard, filepath.Join(a.config.Cgroups, cgroup)); err != nil {
		return nil, err
	}
	return slices.Concat(before, []byte(`"devices":[]`), after), nil
}

// attachGuard attaches a program to a cgroup, which it makes if need be, in the way that crun does: it finds it there
// and replaces it when the rules change (ebpf_attach_program in src/libcrun/ebpf.c).
func attachGuard(program int, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	cgroup, err := openCgroup(dir)
	if err != nil {
		return err
	}
	defer unix.Close(cgroup)
	attach := struct{ cgroup, program, kind, flags uint32 }{uint32(cgroup), uint32(program), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil {
		return fmt.Errorf("attach device program: %w", err)
	}
	return nil
}

func openCgroup(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open cgroup: %w", err)
	}
	return fd, nil
}

// bpf is bpf(2). A descriptor that it returns is closed on exec.
func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
