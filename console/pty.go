// Package console deals in the host's side of a container's input and output: terminals, the console socket of
// engines, and streams whose hanging reads and writes end when they are closed.
package console

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open makes a pseudo terminal pair. The slave is raw: the line discipline that users see is the guest's.
func Open() (master, slave *os.File, err error) {
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(m), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	// TIOCGPTPEER (ioctl_tty(2)) needs no path, so it works in any mount namespace.
	s, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		master.Close()
		return nil, nil, fmt.Errorf("open terminal: %w", errno)
	}
	slave = os.NewFile(s, "terminal")
	if _, err := Raw(slave); err != nil {
		master.Close()
		slave.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// Control makes the terminal f the controlling one of this process, which must lead a session: from then on a change
// of the terminal's size arrives as SIGWINCH and its hang-up as SIGHUP.
func Control(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("control terminal: %w", err)
	}
	return nil
}

// IsTerminal tells whether f is a terminal.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Own is the terminal of this process: the first of stdin, stdout and stderr that is one, or else the controlling one. It
// stays open as long as the process lives.
func Own() (*os.File, error) {
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if IsTerminal(f) {
			return f, nil
		}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("find own terminal: %w", err)
	}
	return tty, nil
}

// Raw switches the terminal f to raw mode, as cfmakeraw(3) does, and returns what switches it back.
func Raw(f *os.File) (restore func() error, err error) {
	return setMode(f, func(t *unix.Termios) { t.Oflag &^= unix.OPOST })
}

// RawInput is Raw with the processing of output left on: the terminal makes \r\n of \n, where that is its mode, also for
// others that write to it.
func RawInput(f *os.File) (restore func() error, err error) {
	return setMode(f, func(t *unix.Termios) { t.Oflag |= unix.OPOST })
}

func setMode(f *os.File, output func(*unix.Termios)) (restore func() error, err error) {
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read terminal mode: %w", err)
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	output(&raw)
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag &^= unix.CSIZE | unix.PARENB
	raw.Cflag |= unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("set terminal mode: %w", err)
	}
	return func() error { return unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}

// Size returns the columns and rows of the terminal f; both are 0 when nobody has set them.
func Size(f *os.File) (width, height uint32, err error) {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, fmt.Errorf("read terminal size: %w", err)
	}
	return uint32(ws.Col), uint32(ws.Row), nil
}

// SetSize sets the columns and rows of the terminal f.
func SetSize(f *os.File, width, height uint32) error {
	ws := &unix.Winsize{Col: uint16(width), Row: uint16(height)}
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, ws); err != nil {
		return fmt.Errorf("set terminal size: %w", err)
	}
	return nil
}
