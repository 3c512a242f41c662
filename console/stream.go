package console

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Stream takes f over and returns the same pipe, terminal or file in a form whose reads and writes end when it is
// closed by another goroutine. Pipes and terminals are opened a second time without blocking, so that the mode of the
// description that others share (a shell's terminal, say) stays as it is. Regular files never hang and keep their
// offset, sockets cannot be opened twice: these are returned as they are.
func Stream(f *os.File) (*os.File, error) {
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stdio: %w", err)
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFIFO && kind != unix.S_IFCHR {
		return f, nil
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("stdio: %w", err)
	}
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd),
		flags&(unix.O_ACCMODE|unix.O_APPEND)|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return f, nil
	}
	defer f.Close()
	return os.NewFile(uintptr(again), f.Name()), nil
}
