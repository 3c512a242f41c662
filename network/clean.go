package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Clean takes off what a killed process left in a network namespace: its taps, its redirects, and the qdiscs made for them.
// path names the namespace; "" is the current one. What a living process made stays, and so does all that is not ours. A
// namespace that is gone is no error.
func Clean(path string) error {
	if path == "" {
		return clean()
	}
	namespace, err := openNamespace(path)
	if err != nil || namespace == nil {
		return err
	}
	defer namespace.Close()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in another namespace now, and ends with this function
		if err := netns.Set(netns.NsHandle(namespace.Fd())); err != nil {
			result <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		result <- clean()
	}()
	return <-result
}

// openNamespace opens a namespace's file. nil means that it is gone: there is no file, or a plain one that a namespace was
// once mounted on.
func openNamespace(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOTDIR):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var fs unix.Statfs_t
	err = unix.Fstatfs(int(file.Fd()), &fs)
	switch {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("look at network namespace %s: %w", path, err), file.Close())
	case fs.Type != unix.NSFS_MAGIC:
		return nil, file.Close()
	}
	return file, nil
}

func clean() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	links, err := dump("interfaces", h.LinkList)
	if err != nil {
		return err
	}
	var all error
	for _, link := range links {
		a := link.Attrs()
		if !isOurs(link) || isOwned(a.Name) {
			continue
		}
		if err := h.LinkDel(link); err != nil && !isGone(err) {
			all = errors.Join(all, fmt.Errorf("remove %s: %w", a.Name, err))
		}
	}
	qdiscs, err := dump("qdiscs", func() ([]netlink.Qdisc, error) { return h.QdiscList(nil) })
	if err != nil {
		return errors.Join(all, err)
	}
	for _, qdisc := range qdiscs {
		a := qdisc.Attrs()
		if a.Parent != netlink.HANDLE_CLSACT {
			continue
		}
		if err := takeOff(h, a.LinkIndex, isMissing); err != nil {
			all = errors.Join(all, fmt.Errorf("clean interface %d: %w", a.LinkIndex, err))
		}
	}
	return all
}

// isMissing says whether the device that a redirect goes to is gone: the kernel forgets its index.
func isMissing(target int) bool {
	return target == 0
}
