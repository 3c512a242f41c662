package network

import (
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"
)

// clear takes away what was made and is not wanted any more: interfaces go back to the agent's namespace, down.
func (n *Network) clear(want settings, there devices) error {
	wanted := map[string]bool{}
	for _, w := range want.interfaces {
		wanted[w.device] = true
	}
	for device := range n.made.interfaces {
		if _, here := there.contained[device]; !here { // unplugged, or a container took it elsewhere
			n.made.forget(device)
			delete(n.made.interfaces, device)
		}
	}
	for device, l := range there.contained {
		if !wanted[device] {
			if err := n.release(l); err != nil {
				return fmt.Errorf("take away interface %s: %w", l.name(), err)
			}
			n.made.forget(device)
			delete(n.made.interfaces, device)
			delete(there.contained, device)
			continue
		}
		n.made.index[device] = l.index
	}
	err := remove(n.made.routes, want.routes, func(r route) error {
		return n.inContainers.setRoute(unix.RTM_DELROUTE, 0, n.made.index[r.device], r)
	})
	if err != nil {
		return err
	}
	err = remove(n.made.neighbours, want.neighbours, func(x neighbour) error {
		return n.inContainers.setNeighbour(unix.RTM_DELNEIGH, 0, n.made.index[x.device], x)
	})
	if err != nil {
		return err
	}
	poorer := map[string]bool{}
	err = remove(n.made.addresses, want.addresses, func(a address) error {
		poorer[a.device] = true
		return n.inContainers.setAddress(unix.RTM_DELADDR, 0, n.made.index[a.device], a)
	})
	for device := range poorer {
		n.made.forget(device) // the kernel removes routes from the address, and other addresses of its network
	}
	return err
}

// release sends an interface back. It may find its name taken there.
func (n *Network) release(l link) error {
	b := ifinfomsg(l.index, 0, unix.IFF_UP)
	b = attribute(b, unix.IFLA_NET_NS_FD, number(uint32(n.home.fd)))
	b = attribute(b, unix.IFLA_IFNAME, text("eth%d"))
	return n.inContainers.setLink(b)
}

// place makes the interfaces as they are wanted.
func (n *Network) place(want []iface, there devices) error {
	if err := n.freeNames(want, there); err != nil {
		return err
	}
	for _, w := range want {
		_, contained := there.contained[w.device]
		if contained && n.made.interfaces[w.device] == w {
			continue
		}
		old := n.made.interfaces[w.device]
		n.made.forget(w.device)
		n.made.interfaces[w.device] = iface{}
		var err error
		if !contained {
			n.made.index[w.device], err = n.move(there.free[w.device], w.name)
			old.name = w.name
		}
		if err == nil {
			err = n.change(n.made.index[w.device], old, w)
		}
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("the containers have another interface of this name: %w", err)
		}
		if err != nil {
			return fmt.Errorf("set interface %s: %w", w.name, err)
		}
		n.made.interfaces[w.device] = w
	}
	return nil
}

// move moves an interface to the containers' namespace, under a name, and returns its index there.
func (n *Network) move(l link, name string) (uint32, error) {
	b := attribute(ifinfomsg(l.index, 0, 0), unix.IFLA_NET_NS_FD, number(uint32(n.containers.fd)))
	if err := l.at.setLink(attribute(b, unix.IFLA_IFNAME, text(name))); err != nil {
		return 0, err
	}
	moved, err := n.inContainers.link(name)
	return moved.index, err
}

