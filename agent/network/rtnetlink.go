package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// The messages of rtnetlink(7). Their fixed parts are the structs of linux/rtnetlink.h, if_addr.h and neighbour.h.

// link is an interface as the kernel lists it.
type link struct {
	index      uint32
	attributes map[uint16][]byte
	at         *socket // of its namespace, where it was looked for in several
}

// parseLink reads struct ifinfomsg and the attributes behind it. The link refers to body.
func parseLink(body []byte) link {
	if len(body) < unix.SizeofIfInfomsg {
		return link{}
	}
	return link{index: binary.NativeEndian.Uint32(body[4:]), attributes: attributes(body[unix.SizeofIfInfomsg:])}
}

func (l link) name() string { return cString(l.attributes[unix.IFLA_IFNAME]) }

func cString(b []byte) string {
	if len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return string(b)
}

// permanentAddress is the hardware address that the device was made with, or "". Interfaces made by somebody in the
// guest have a kind. They are none of ours, though one may have our device's address, like an ipvlan on top of it.
func permanentAddress(l link) string {
	if attributes(l.attributes[unix.IFLA_LINKINFO])[unix.IFLA_INFO_KIND] != nil {
		return ""
	}
	return string(l.attributes[unix.IFLA_PERM_ADDRESS])
}

// links lists the interfaces of the socket's namespace, or the one of this name.
func (s *socket) links(name string) ([]link, error) {
	flags, query := uint16(unix.NLM_F_DUMP), ifinfomsg(0, 0, 0)
	query = attribute(query, unix.IFLA_EXT_MASK, number(rtextFilterSkipStats))
	if name != "" {
		flags, query = unix.NLM_F_ACK, attribute(query, unix.IFLA_IFNAME, text(name))
	}
	for tries := 1; ; tries++ {
		var list []link
		err := s.do(func(body []byte) {
			list = append(list, parseLink(slices.Clone(body))) // the next answer is read over it
		}, newMessage(unix.RTM_GETLINK, flags, query))
		if err != errInterrupted || tries == 10 { // containers may make interfaces faster than we list them
			return list, err
		}
	}
}

// link returns the interface of this name.
func (s *socket) link(name string) (link, error) {
	list, err := s.links(name)
	if err == nil && len(list) != 1 {
		err = unix.ENODEV
	}
	if err != nil {
		return link{}, fmt.Errorf("find interface %s: %w", name, err)
	}
	return list[0], nil
}

const rtextFilterSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS

// ifinfomsg is struct ifinfomsg. change says which of the flags count.
func ifinfomsg(index, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg, 128)
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// setLink sends a change of one interface. The kernel makes it in this order whatever that of the attributes is: to
// another namespace, hardware address, MTU, name, flags (do_setlink in net/core/rtnetlink.c).
func (s *socket) setLink(fixedAndAttributes []byte) error {
	return s.do(nil, newMessage(unix.RTM_NEWLINK, unix.NLM_F_ACK, fixedAndAttributes))
}

// setAddress sends RTM_NEWADDR or RTM_DELADDR.
func (s *socket) setAddress(kind, flags uint16, index uint32, a address) error {
	b := []byte{family(a.ip), a.prefix, uint8(a.flags), a.scope}
	b = binary.NativeEndian.AppendUint32(b, index)
	b = attribute(b, unix.IFA_LOCAL, a.ip.AsSlice())
	peer := a.peer
	if !peer.IsValid() {
		peer = a.ip
	}
	b = attribute(b, unix.IFA_ADDRESS, peer.AsSlice())
	b = optional(b, unix.IFA_BROADCAST, a.broadcast)
	b = attribute(b, unix.IFA_FLAGS, number(a.flags))
	return s.do(nil, newMessage(kind, flags|unix.NLM_F_ACK, b))
}

// setRoute sends RTM_NEWROUTE or RTM_DELROUTE.
func (s *socket) setRoute(kind, flags uint16, index uint32, r route) error {
	b := []byte{r.family, r.prefix, 0, 0, unix.RT_TABLE_UNSPEC, r.protocol, r.scope, r.kind}
	b = binary.NativeEndian.AppendUint32(b, r.flags)
	b = attribute(b, unix.RTA_TABLE, number(r.table))
	b = optional(b, unix.RTA_DST, r.destination)
	b = optional(b, unix.RTA_PREFSRC, r.source)
	if r.gateway.Is6() && r.family == unix.AF_INET {
		via := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), r.gateway.AsSlice()...)
		b = attribute(b, unix.RTA_VIA, via)
	} else {
		b = optional(b, unix.RTA_GATEWAY, r.gateway)
	}
	if index != 0 {
		b = attribute(b, unix.RTA_OIF, number(index))
	}
	if r.metric != 0 {
		b = attribute(b, unix.RTA_PRIORITY, number(r.metric))
	}
	if r.mtu != 0 {
		b = nested(b, unix.RTA_METRICS, attribute(nil, unix.RTAX_MTU, number(r.mtu)))
	}
	return s.do(nil, newMessage(kind, flags|unix.NLM_F_ACK, b))
}

// setNeighbour sends RTM_NEWNEIGH or RTM_DELNEIGH.
func (s *socket) setNeighbour(kind, flags uint16, index uint32, n neighbour) error {
	b := []byte{family(n.ip), 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, index)
	b = binary.NativeEndian.AppendUint16(b, n.state)
	b = append(b, n.flags, 0)
	b = attribute(b, unix.NDA_DST, n.ip.AsSlice())
	if n.mac != "" {
		b = attribute(b, unix.NDA_LLADDR, []byte(n.mac))
	}
	return s.do(nil, newMessage(kind, flags|unix.NLM_F_ACK, b))
}

// optional appends an attribute for an address that need not be there.
func optional(to []byte, kind uint16, ip netip.Addr) []byte {
	if !ip.IsValid() {
		return to
	}
	return attribute(to, kind, ip.AsSlice())
}
