package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	tunDevice   = "/dev/net/tun"
	vhostDevice = "/dev/vhost-net"
)

// Tap is a network device whose frames a VMM reads and writes: a tap beside an interface, or a macvtap on top of one. It
// is not for concurrent use.
type Tap struct {
	owner  owner
	index  int
	files  []*os.File
	vhost  []*os.File
	joined int // index of the joined interface; 0: none
	// lower is the index of the interface below a macvtap; 0: a tap.
	lower int
}

// NewTap makes a tap with so many queues (at least 1) in the current network namespace, for QEMU's option
// "-netdev tap,fds=...". It is joined to nothing yet, has no addresses and is gone when the last of its files is closed.
// Frames have a virtio_net_hdr before them; QEMU sets its size and the offloads.
func NewTap(queues int) (*Tap, error) {
	t, err := newTap(queues, func(o owner) ([]*os.File, error) { return openTap(o.name, queues) })
	if err != nil {
		return nil, fmt.Errorf("make a tap: %w", err)
	}
	return t, nil
}

// newTap does what taps and macvtaps have in common; open makes the device and opens its queues.
func newTap(queues int, open func(owner) ([]*os.File, error)) (t *Tap, err error) {
	if queues < 1 {
		return nil, fmt.Errorf("%d queues", queues)
	}
	t = &Tap{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return t, err
	}
	defer h.Close()
	if t.owner, err = own(); err != nil {
		return t, err
	}
	if t.files, err = open(t.owner); err != nil {
		return t, err
	}
	link, err := h.LinkByName(t.owner.name)
	if err != nil {
		return t, err
	}
	t.index = link.Attrs().Index
	// Without a link-local address the namespace's IPv6 says nothing on the tap. A kernel without IPv6 knows no such mode.
	err = h.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return t, fmt.Errorf("turn IPv6 addresses off: %w", err)
	}
	if t.vhost, err = openVHost(queues); err != nil {
		return t, err
	}
	return t, nil
}

// openTap makes a tap of that name, and one file for each queue.
func openTap(name string, queues int) ([]*os.File, error) {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	var files []*os.File
	for range queues {
		exclusive := uint16(0)
		if len(files) == 0 {
			exclusive = unix.IFF_TUN_EXCL // a new one, and nobody else's
		}
		file, err := openQueue(unix.AT_FDCWD, tunDevice, name, flags|exclusive)
		if err != nil {
			return files, err
		}
		files = append(files, file)
	}
	return files, nil
}

// openQueue opens one queue. The descriptor is made non-blocking after it has become a queue: before that it cannot be
// polled.
func openQueue(dir int, path, name string, flags uint16) (*os.File, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(flags)
	fd, err := unix.Openat(dir, path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, errors.Join(fmt.Errorf("make a queue of %s: %w", name, err), unix.Close(fd))
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

// HasVHost says whether this host's kernel can move a tap's frames by itself (vhost-net).
func HasVHost() bool {
	files, err := openVHost(1)
	closeAll(files)
	return err == nil && len(files) == 1
}

// openVHost opens vhost-net once for each queue. A host without it is no error.
func openVHost(queues int) ([]*os.File, error) {
	var files []*os.File
	for range queues {
		file, err := os.OpenFile(vhostDevice, os.O_RDWR, 0)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO), errors.Is(err, os.ErrPermission):
			closeAll(files)
			return nil, nil
		case err != nil:
			closeAll(files)
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// Files are the queues, for QEMU's fds. They may be closed when QEMU has them.
func (t *Tap) Files() []*os.File { return t.files }

// VHost are as many open vhost-net as there are queues, for QEMU's vhostfds; none where the host has none. They may be
// closed when QEMU has them.
func (t *Tap) VHost() []*os.File { return t.vhost }

// Stay keeps the tap when its files are closed: it goes with its namespace. The kernel takes tens of milliseconds to take a
// device out of a namespace that lives on, and does it by the way in one that ends.
func (t *Tap) Stay() error {
	if t.lower != 0 {
		return nil // a macvtap always does
	}
	if err := unix.IoctlSetInt(int(t.files[0].Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep %s: %w", t.owner.name, err)
	}
	return nil
}

// Close takes the tap off its interface and out of the namespace, also while QEMU has it open. Things that have vanished
// are no error.
func (t *Tap) Close() error {
	err := t.Leave()
	if t.index != 0 {
		err = errors.Join(err, remove(t.index, t.owner.name))
		t.index = 0
	}
	err = errors.Join(err, closeAll(t.files), closeAll(t.vhost))
	if t.owner.socket != nil {
		err = errors.Join(err, closeAll([]*os.File{t.owner.socket}))
	}
	return err
}

// remove takes a device out of the namespace.
func remove(index int, name string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.LinkDel(linkAt(index)); err != nil && !isGone(err) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

func closeAll(files []*os.File) error {
	var all error
	for _, file := range files {
		if err := file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// linkAt names a device to the netlink module, which uses nothing of it but the index.
func linkAt(index int) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

// isGone says whether an error means that the device, or what was on it, is not there.
func isGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT)
}
