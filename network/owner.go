package network

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namePrefix starts the name of every tap of ours.
const namePrefix = "hyper"

// owner holds the name of a tap. The name is "hyper" and five hexadecimal digits, which are the abstract address of a unix
// socket of the same network namespace. The kernel chooses it, so that no two taps have the same; and when the process
// that made the tap is gone, however it ended, so is the address. Thus anyone in the namespace can see whether a tap is a
// left-over, also from another PID namespace.
type owner struct {
	name   string
	socket *os.File
}

func own() (owner, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return owner{}, fmt.Errorf("name a tap: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "owner of a tap")
	// An address without a name lets the kernel choose one (unix(7), autobind).
	if err := unix.Bind(fd, &unix.SockaddrUnix{}); err != nil {
		return owner{}, errors.Join(fmt.Errorf("name a tap: %w", err), socket.Close())
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		return owner{}, errors.Join(fmt.Errorf("name a tap: %w", err), socket.Close())
	}
	abstract, ok := address.(*unix.SockaddrUnix)
	if !ok || len(abstract.Name) != 6 || abstract.Name[0] != '@' {
		return owner{}, errors.Join(errors.New("name a tap: the kernel chose no abstract address"), socket.Close())
	}
	return owner{name: namePrefix + abstract.Name[1:], socket: socket}, nil
}

// isOwned says whether the maker of the tap with that name still lives. The answer is yes in doubt.
func isOwned(name string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + strings.TrimPrefix(name, namePrefix)})
	return !errors.Is(err, unix.ECONNREFUSED)
}

// isOurs knows a tap of ours, of this or another process.
func isOurs(link netlink.Link) bool {
	if link.Type() != "tuntap" && link.Type() != "macvtap" {
		return false
	}
	return isOurName(link.Attrs().Name)
}

func isOurName(name string) bool {
	digits, ok := strings.CutPrefix(name, namePrefix)
	return ok && len(digits) == 5 && strings.Trim(digits, "0123456789abcdef") == ""
}
