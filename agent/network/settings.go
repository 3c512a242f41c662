package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// settings are what a request asks for, checked, as values that can be compared. Addresses, routes and neighbours name
// an interface by its device, which stays when names change.
type settings struct {
	interfaces []iface
	addresses  []address
	routes     []route
	neighbours []neighbour
	resolvers  []netip.Addr
}

// loopback stands for lo where a device is named. No hardware address is as short.
const loopback = "lo"

type iface struct {
	device, name, mac string // mac and device: the bytes
	mtu               uint32
	up, noARP         bool
}

type address struct {
	device    string
	ip        netip.Addr
	prefix    uint8
	scope     uint8
	broadcast netip.Addr // these two: the zero value for none
	peer      netip.Addr
	flags     uint32
	optional  bool // the kernel's own, which it does not make where IPv6 is off either
}

func (a address) String() string { return fmt.Sprintf("address %s/%d", a.ip, a.prefix) }

type route struct {
	device          string // empty: none
	family          uint8
	destination     netip.Addr // the zero value: default
	prefix          uint8
	gateway, source netip.Addr // the zero value: none
	table           uint32
	kind            uint8
	scope, protocol uint8
	metric          uint32
	flags           uint32
	mtu             uint32
}

func (r route) String() string {
	s := "route default"
	if r.destination.IsValid() {
		s = fmt.Sprintf("route %s/%d", r.destination, r.prefix)
	}
	if r.gateway.IsValid() {
		s += " via " + r.gateway.String()
	}
	return s
}

type neighbour struct {
	device string
	ip     netip.Addr
	mac    string // the bytes
	state  uint16
	flags  uint8
}

func (n neighbour) String() string { return "neighbour " + n.ip.String() }

// parse checks a request.
func parse(r *protocol.SetNetworkRequest) (settings, error) {
	var s settings
	devices := map[string]string{loopback: loopback} // by name
	for _, i := range r.Interfaces {
		if err := checkName(i.Name); err != nil {
			return s, err
		}
		if devices[i.Name] != "" {
			return s, fmt.Errorf("two interfaces %s", i.Name)
		}
		device := string(i.Device)
		if len(device) <= len(loopback) {
			return s, fmt.Errorf("interface %s: device %x is no hardware address", i.Name, device)
		}
		if slices.ContainsFunc(s.interfaces, func(other iface) bool { return other.device == device }) {
			return s, fmt.Errorf("interface %s: device %x is another's", i.Name, device)
		}
		devices[i.Name] = device
		s.interfaces = append(s.interfaces, iface{device, i.Name, string(i.Mac), i.Mtu, i.Up, i.NoArp})
		for _, a := range i.Addresses {
			parsed, err := parseAddress(device, a)
			if err != nil {
				return s, fmt.Errorf("interface %s: %w", i.Name, err)
			}
			s.addresses = append(s.addresses, parsed)
		}
		s.addLinkLocal(device, i)
	}
	for _, r := range r.Routes {
		device, known := devices[r.Interface]
		if !known && r.Interface != "" {
			return s, fmt.Errorf("route over %q, which is no interface of the request", r.Interface)
		}
		parsed, err := parseRoute(device, r)
		if err != nil {
			return s, err
		}
		s.routes = append(s.routes, parsed)
	}
	slices.SortStableFunc(s.routes, routeOrder)
	for _, n := range r.Neighbours {
		device, known := devices[n.Interface]
		ip, err := parseIP(n.Ip)
		if err != nil || !known || !ip.IsValid() {
			return s, fmt.Errorf("neighbour %x on %q: not an address, or no interface of the request", n.Ip, n.Interface)
		}
		s.neighbours = append(s.neighbours, neighbour{device, ip, string(n.Mac), uint16(n.State), uint8(n.Flags)})
	}
	return s, s.parseResolvers(r.Resolvers)
}

func (s *settings) parseResolvers(list [][]byte) error {
	for _, bytes := range list {
		ip, err := parseIP(bytes)
		if err != nil || !ip.Is4() || !ip.IsLoopback() {
			return fmt.Errorf("resolver %x: not an IPv4 address of the loopback network", bytes)
		}
		if slices.Contains(s.resolvers, ip) {
			return fmt.Errorf("two resolvers %s", ip)
		}
		s.resolvers = append(s.resolvers, ip)
	}
	if len(s.resolvers) > maxResolvers {
		return fmt.Errorf("%d resolvers, and %d are the most", len(s.resolvers), maxResolvers)
	}
	return nil
}

