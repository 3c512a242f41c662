package keeper

import (
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/console"
	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/sandbox"
)

// takeStdio moves stdin, stdout and stderr away from 0, 1 and 2, so that nothing of our own is ever written to the
// container's readers, and the files can be closed as soon as the container closes them.
func takeStdio() (stdio [3]*os.File, err error) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return stdio, fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(null)
	for fd, name := range []string{"stdin", "stdout", "stderr"} {
		moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, requestFD+1)
		if err != nil {
			return stdio, fmt.Errorf("%s: %w", name, err)
		}
		stdio[fd] = os.NewFile(uintptr(moved), name)
		if err := unix.Dup3(null, fd, 0); err != nil {
			return stdio, fmt.Errorf("%s: %w", name, err)
		}
	}
	return stdio, nil
}

// newTerminal makes the terminal of a process, controls it, so that its size and hang-up reach us as signals, and gives
// its master to the engine at the socket.
func newTerminal(socket string, process *specs.Process) (*os.File, error) {
	master, slave, err := console.Open()
	if err != nil {
		return nil, err
	}
	defer master.Close()
	if size := process.ConsoleSize; size != nil {
		if err := console.SetSize(master, uint32(size.Width), uint32(size.Height)); err != nil {
			slave.Close()
			return nil, err
		}
	}
	if err := console.Control(slave); err != nil {
		slave.Close()
		return nil, err
	}
	if err := console.Send(socket, master); err != nil {
		slave.Close()
		return nil, err
	}
	return slave, nil
}

// openTerminal is the terminal of a container's process, if that has one: the caller's own, which came with the
// connection, or a new one for the engine.
func openTerminal(r *api.OpenRequest, p *specs.Process, own *os.File) (*os.File, error) {
	switch {
	case p == nil || !p.Terminal:
		return nil, nil
	case !r.OwnTerminal:
		return newTerminal(r.ConsoleSocket, p)
	case own == nil:
		return nil, errors.New("the caller's terminal is missing")
	}
	if w, h, err := console.Size(own); err == nil && w > 0 {
		p.ConsoleSize = &specs.Box{Width: uint(w), Height: uint(h)}
	}
	return duplicate(own)
}

// containerStdio is the stdio of the container's process. The sandbox closes it when it is done; the terminal stays open
// here too, for its size.
func (k *keeper) containerStdio() (sandbox.Stdio, error) {
	if k.terminal == nil {
		return sandbox.Stdio{In: k.stdio[0], Out: k.stdio[1], Err: k.stdio[2]}, nil
	}
	if k.ownTerminal {
		k.stdio[2].Close()
		return sandbox.Stdio{In: k.stdio[0], Out: k.stdio[1], OwnTerminal: true}, nil
	}
	in, err := duplicate(k.terminal)
	if err != nil {
		return sandbox.Stdio{}, err
	}
	out, err := duplicate(k.terminal)
	if err != nil {
		in.Close()
		return sandbox.Stdio{}, err
	}
	for _, f := range k.stdio {
		f.Close()
	}
	return sandbox.Stdio{In: in, Out: out}, nil
}

// stdioOf gives the files that came with a connection their meaning; two are a terminal.
func stdioOf(files []*os.File) sandbox.Stdio {
	files = append(files, nil, nil, nil)
	return sandbox.Stdio{In: files[0], Out: files[1], Err: files[2]}
}

// duplicate is a second descriptor of the file.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, requestFD+1)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
