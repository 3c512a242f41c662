package sandbox

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/network"
)

// networkRequest is the network in the words of the agent's protocol.
func networkRequest(v view, bare bool) *protocol.SetNetworkRequest {
	r := &protocol.SetNetworkRequest{Bare: bare}
	for _, i := range v.Interfaces {
		r.Interfaces = append(r.Interfaces, &protocol.Interface{
			Device: v.devices[i.Index], Name: i.Name, Mac: i.MAC, Mtu: uint32(i.MTU), Up: i.Up, NoArp: i.NoARP,
			NoLinkLocal: !i.LinkLocal,
			Addresses:   addresses(i.Addresses),
		})
	}
	for _, route := range v.Routes {
		r.Routes = append(r.Routes, &protocol.Route{
			Interface: route.Interface, Destination: route.Destination.Addr().AsSlice(), Prefix: uint32(route.Destination.Bits()),
			Gateway: route.Gateway.AsSlice(), Source: route.Source.AsSlice(), Family: family(route.Destination.Addr()),
			Table: uint32(route.Table), Type: uint32(route.Type), Scope: uint32(route.Scope), Protocol: uint32(route.Protocol),
			Metric: uint32(route.Metric), Flags: uint32(route.Flags), Mtu: uint32(route.MTU),
		})
	}
	for _, n := range v.Neighbours {
		r.Neighbours = append(r.Neighbours, &protocol.Neighbour{
			Interface: n.Interface, Ip: n.IP.AsSlice(), Mac: n.MAC, State: uint32(n.State), Flags: uint32(n.Flags),
		})
	}
	for _, server := range v.resolvers {
		r.Resolvers = append(r.Resolvers, server.AsSlice())
	}
	return r
}

func addresses(host []network.Address) (guest []*protocol.Address) {
	for _, a := range host {
		guest = append(guest, &protocol.Address{
			Ip: a.Prefix.Addr().AsSlice(), Prefix: uint32(a.Prefix.Bits()), Scope: uint32(a.Scope),
			Broadcast: a.Broadcast.AsSlice(), Peer: a.Peer.AsSlice(), Flags: uint32(a.Flags),
		})
	}
	return guest
}

func family(a netip.Addr) uint32 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
