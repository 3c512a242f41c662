package network

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attempts is how often a dump is asked for when the tables change under it.
const attempts = 20

// Scan reads what the network namespace has for its containers: every interface with an Ethernet link layer, its
// addresses, routes of all tables but local, and permanent neighbours.
//
// Left out are: lo; interfaces without Ethernet (sit0, tunl0, WireGuard); our own taps; members of a bridge or bond of the
// same namespace; ifb and vrf devices; and what the guest's kernel makes by itself as this one did: the link-local address
// of an interface, addresses and routes from router advertisements, the routes that come with an address. Rules, routes with
// an encapsulation, and all next hops of a route but its first usable one are left out too. Something that vanishes while
// it is read is no error. To miss no change, Watch first.
func Scan() (State, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return State{}, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	links, err := dump("interfaces", h.LinkList)
	if err != nil {
		return State{}, err
	}
	addresses, err := dump("addresses", func() ([]netlink.Addr, error) { return h.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return State{}, err
	}
	routes, err := listRoutes(h)
	if err != nil {
		return State{}, err
	}
	neighbours, err := listNeighbours(h)
	if err != nil {
		return State{}, err
	}

	s := scan{interfaces: map[int]*Interface{}, promised: map[onLink]bool{}}
	s.addLinks(links)
	s.addAddresses(addresses, routes)
	return State{Interfaces: s.sorted(), Routes: s.routes(routes), Neighbours: s.neighbours(neighbours)}, nil
}

// dump asks again when the kernel says that what it listed is not of one piece (NLM_F_DUMP_INTR).
func dump[T any](what string, list func() ([]T, error)) ([]T, error) {
	var all []T
	var err error
	for range attempts {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP): // a kernel without IPv6
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("list %s: %w", what, err)
	}
	return all, nil
}

// scan is what Scan knows so far.
type scan struct {
	interfaces map[int]*Interface
	loopback   int
	promised   map[onLink]bool // routes that come with the addresses
}

// onLink is a route to a network that an interface is in.
type onLink struct {
	index       int
	destination netip.Prefix
}

func (s *scan) addLinks(links []netlink.Link) {
	kinds := map[int]string{}
	for _, link := range links {
		kinds[link.Attrs().Index] = link.Type()
	}
	for _, link := range links {
		a := link.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			s.loopback = a.Index
			continue
		}
		member := a.MasterIndex != 0 && kinds[a.MasterIndex] != "vrf"
		if a.EncapType != "ether" || member || link.Type() == "ifb" || link.Type() == "vrf" || isOurs(link) {
			continue
		}
		s.interfaces[a.Index] = &Interface{
			Index: a.Index,
			Name:  a.Name,
			MAC:   a.HardwareAddr,
			MTU:   a.MTU,
			Up:    a.Flags&net.FlagUp != 0,
			NoARP: a.RawFlags&unix.IFF_NOARP != 0,
		}
	}
}

func (s *scan) sorted() []Interface {
	var all []Interface
	for _, index := range slices.Sorted(maps.Keys(s.interfaces)) {
		all = append(all, *s.interfaces[index])
	}
	return all
}

// settable are the flags of an address that are not the kernel's own state (Linux net/ipv6/addrconf.c, inet6_rtm_newaddr).
const settable = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN

func (s *scan) addAddresses(addresses []netlink.Addr, routes []netlink.Route) {
	made := map[onLink]bool{}
	for _, r := range routes {
		if comesWithAddress(r) {
			made[onLink{r.LinkIndex, prefixOf(r.Dst)}] = true
		}
	}
	for _, a := range addresses {
		i := s.interfaces[a.LinkIndex]
		if i == nil || a.IPNet == nil || a.Flags&unix.IFA_F_DADFAILED != 0 {
			continue
		}
		address := convert(a)
		promises := address.routes()
		isMade := slices.ContainsFunc(promises, func(p netip.Prefix) bool { return made[onLink{i.Index, p}] })
		if i.Up && len(promises) > 0 && !isMade {
			address.Flags |= unix.IFA_F_NOPREFIXROUTE
		}
		if address.Flags&unix.IFA_F_NOPREFIXROUTE == 0 {
			for _, p := range promises {
				s.promised[onLink{i.Index, p}] = true
			}
		}
		if !isKernels(a, i.MAC) {
			i.Addresses = append(i.Addresses, address)
		} else if address.Prefix.Addr().IsLinkLocalUnicast() {
			i.LinkLocal = true
		}
	}
}