// checkName refuses what is no interface's name (the kernel's dev_valid_name), and patterns for one.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || name == loopback || len(name) >= unix.IFNAMSIZ ||
		strings.ContainsAny(name, "/:%\x00 \t\r\n\v\f") {
		return fmt.Errorf("interface name %q cannot be had", name)
	}
	return nil
}

func parseAddress(device string, a *protocol.Address) (address, error) {
	ip, err := parseIP(a.Ip)
	broadcast, berr := parseIP(a.Broadcast)
	peer, perr := parseIP(a.Peer)
	if err != nil || berr != nil || perr != nil || !ip.IsValid() || int(a.Prefix) > ip.BitLen() ||
		!sameFamily(ip, broadcast) || !sameFamily(ip, peer) {
		return address{}, fmt.Errorf("address %x/%d with broadcast %x and peer %x is none", a.Ip, a.Prefix, a.Broadcast, a.Peer)
	}
	flags := a.Flags
	if ip.Is6() {
		flags |= unix.IFA_F_NODAD // it was found to be the only one before, and is to be of use at once
	}
	return address{device, ip, uint8(a.Prefix), uint8(a.Scope), broadcast, peer, flags, false}, nil
}

// minMTU is the least MTU that IPv6 works with (RFC 8200, 5).
const minMTU = 1280

// addLinkLocal adds the link-local address that the kernel would make. It would make it later, when it is sure that
// nobody else has it; here that is known, for the host's interface had it.
func (s *settings) addLinkLocal(device string, i *protocol.Interface) {
	mac := i.Mac
	if i.NoLinkLocal || !i.Up || len(mac) != 6 || i.Mtu != 0 && i.Mtu < minMTU {
		return
	}
	ip := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, // RFC 4291, appendix A
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
	if slices.ContainsFunc(s.addresses, func(a address) bool { return a.device == device && a.ip == ip }) {
		return
	}
	s.addresses = append(s.addresses, address{
		device: device, ip: ip, prefix: 64, scope: unix.RT_SCOPE_LINK, flags: unix.IFA_F_NODAD, optional: true,
	})
}

func parseRoute(device string, r *protocol.Route) (route, error) {
	destination, err := parseIP(r.Destination)
	gateway, gerr := parseIP(r.Gateway)
	source, serr := parseIP(r.Source)
	any := netip.IPv4Unspecified()
	switch r.Family {
	case unix.AF_INET:
	case unix.AF_INET6:
		any = netip.IPv6Unspecified()
	default:
		return route{}, fmt.Errorf("route of family %d", r.Family)
	}
	// An IPv4 route may have an IPv6 gateway: the kernel knows which by RTA_VIA.
	if err != nil || gerr != nil || serr != nil || int(r.Prefix) > any.BitLen() ||
		!sameFamily(any, destination) || !sameFamily(any, source) || any.Is6() && gateway.Is4() {
		return route{}, fmt.Errorf("route %x/%d by %x from %x is none", r.Destination, r.Prefix, r.Gateway, r.Source)
	}
	if r.Prefix == 0 {
		destination = netip.Addr{}
	}
	return route{
		device: device, family: uint8(r.Family), destination: destination, prefix: uint8(r.Prefix), gateway: gateway,
		source: source, table: r.Table, kind: uint8(r.Type), scope: uint8(r.Scope), protocol: uint8(r.Protocol),
		metric: r.Metric, flags: r.Flags & unix.RTNH_F_ONLINK, mtu: r.Mtu,
	}, nil
}

// routeOrder puts routes to gateways before routes by gateways: the kernel refuses one whose gateway cannot be reached.
func routeOrder(a, b route) int {
	switch {
	case a.gateway.IsValid() == b.gateway.IsValid():
		return 0
	case b.gateway.IsValid():
		return -1
	default:
		return 1
	}
}

// parseIP reads an address of 4 or 16 bytes. No bytes are no address, the zero value.
func parseIP(bytes []byte) (netip.Addr, error) {
	if len(bytes) == 0 {
		return netip.Addr{}, nil
	}
	ip, ok := netip.AddrFromSlice(bytes)
	if !ok {
		return ip, fmt.Errorf("%x is no address", bytes)
	}
	return ip, nil
}

// sameFamily says whether an address that need not be there is of the same family as another one.
func sameFamily(ip, other netip.Addr) bool {
	return !other.IsValid() || ip.BitLen() == other.BitLen()
}

func family(ip netip.Addr) uint8 {
	if ip.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
