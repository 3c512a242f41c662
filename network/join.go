package network

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Join makes every frame that comes into the interface come out of the tap, and every frame that the guest writes to the tap
// leave by the interface; the tap gets the interface's MTU. The interface keeps its addresses and its link state: while it is
// down, or in other hands, no frame passes. It can be called again, with the same interface (after its MTU changed, after its
// filters were lost) or with another, which is left first. An interface whose frames go elsewhere already, such as to another
// VM, is an error, and so is one that has vanished (ENODEV). On an error the tap is joined to nothing.
func (t *Tap) Join(i Interface) error {
	if err := t.join(i); err != nil {
		return errors.Join(fmt.Errorf("join interface %s: %w", i.Name, err), t.Leave())
	}
	return nil
}

func (t *Tap) join(i Interface) error {
	if t.lower != 0 && t.lower != i.Index {
		return fmt.Errorf("the macvtap %s is on another interface", t.owner.name)
	}
	if t.joined != 0 && t.joined != i.Index {
		if err := t.Leave(); err != nil {
			return err
		}
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.LinkSetMTU(linkAt(t.index), i.MTU); err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", t.owner.name, i.MTU, err)
	}
	t.joined = i.Index
	if t.lower == 0 {
		if err := add(h, i.Index, t.index); err != nil {
			return err
		}
		if err := add(h, t.index, i.Index); err != nil {
			return err
		}
	}
	if err := h.LinkSetUp(linkAt(t.index)); err != nil {
		return fmt.Errorf("set %s up: %w", t.owner.name, err)
	}
	return nil
}

// Leave undoes Join: no filter and no qdisc of ours stays on the interface. The tap is set down before, so that the guest
// never talks to the namespace's own kernel. Things that have vanished are no error. A macvtap stays on its interface until
// Close.
func (t *Tap) Leave() error {
	if t.index == 0 || t.joined == 0 {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	if err := h.LinkSetDown(linkAt(t.index)); err != nil && !isGone(err) {
		return fmt.Errorf("set %s down: %w", t.owner.name, err)
	}
	if t.lower == 0 {
		interfaceErr := takeOff(h, t.joined, func(target int) bool { return target == t.index })
		tapErr := takeOff(h, t.index, func(int) bool { return true })
		if err := errors.Join(interfaceErr, tapErr); err != nil {
			return fmt.Errorf("leave the interface of %s: %w", t.owner.name, err)
		}
	}
	t.joined = 0
	return nil
}