func convert(a netlink.Addr) Address {
	address := Address{
		Prefix:    prefixOf(a.IPNet),
		Scope:     a.Scope,
		Broadcast: addressOf(a.Broadcast),
		Flags:     a.Flags & settable,
	}
	if a.Peer != nil {
		peer := prefixOf(a.Peer)
		address.Peer = peer.Addr()
		address.Prefix = netip.PrefixFrom(address.Prefix.Addr(), peer.Bits())
	}
	if address.Prefix.Addr().Is6() {
		address.Flags |= unix.IFA_F_NODAD
	}
	return address
}

// routes are the destinations of the routes that the kernel makes for the address unless it is told not to
// (Linux net/ipv4/fib_frontend.c, fib_add_ifaddr; net/ipv6/addrconf.c, inet6_addr_add and __ipv6_ifa_notify).
func (a Address) routes() []netip.Prefix {
	ip, bits := a.Prefix.Addr(), a.Prefix.Bits()
	network := a.Prefix.Masked()
	switch {
	case ip.Is4() && a.Peer.IsValid():
		return []netip.Prefix{netip.PrefixFrom(a.Peer, bits).Masked()}
	case ip.Is4() && bits == 32:
		return nil
	case a.Peer.IsValid():
		return []netip.Prefix{network, netip.PrefixFrom(a.Peer, bits).Masked(), netip.PrefixFrom(a.Peer, 128)}
	}
	return []netip.Prefix{network}
}

// isKernels says whether the kernel made the address by itself: the link-local one, or one from a router advertisement.
func isKernels(a netlink.Addr, mac net.HardwareAddr) bool {
	prefix := prefixOf(a.IPNet)
	ip := prefix.Addr()
	switch {
	case !ip.Is6():
		return false
	case a.Flags&unix.IFA_F_PERMANENT == 0 && a.Flags&(unix.IFA_F_MANAGETEMPADDR|unix.IFA_F_TEMPORARY) != 0:
		return true
	case !ip.IsLinkLocalUnicast() || prefix.Bits() != 64:
		return false
	}
	return a.Flags&unix.IFA_F_STABLE_PRIVACY != 0 || ip == linkLocal(mac)
}

// linkLocal is the address that comes of a hardware address (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	if len(mac) != 6 {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

func listNeighbours(h *netlink.Handle) ([]netlink.Neigh, error) {
	entries, err := dump("neighbours", func() ([]netlink.Neigh, error) { return h.NeighList(0, unix.AF_UNSPEC) })
	if err != nil {
		return nil, err
	}
	proxies, err := dump("proxies", func() ([]netlink.Neigh, error) { return h.NeighProxyList(0, unix.AF_UNSPEC) })
	return append(entries, proxies...), err
}

func (s *scan) neighbours(all []netlink.Neigh) []Neighbour {
	var kept []Neighbour
	for _, n := range all {
		i := s.interfaces[n.LinkIndex]
		ip := addressOf(n.IP)
		proxy := n.Flags&unix.NTF_PROXY != 0
		if i == nil || !ip.IsValid() || !proxy && (n.State&unix.NUD_PERMANENT == 0 || len(n.HardwareAddr) == 0) {
			continue
		}
		k := Neighbour{Interface: i.Name, IP: ip, Flags: n.Flags & (unix.NTF_ROUTER | unix.NTF_PROXY)}
		if !proxy {
			k.MAC, k.State = n.HardwareAddr, unix.NUD_PERMANENT
		}
		kept = append(kept, k)
	}
	return kept
}

// addressOf is the address as the kernel sent it, in 4 or 16 bytes; anything else is no address.
func addressOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a
}

// prefixOf is a network by the length of its mask: the module writes 0.0.0.0 in 16 bytes.
func prefixOf(n *net.IPNet) netip.Prefix {
	bits, length := n.Mask.Size()
	address := addressOf(n.IP)
	if length == 32 {
		address = address.Unmap()
	}
	return netip.PrefixFrom(address, bits)
}
