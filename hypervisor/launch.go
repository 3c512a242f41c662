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
	// Template is what the VM is a clone of. Nil means that it boots.
	Template *Template

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
		connected: make(chan struct{}),
		done:      make(chan struct{}),
	}
	go console.follow(ends.console)
	if vm.qmp, err = qmp.New(ctx, ends.qmp); err == nil {
		events, _ := vm.qmp.Subscribe("SHUTDOWN", "VSERPORT_CHANGE")
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

// start starts QEMU on one end each of three new pairs of sockets. They are connected before it lives: its greeting
// needs no polling, and its death shows as the end of all three.
func start(m Machine, o Options) (*ends, error) {
	var ours []net.Conn
	var theirs []*os.File
	closeOurs := func() {
		for _, conn := range ours {
			conn.Close()
		}
	}
	defer func() {
		for _, file := range theirs {
			file.Close()
		}
	}()
	for _, name := range []string{"qmp", "agent", "console"} {
		conn, file, err := socketPair(name)
		if err != nil {
			closeOurs()
			return nil, err
		}
		ours, theirs = append(ours, conn), append(theirs, file)
	}
	// program gives a program its files as 3, 4 and so on.
	backends := Backends{Share: o.Share, QMP: 3, Agent: 4, Console: 5}
	switch {
	case o.memory != "":
		backends.Role, backends.Memory = TemplateRole, o.memory
	case o.Template != nil:
		state, err := o.Template.open(&backends)
		if err != nil {
			closeOurs()
			return nil, err
		}
		theirs = append(theirs, state)
	}
	qemu, err := program.Start(program.Command{Path: m.QEMU, Args: m.Args(backends), Files: theirs})
	if err != nil {
		closeOurs()
		return nil, err
	}
	return &ends{qemu: qemu, qmp: ours[0], agent: ours[1], console: ours[2]}, nil
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