// change makes w of the interface, which was made as old says, as far as that is known.
func (n *Network) change(index uint32, old, w iface) error {
	known := old.device != ""
	plain := ifinfomsg(index, 0, 0)
	b := plain
	if old.name != w.name {
		b = attribute(b, unix.IFLA_IFNAME, text(w.name))
	}
	if w.mac != "" && old.mac != w.mac {
		b = attribute(b, unix.IFLA_ADDRESS, []byte(w.mac))
	}
	if w.mtu != 0 && old.mtu != w.mtu {
		b = attribute(b, unix.IFLA_MTU, number(w.mtu))
	}
	if len(b) > len(plain) {
		if err := n.inContainers.setLink(b); err != nil {
			return err
		}
	}
	if !known {
		// Which addresses there are is for the host to say: when it goes up the kernel makes none.
		const none = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
		mode := nested(nil, unix.AF_INET6, attribute(nil, unix.IFLA_INET6_ADDR_GEN_MODE, []byte{none}))
		err := n.inContainers.setLink(nested(ifinfomsg(index, 0, 0), unix.IFLA_AF_SPEC, mode))
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) { // it cannot have one of IPv6
			return err
		}
	}
	if known && old.up == w.up && old.noARP == w.noARP {
		return nil
	}
	var flags uint32
	if w.up {
		flags |= unix.IFF_UP
	}
	if w.noARP {
		flags |= unix.IFF_NOARP
	}
	return n.inContainers.setLink(ifinfomsg(index, flags, unix.IFF_UP|unix.IFF_NOARP))
}

// freeNames gives other names, for a moment, to interfaces of ours whose names others of ours shall have.
func (n *Network) freeNames(want []iface, there devices) error {
	holders := map[string]string{} // by name
	for device, l := range there.contained {
		holders[l.name()] = device
	}
	for _, w := range want {
		holder := holders[w.name]
		if holder == "" || holder == w.device {
			continue
		}
		b := attribute(ifinfomsg(n.made.index[holder], 0, 0), unix.IFLA_IFNAME, text("swap%d"))
		if err := n.inContainers.setLink(b); err != nil {
			return fmt.Errorf("free the name %s: %w", w.name, err)
		}
		delete(n.made.interfaces, holder) // so that its name is made again
	}
	return nil
}

// fill gives the interfaces what belongs to them. Routes are in an order that the kernel takes. A route is appended, so
// that those of one destination and metric stay in the order of the request.
func (n *Network) fill(want settings) error {
	const replace = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	err := add(n.made.addresses, want.addresses, func(a address) error {
		err := n.inContainers.setAddress(unix.RTM_NEWADDR, replace, n.made.index[a.device], a)
		if a.optional && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	err = add(n.made.routes, want.routes, func(r route) error {
		return n.inContainers.setRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, n.made.index[r.device], r)
	})
	if err != nil {
		return err
	}
	return add(n.made.neighbours, want.neighbours, func(x neighbour) error {
		return n.inContainers.setNeighbour(unix.RTM_NEWNEIGH, replace, n.made.index[x.device], x)
	})
}

// forget drops what the kernel drops with the interface or at a change of it, so that it is made again where it is still
// wanted: making what is there does nothing.
func (m *made) forget(device string) {
	maps.DeleteFunc(m.addresses, func(a address, _ bool) bool { return a.device == device })
	maps.DeleteFunc(m.routes, func(r route, _ bool) bool { return r.device == device || r.source.IsValid() })
	maps.DeleteFunc(m.neighbours, func(x neighbour, _ bool) bool { return x.device == device })
}

// item is an address, a route or a neighbour.
type item interface {
	comparable
	String() string
}

// add makes the items that are wanted and were not made.
func add[T item](made map[T]bool, want []T, do func(T) error) error {
	for _, item := range want {
		if made[item] {
			continue
		}
		if err := do(item); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add %s: %w", item, err)
		}
		made[item] = true
	}
	return nil
}

// remove takes away the items that were made and are not wanted.
func remove[T item](made map[T]bool, want []T, do func(T) error) error {
	wanted := map[T]bool{}
	for _, item := range want {
		wanted[item] = true
	}
	for item := range made {
		if wanted[item] {
			continue
		}
		if err := do(item); err != nil && !gone(err) {
			return fmt.Errorf("remove %s: %w", item, err)
		}
		delete(made, item)
	}
	return nil
}

// gone says whether what was to be removed was not there.
func gone(err error) bool {
	for _, errno := range []unix.Errno{unix.ESRCH, unix.ENOENT, unix.ENODEV, unix.EADDRNOTAVAIL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
