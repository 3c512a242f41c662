package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openPort waits for the virtio-serial port of this name and opens it. It can be opened once only (the kernel's
// drivers/char/virtio_console.c), so while the agent has it no container can.
func openPort(name string) (*os.File, error) {
	path, err := awaitPort(name)
	if err != nil {
		return nil, fmt.Errorf("find port %s: %w", name, err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// awaited is a port before the session. A port without a host reads as ended: here that means that no host is there
// yet, or that the next one is not.
type awaited struct {
	*os.File
}

// Read waits for a host, and reads from it.
func (p awaited) Read(b []byte) (int, error) {
	for {
		n, err := p.File.Read(b)
		if err != io.EOF {
			return n, err
		}
		raw, err := p.SyscallConn()
		if err != nil {
			return 0, err
		}
		// The callback is called again after each event of the port.
		err = raw.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, perr := unix.Poll(poll, 0)
			return perr == nil && poll[0].Revents&unix.POLLHUP == 0
		})
		if err != nil {
			return 0, err
		}
	}
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
