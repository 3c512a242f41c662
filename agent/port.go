package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// port is a virtio-serial port. It can be opened once only (drivers/char/virtio_console.c), so while the agent has it
// no container can.
type port struct {
	*os.File
	raw syscall.RawConn
	met bool // a byte of the host's has come
}

// openPort waits for the port of this name and opens it.
func openPort(name string) (*port, error) {
	path, err := awaitPort(name)
	if err != nil {
		return nil, fmt.Errorf("find port %s: %w", name, err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &port{File: file, raw: raw}, nil
}

// Read reads from the host. A port without a host reads as ended: before the first byte that means that the host is
// not there yet.
func (p *port) Read(b []byte) (int, error) {
	n, err := p.File.Read(b)
	for err == io.EOF && !p.met {
		// The callback is called again after each event of the port.
		err = p.raw.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, perr := unix.Poll(poll, 0)
			return perr == nil && poll[0].Revents&unix.POLLHUP == 0
		})
		if err == nil {
			n, err = p.File.Read(b)
		}
	}
	p.met = p.met || n > 0
	return n, err
}

// awaitPort returns the device of the port as soon as the kernel has it under this name.
func awaitPort(name string) (string, error) {
	// The kernel's messages about devices: netlink(7), NETLINK_KOBJECT_UEVENT, group 1.
	events, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return "", err
	}
	defer unix.Close(events)
	if err := unix.Bind(events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return "", err
	}
	message := make([]byte, 8192)
	for {
		if path := lookupPort(name); path != "" {
			return path, nil
		}
		for {
			n, _, err := unix.Recvfrom(events, message, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if errors.Is(err, unix.ENOBUFS) { // messages were lost
				break
			}
			if err != nil {
				return "", err
			}
			if bytes.Contains(message[:n], []byte("\x00SUBSYSTEM=virtio-ports\x00")) {
				break
			}
		}
	}
}

// lookupPort returns the device of a port that the kernel has named already, or "".
func lookupPort(name string) string {
	const class = "/sys/class/virtio-ports"
	ports, _ := os.ReadDir(class) // there is none before the driver has a device
	for _, entry := range ports {
		text, err := os.ReadFile(filepath.Join(class, entry.Name(), "name"))
		if err == nil && strings.TrimSpace(string(text)) == name {
			return filepath.Join("/dev", entry.Name())
		}
	}
	return ""
}
