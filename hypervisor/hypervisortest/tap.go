package hypervisortest

import (
	"os"
	"runtime"
	"testing"

	"github.com/hyper-runtime/hyper/hypervisor"
	"golang.org/x/sys/unix"
)

// NIC returns the end of a new tap with that many queues, in a network namespace of its own that nobody else is in. Both
// are gone when nothing holds the files any more: the test's are closed at its end at the latest. It needs root.
func NIC(t testing.TB, queues int) hypervisor.NIC {
	t.Helper()
	var nic hypervisor.NIC
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine, and leaves no namespace to others
		failed <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			for range queues {
				file, err := openTap(queues > 1)
				if err != nil {
					return err
				}
				nic.Tap = append(nic.Tap, file)
			}
			return nil
		}()
	}()
	err := <-failed
	t.Cleanup(func() { Close(nic) })
	if err != nil {
		t.Fatal(err)
	}
	return nic
}

// Close closes the caller's files of a NIC, once or more.
func Close(nic hypervisor.NIC) {
	for _, file := range append(nic.Tap, nic.VHost...) {
		file.Close()
	}
}

// openTap returns a queue of this namespace's only tap, which it makes if there is none yet.
func openTap(several bool) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("open /dev/net/tun", err)
	}
	file := os.NewFile(uintptr(fd), "tap")
	request, err := unix.NewIfreq("tap")
	if err == nil {
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if several {
			flags |= unix.IFF_MULTI_QUEUE
		}
		request.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		file.Close()
		return nil, os.NewSyscallError("make tap", err)
	}
	return file, nil
}
