// Package network is the host side of a sandbox's network: what a network namespace has, and how a guest gets it.
//
// Everything works on the network namespace of the calling thread, which in a keeper is that of the whole process; only
// Clean enters another one. An interface of the namespace stays where it is, with its addresses. Its frames go to the
// guest and come from it: over a tap beside it, joined by traffic control both ways (NewTap, Join), or over a macvtap on
// top of it (NewMacvtap).
package network

import (
	"net"
	"net/netip"
)

// State is what a network namespace has for its containers. Numbers are those of rtnetlink(7).
type State struct {
	Interfaces []Interface // in the order they came to be
	Routes     []Route     // in an order in which they can be added: those with a gateway after the ones that lead to it
	Neighbours []Neighbour // permanent entries and proxies
}

// Interface is a network interface with an Ethernet link layer.
type Interface struct {
	Index     int // in the host's namespace
	Name      string
	MAC       net.HardwareAddr
	MTU       int
	Up        bool
	NoARP     bool
	LinkLocal bool      // has the link-local address that the kernel makes
	Addresses []Address // without that
}

// Address is an address of an interface.
type Address struct {
	Prefix    netip.Prefix // the address itself and the length of its network, or of the peer's
	Scope     int
	Broadcast netip.Addr // invalid: none
	Peer      netip.Addr // invalid: none
	// Flags are IFA_F_NOPREFIXROUTE and such that can be set. IFA_F_NODAD is set for every IPv6 address, because the
	// namespace's kernel looks for duplicates; IFA_F_NOPREFIXROUTE also where the route that the kernel made of the
	// address was taken away again, as the CNI plugin ptp does.
	Flags int
}

// Route is a route with one next hop or none. Its family is that of the destination.
type Route struct {
	Interface   string       // empty for unreachable, blackhole, prohibit and throw
	Destination netip.Prefix // of length 0: default
	Gateway     netip.Addr   // invalid: none. It can be IPv6 with an IPv4 destination
	Source      netip.Addr   // preferred source; invalid: none
	Table       int
	Type        int
	Scope       int
	Protocol    int
	Metric      int
	Flags       int // RTNH_F_ONLINK or 0
	MTU         int // 0: none
}

// Neighbour is an entry of an interface's table of neighbours.
type Neighbour struct {
	Interface string
	IP        netip.Addr
	MAC       net.HardwareAddr // nil for a proxy
	State     int              // NUD_PERMANENT, or 0 for a proxy
	Flags     int              // NTF_ROUTER, NTF_PROXY
}
