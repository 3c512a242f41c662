package network

import (
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// listRoutes lists the routes of all tables.
func listRoutes(h *netlink.Handle) ([]netlink.Route, error) {
	var all []netlink.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		// With a filter for the table "unspecified" the module lists all of them; without, only main.
		routes, err := dump("routes", func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, err
		}
		for i := range routes {
			routes[i].Family = family
		}
		all = append(all, routes...)
	}
	return all, nil
}

// comesWithAddress says whether a route looks like those that the kernel makes for the network of an address: of its
// protocol, and with the metric that an address has unless it is given one.
func comesWithAddress(r netlink.Route) bool {
	metric := 0
	if r.Family == unix.AF_INET6 {
		metric = 256 // IP6_RT_PRIO_ADDRCONF
	}
	return r.Protocol == unix.RTPROT_KERNEL && r.Table == unix.RT_TABLE_MAIN && r.Type == unix.RTN_UNICAST &&
		r.Gw == nil && r.Priority == metric && r.Dst != nil
}

func (s *scan) routes(all []netlink.Route) []Route {
	var direct, routed []Route
	for _, r := range all {
		route, ok := s.route(r)
		switch {
		case !ok:
		case route.Gateway.IsValid():
			routed = append(routed, route)
		default:
			direct = append(direct, route)
		}
	}
	return slices.Concat(direct, routed)
}

// route converts a route, and says whether the guest shall have it.
func (s *scan) route(r netlink.Route) (Route, bool) {
	if r.Table == unix.RT_TABLE_LOCAL || r.Dst == nil || r.Encap != nil || r.MPLSDst != nil ||
		r.Protocol == unix.RTPROT_RA || r.Protocol == unix.RTPROT_REDIRECT {
		return Route{}, false
	}
	route := Route{
		Destination: prefixOf(r.Dst),
		Source:      addressOf(r.Src),
		Table:       r.Table,
		Type:        r.Type,
		Scope:       int(r.Scope),
		Protocol:    int(r.Protocol),
		Metric:      r.Priority,
		MTU:         r.MTU,
	}
	switch r.Type {
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return route, r.Protocol != unix.RTPROT_KERNEL // IPv6 has them on lo
	case unix.RTN_UNICAST:
	default:
		return Route{}, false
	}
	hop, ok := s.hop(r)
	if !ok || comesWithAddress(r) && s.promised[onLink{r.LinkIndex, route.Destination}] {
		return Route{}, false
	}
	route.Interface = s.interfaces[hop.LinkIndex].Name
	route.Gateway = addressOf(hop.Gw)
	if via, ok := hop.Via.(*netlink.Via); ok {
		route.Gateway = addressOf(via.Addr)
	}
	route.Flags = hop.Flags & unix.RTNH_F_ONLINK
	return route, true
}

// hop is the first next hop of a route over an interface of ours.
func (s *scan) hop(r netlink.Route) (netlink.NexthopInfo, bool) {
	hops := []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via, Flags: r.Flags}}
	if len(r.MultiPath) > 0 {
		hops = r.MultiPath
	}
	for _, hop := range hops {
		if s.interfaces[hop.LinkIndex] != nil && hop.Encap == nil && hop.Flags&unix.RTNH_F_DEAD == 0 {
			return *hop, true
		}
	}
	return netlink.NexthopInfo{}, false
}
