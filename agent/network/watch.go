package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watch is a socket that gets a message at each change of an interface of a namespace.
type watch struct {
	fd      int
	file    *os.File // the same
	message []byte
}

// newWatch makes a watch of the calling thread's namespace.
func newWatch() (*watch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	return &watch{fd, os.NewFile(uintptr(fd), "netlink"), make([]byte, 32<<10)}, nil
}

func (w *watch) close() { w.file.Close() }

// drain says whether there was a change since the last time. Messages that were lost, for nobody took them, are one.
func (w *watch) drain() bool {
	for changed := false; ; changed = true {
		_, _, err := unix.Recvfrom(w.fd, w.message[:1], 0)
		if err != nil && err != unix.ENOBUFS && err != unix.EINTR {
			return changed || err != unix.EAGAIN
		}
	}
}

// wait returns the next change, or nothing where messages were lost. It is valid until the next call.
func (w *watch) wait(ctx context.Context) (message, error) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		w.file.SetReadDeadline(time.Unix(1, 0))
		close(over)
	})
	count, err := w.file.Read(w.message)
	if !stop() {
		<-over
		w.file.SetReadDeadline(time.Time{})
		return nil, ctx.Err()
	}
	if errors.Is(err, unix.ENOBUFS) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	return w.message[:count], nil
}
