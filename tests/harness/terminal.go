package harness

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is the master end of a pty, with everything that came out of it.
type Terminal struct {
	*os.File
	*Output
	h *Host
}

// OpenTerminal makes a pty and returns both ends.
func (h *Host) OpenTerminal() (*Terminal, *os.File) {
	h.T.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		h.T.Fatal(err)
	}
	var number int
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		var err error
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err != nil {
		h.T.Fatalf("unlock pty: %v", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		h.T.Fatal(err)
	}
	return h.terminal(master), slave
}

// terminal starts to gather a master's output.
func (h *Host) terminal(master *os.File) *Terminal {
	return &Terminal{File: master, Output: Collect(master), h: h}
}

// Type writes keys to the terminal.
func (t *Terminal) Type(keys string) {
	t.h.T.Helper()
	if _, err := t.WriteString(keys); err != nil {
		t.h.T.Error(err)
	}
}

// Resize sets the terminal's size.
func (t *Terminal) Resize(columns, rows uint16) {
	t.h.T.Helper()
	err := control(t.File, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
	if err != nil {
		t.h.T.Error(err)
	}
}

// Modes reads the settings of a terminal.
func (h *Host) Modes(f *os.File) unix.Termios {
	h.T.Helper()
	var modes *unix.Termios
	err := control(f, func(fd int) (err error) {
		modes, err = unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	})
	if err != nil {
		h.T.Fatal(err)
	}
	return *modes
}

// control calls f with the descriptor of file, which stays in Go's poller: File.Fd would take it out.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// ConsoleSocket is a socket for --console-socket.
type ConsoleSocket struct {
	Path     string
	listener *net.UnixListener
	h        *Host
}

// ListenConsole makes a console socket.
func (h *Host) ListenConsole() *ConsoleSocket {
	h.T.Helper()
	path := h.Path("console.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(func() { listener.Close() }) // if it was not received from
	return &ConsoleSocket{Path: path, listener: listener, h: h}
}

// Receive takes the terminal that the runtime sends, and closes the socket.
func (s *ConsoleSocket) Receive() *Terminal {
	s.h.T.Helper()
	defer s.listener.Close()
	if err := s.listener.SetDeadline(time.Now().Add(Patience)); err != nil {
		s.h.T.Fatal(err)
	}
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		s.h.T.Fatalf("no connection to the console socket: %v", err)
	}
	defer conn.Close()
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		s.h.T.Fatal(err)
	}
	fd, err := passedFd(oob[:n])
	if err != nil {
		s.h.T.Fatalf("console socket: %v", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // lets Go poll it
		s.h.T.Fatal(err)
	}
	return s.h.terminal(os.NewFile(uintptr(fd), "console"))
}

// passedFd is the one descriptor in a control message.
func passedFd(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	if len(messages) != 1 {
		return -1, fmt.Errorf("%d control messages, want 1", len(messages))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		return -1, fmt.Errorf("%d descriptors, want 1", len(fds))
	}
	return fds[0], nil
}
