package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const threadNamespace = "/proc/thread-self/ns/net"

// namespace is an open network namespace.
type namespace struct{ fd int }

func openNamespace() (namespace, error) {
	fd, err := unix.Open(threadNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return namespace{-1}, fmt.Errorf("open network namespace: %w", err)
	}
	return namespace{fd}, nil
}

// makeNamespace makes a network namespace, mounts it at path, and raises its lo.
func makeNamespace(path string) (made namespace, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o400)
	if err != nil {
		return made, fmt.Errorf("make network namespace: %w", err)
	}
	file.Close()
	err = elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		if err := unix.Mount(threadNamespace, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount network namespace: %w", err)
		}
		if made, err = openNamespace(); err != nil {
			return err
		}
		return raiseLoopback()
	})
	return made, err
}

func raiseLoopback() error {
	route, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer route.close()
	const lo = 1 // always: LOOPBACK_IFINDEX
	if err := route.setLink(ifinfomsg(lo, unix.IFF_UP, unix.IFF_UP)); err != nil {
		return fmt.Errorf("raise lo: %w", err)
	}
	return nil
}

// inside runs do on a thread in the namespace. What do makes belongs to the namespace: sockets do.
func (n namespace) inside(do func() error) error {
	return elsewhere(func() error { return unix.Setns(n.fd, unix.CLONE_NEWNET) }, do)
}

// open makes sockets that speak to the namespace's rtnetlink, and that hear of its interfaces.
func (n namespace) open() (route *socket, links *watch, err error) {
	err = n.inside(func() (err error) {
		if route, err = dial(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		links, err = newWatch()
		return err
	})
	return route, links, err
}

// elsewhere runs do on a thread that enter has taken into another network namespace.
func elsewhere(enter, do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := openNamespace()
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer unix.Close(home.fd)
		if err = enter(); err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
		} else {
			err = do()
		}
		// A thread that cannot come home stays locked, and so ends with this goroutine.
		if back := unix.Setns(home.fd, unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
		} else {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}
