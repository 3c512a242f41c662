package hypervisor

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/hyper-runtime/hyper/hypervisor/qmp"
	"github.com/hyper-runtime/hyper/program"
	"golang.org/x/sys/unix"
)

// Options is what one VM of a machine has on the host.
type Options struct {
	// Share is the directory that the guest can mount, as an absolute path.
	Share string
	// Console is the file that keeps the last of the guest's console; older lines are in a second one, with ".1" added.
	// Empty means none.
	Console string
	// ConsoleBytes is how much the two files hold together.
	ConsoleBytes int
	// NIC is behind the NIC that each machine has. The files can be closed once Launch has returned.
	NIC NIC
	// Template is what the VM is a clone of. Nil means that it boots.
	Template *Template
	// SharedMemory lets other processes have a part in the guest's memory: a clone gets a copy of the template's, which
	// goes with the VM.
	SharedMemory bool

	memory string // the memory file of a VM that becomes a template
}

// Launch starts a VM of the machine, and returns when its vCPUs run: long before a kernel is up. QEMU ends with this
// process. On failure nothing is left but the console's file; the error is then a *BootError with StageQEMU, unless the
// machine is not valid. The context ends a launch, not a VM that has been launched.
func Launch(ctx context.Context, m Machine, o Options) (*VM, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if err := checkString("share", o.Share); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(o.Share) {
		return nil, fmt.Errorf("share %q is no absolute path", o.Share)
	}
	if err := m.checkNIC(o.NIC); err != nil {
		return nil, err
	}
	vm, err := launch(ctx, m, o)
	if err != nil {
		return nil, &BootError{Stage: StageQEMU, Err: err}
	}
	return vm, nil
}

func launch(ctx context.Context, m Machine, o Options) (*VM, error) {
	console, err := newConsole(o.Console, o.ConsoleBytes)
	if err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	ends, err := start(m, o)
	if err != nil {
		console.close()
		return nil, err
	}
	vm := &VM{
		qemu:      ends.qemu,
		agent:     ends.agent,
		console:   console,
		machine:   m,
		ports:     make([]*plugged, m.Ports),
		connected: make(chan struct{}),
		done:      make(chan struct{}),
	}
	go console.follow(ends.console)
	if vm.qmp, err = qmp.New(ctx, ends.qmp); err == nil {
		events, _ := vm.qmp.Subscribe("SHUTDOWN", "VSERPORT_CHANGE", "DEVICE_DELETED")
		go vm.follow(events)
		if o.Template == nil {
			err = vm.Resume(ctx)
		} else {
			err = vm.load(ctx)
		}
		if err == nil {
			return vm, nil
		}
	}
	// A broken connection says little: if QEMU died, its own last words are better.
	if isBroken(err) {
		select {
		case <-vm.qemu.Done():
		case <-ctx.Done():
		}
		if exit := vm.qemu.Err(); exit != nil {
			err = exit
		}
	}
	vm.qemu.Kill()
	<-console.done
	vm.agent.Close()
	return nil, err
}

// ends is a QEMU with our ends of its sockets.
type ends struct {
	qemu                *program.Program
	qmp, console, agent net.Conn
}

func (e *ends) close() {
	for _, conn := range []net.Conn{e.qmp, e.agent, e.console} {
		if conn != nil {
			conn.Close()
		}
	}
}

// handed are the files that QEMU gets.
type handed struct {
	files []*os.File
	ours  []*os.File // to close after that
}

// add hands on a file of ours, and returns QEMU's descriptor of it: program gives a program its files as 3, 4 and so on.
func (h *handed) add(file *os.File) int {
	h.ours = append(h.ours, file)
	return h.lend([]*os.File{file})[0]
}

// lend hands on files of the caller's.
func (h *handed) lend(files []*os.File) (fds []int) {
	for _, file := range files {
		fds = append(fds, 3+len(h.files))
		h.files = append(h.files, file)
	}
	return fds
}

func (h *handed) close() {
	for _, file := range h.ours {
		file.Close()
	}
}

// start starts QEMU on one end each of three new pairs of sockets. They are connected before it lives: its greeting
// needs no polling, and its death shows as the end of all three.
func start(m Machine, o Options) (_ *ends, err error) {
	e, theirs, b := &ends{}, &handed{}, Backends{Share: o.Share}
	defer theirs.close()
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	for _, s := range []struct {
		name string
		near *net.Conn
		fd   *int
	}{{"qmp", &e.qmp, &b.QMP}, {"agent", &e.agent, &b.Agent}, {"console", &e.console, &b.Console}} {
		near, far, err := socketPair(s.name)
		if err != nil {
			return nil, err
		}
		*s.near, *s.fd = near, theirs.add(far)
	}
	var memory *os.File
	switch {
	case o.memory != "":
		b.Role, b.Memory, b.Shared = TemplateRole, o.memory, true
	case o.Template != nil:
		state, err := o.Template.open(&b)
		if err != nil {
			return nil, err
		}
		theirs.add(state) // as stateURI says
	}
	b.Tap, b.VHost = theirs.lend(o.NIC.Tap), theirs.lend(o.NIC.VHost)
	if o.SharedMemory {
		if memory, err = newMemory(m.MemoryMiB); err != nil {
			return nil, err
		}
		b.Memory, b.Shared = fmt.Sprintf("/proc/self/fd/%d", theirs.add(memory)), true
	}
	if e.qemu, err = program.Start(program.Command{Path: m.QEMU, Args: m.Args(b), Files: theirs.files}); err != nil {
		return nil, err
	}
	if o.SharedMemory && o.Template != nil {
		if err := o.Template.copyMemory(memory); err != nil {
			e.qemu.Kill()
			return nil, err
		}
	}
	return e, nil
}

// socketPair returns two connected stream sockets: one to use here, one to hand on.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer near.Close()
	conn, err := net.FileConn(near) // which duplicates it
	if err != nil {
		far.Close()
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return conn, far, nil
}
