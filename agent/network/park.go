package network

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// Park makes an interface of a device before anybody has asked for it: up, with the name and the MTU that it will have
// most likely. In a guest that is to be cloned this takes most of the work out of the clones' starts. It is silent, for
// it has no address. The next request takes it, or sends it back, or leaves it where it is for the bare namespace. Park
// returns when the kernel has nothing more to tell about it, so that the next request need not look what there is.
func (n *Network) Park(ctx context.Context, device []byte) error {
	parked := &protocol.Interface{Device: device, Name: "eth0", Mtu: 1500, Up: true, NoLinkLocal: true}
	if err := n.Set(ctx, &protocol.SetNetworkRequest{Interfaces: []*protocol.Interface{parked}}); err != nil {
		return err
	}
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	for {
		change, err := n.atContainers.wait(ctx)
		if err != nil {
			return fmt.Errorf("park: %w", err)
		}
		const operational = 6 // IF_OPER_UP of linux/if.h: the kernel has seen the carrier
		if len(change) < unix.NLMSG_HDRLEN {
			continue
		}
		l := parseLink(change[unix.NLMSG_HDRLEN:])
		if state := l.attributes[unix.IFLA_OPERSTATE]; l.name() == parked.Name && len(state) == 1 && state[0] == operational {
			n.seen = nil
			_, _, err := n.look(nil)
			return err
		}
	}
}
