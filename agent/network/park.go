package network

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// Park makes an interface of a device before anybody has asked for it: up, with the name and the MTU that it will have
// most likely. In a guest that is to be cloned this takes most of the work out of the clones' starts. It is silent, for
// it has no address. The next request takes it, or sends it back. Park returns when the kernel has nothing more to tell
// about it, so that the next request need not look what there is.
func (n *Network) Park(ctx context.Context, device []byte) error {
	fd, err := n.containers.watchLinks()
	if err != nil {
		return err
	}
	events := os.NewFile(uintptr(fd), "netlink")
	defer events.Close()
	defer interrupt(ctx, events)()
	const name = "eth0"
	parked := &protocol.Interface{Device: device, Name: name, Mtu: 1500, Up: true, NoLinkLocal: true}
	if err := n.Set(ctx, &protocol.SetNetworkRequest{Interfaces: []*protocol.Interface{parked}}); err != nil {
		return err
	}
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	for message := make([]byte, 32<<10); ; {
		l, err := n.inContainers.link(name)
		if err != nil {
			return fmt.Errorf("park: %w", err)
		}
		const operational = 6 // IF_OPER_UP of linux/if.h: the carrier was seen
		if state := l.attributes[unix.IFLA_OPERSTATE]; len(state) == 1 && state[0] == operational {
			break
		}
		if _, err := events.Read(message); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("park %s: %w", name, err)
		}
	}
	_, _, err = n.look(nil)
	return err
}
