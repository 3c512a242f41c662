package network

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NewMacvtap makes a macvtap with so many queues on top of the interface, in the mode passthru: it is the interface's only
// one, has its hardware address and gets all its frames. It is for QEMU as a tap is, has the interface's MTU, and is joined
// to that interface from the beginning; Join sets it up. Only Close removes it.
func NewMacvtap(i Interface, queues int) (*Tap, error) {
	t, err := newTap(queues, func(o owner) ([]*os.File, error) { return openMacvtap(o.name, i, queues) })
	if err != nil {
		return nil, fmt.Errorf("make a macvtap on interface %s: %w", i.Name, err)
	}
	t.lower = i.Index
	return t, nil
}

func openMacvtap(name string, i Interface, queues int) (files []*os.File, err error) {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.ParentIndex = name, i.Index
	link := &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attributes, Mode: netlink.MACVLAN_MODE_PASSTHRU}}
	if err := netlink.LinkAdd(link); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(link.Index, name))
		}
	}()
	device, err := macvtapDevice(name, link.Index)
	if err != nil {
		return nil, fmt.Errorf("find its device: %w", err)
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	return openDevice(device, name, flags, queues)
}

// macvtapDevice reads a macvtap's device number. A mounted sysfs shows the network namespace that it was mounted in, which
// need not be this one; so we ask one of our own.
func macvtapDevice(name string, index int) (uint64, error) {
	sysfs, err := privateMount("sysfs")
	if err != nil {
		return 0, err
	}
	defer sysfs.Close()
	path := fmt.Sprintf("class/net/%s/tap%d/dev", name, index)
	fd, err := unix.Openat(int(sysfs.Fd()), path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		return 0, err
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
	ma, majorErr := strconv.ParseUint(major, 10, 32)
	mi, minorErr := strconv.ParseUint(minor, 10, 32)
	return unix.Mkdev(uint32(ma), uint32(mi)), errors.Join(majorErr, minorErr)
}

// openDevice opens a device number once for each queue. /dev need not have a node for it (a container's has not), so the
// node is made in a file system of our own, which is gone when this function returns.
func openDevice(device uint64, name string, flags uint16, queues int) ([]*os.File, error) {
	tmpfs, err := privateMount("tmpfs")
	if err != nil {
		return nil, err
	}
	defer tmpfs.Close()
	dir := int(tmpfs.Fd())
	if err := unix.Mknodat(dir, name, unix.S_IFCHR|0o600, int(device)); err != nil {
		return nil, fmt.Errorf("make its device: %w", err)
	}
	var files []*os.File
	for range queues {
		file, err := openQueue(dir, name, name, flags)
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
		files = append(files, file)
	}
	return files, nil
}

// privateMount mounts a file system nowhere: only the returned directory leads to it (Linux 5.2, fsopen).
func privateMount(kind string) (*os.File, error) {
	context, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open a %s: %w", kind, err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, fmt.Errorf("make a %s: %w", kind, err)
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount a %s: %w", kind, err)
	}
	return os.NewFile(uintptr(fd), kind), nil
}
