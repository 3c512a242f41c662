package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	testMAC   = net.HardwareAddr{0x02, 0x42, 0x0a, 0x01, 0x02, 0x03}
	routerMAC = net.HardwareAddr{0x02, 0xff, 0, 0, 0, 1}
)

func addRoute(t *testing.T, name string, r netlink.Route) {
	t.Helper()
	if name != "" {
		r.LinkIndex = find(t, name).Attrs().Index
	}
	must(t, netlink.RouteAdd(&r))
}

func TestScanInterfaces(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	addVeth(t, "port")
	addVeth(t, "down")
	must(t, netlink.LinkSetDown(find(t, "down")))
	must(t, netlink.LinkSetMTU(find(t, "down"), 9000))
	must(t, netlink.LinkSetARPOff(find(t, "down")))
	must(t, netlink.LinkSetHardwareAddr(find(t, "down"), testMAC))
	// The kernel makes its route when the interface goes up.
	addAddress(t, "down", "10.1.2.3/24", func(a *netlink.Addr) { a.Broadcast = net.IPv4zero })
	for _, link := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}},
		&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: "ifb0"}},
		&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "net1", ParentIndex: find(t, "eth0").Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE},
		&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap0"}, Mode: unix.IFF_TAP},
		&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: unix.IFF_TUN},
	} {
		must(t, netlink.LinkAdd(link))
	}
	must(t, netlink.LinkSetMaster(find(t, "port"), find(t, "br0")))
	newTestTap(t, 1)

	state, err := Scan()
	must(t, err)
	var names []string
	for _, i := range state.Interfaces {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	if want := []string{"br0", "down", "eth0", "net1", "tap0"}; !slices.Equal(names, want) {
		t.Errorf("interfaces %v, want %v", names, want)
	}
	want := Interface{Index: find(t, "down").Attrs().Index, Name: "down", MAC: testMAC, MTU: 9000, NoARP: true,
		Addresses: []Address{{Prefix: netip.MustParsePrefix("10.1.2.3/24")}}}
	if down := scanned(t, "down"); !reflect.DeepEqual(down, want) {
		t.Errorf("got %+v, want %+v", down, want)
	}
	if eth0 := scanned(t, "eth0"); !eth0.Up || eth0.NoARP || !eth0.LinkLocal || eth0.MTU != 1500 || len(eth0.Addresses) != 0 {
		t.Errorf("eth0 is %+v", eth0)
	}
}

func TestScanAddresses(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	addAddress(t, "eth0", "10.1.2.3/24", func(a *netlink.Addr) { a.Broadcast = net.IP{10, 1, 2, 255} })
	addAddress(t, "eth0", "10.1.2.4/24", func(a *netlink.Addr) { a.Broadcast = net.IPv4zero })
	addAddress(t, "eth0", "192.0.2.1/32", func(a *netlink.Addr) { a.Scope, a.Broadcast = unix.RT_SCOPE_LINK, net.IPv4zero })
	addAddress(t, "eth0", "192.0.2.5/32", func(a *netlink.Addr) { a.Peer = network(t, "192.0.2.6/32") })
	addAddress(t, "eth0", "fd00::5/64", func(a *netlink.Addr) { a.Flags = 0 })
	addAddress(t, "eth0", "fe80::1/64", nil)
	addAddress(t, "eth0", "fd01::5/64", func(a *netlink.Addr) { a.Flags |= unix.IFA_F_NOPREFIXROUTE })
	// What the CNI plugin ptp does: the address stays, its route goes.
	addAddress(t, "eth0", "10.9.0.3/16", func(a *netlink.Addr) { a.Broadcast = net.IPv4zero })
	must(t, netlink.RouteDel(&netlink.Route{LinkIndex: find(t, "eth0").Attrs().Index, Dst: network(t, "10.9.0.0/16"), Scope: unix.RT_SCOPE_NOWHERE}))

	ip, prefix := netip.MustParseAddr, netip.MustParsePrefix
	state, err := Scan()
	must(t, err)
	got := state.Interfaces[0].Addresses
	slices.SortFunc(got, func(a, b Address) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	want := []Address{
		{Prefix: prefix("10.1.2.3/24"), Broadcast: ip("10.1.2.255")},
		{Prefix: prefix("10.1.2.4/24")},
		{Prefix: prefix("10.9.0.3/16"), Flags: unix.IFA_F_NOPREFIXROUTE},
		{Prefix: prefix("192.0.2.1/32"), Scope: unix.RT_SCOPE_LINK},
		{Prefix: prefix("192.0.2.5/32"), Peer: ip("192.0.2.6")},
		{Prefix: prefix("fd00::5/64"), Flags: unix.IFA_F_NODAD},
		{Prefix: prefix("fd01::5/64"), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE},
		{Prefix: prefix("fe80::1/64"), Scope: unix.RT_SCOPE_LINK, Flags: unix.IFA_F_NODAD},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
	if len(state.Routes) != 0 {
		t.Errorf("routes %+v", state.Routes)
	}
}

func TestScanRoutes(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	addVeth(t, "eth1")
	addAddress(t, "eth0", "10.1.2.3/24", nil)
	addAddress(t, "eth1", "10.1.3.3/24", nil)
	addAddress(t, "eth0", "fd00::5/64", nil)
	addAddress(t, "eth1", "10.8.0.3/24", func(a *netlink.Addr) { a.Flags |= unix.IFA_F_NOPREFIXROUTE })
	gateway := net.IPv4(10, 1, 2, 1)
	addRoute(t, "eth0", netlink.Route{Dst: network(t, "0.0.0.0/0"), Gw: net.IPv4(169, 254, 1, 1), Flags: unix.RTNH_F_ONLINK})
	addRoute(t, "eth0", netlink.Route{Dst: network(t, "10.5.0.0/16"), Gw: gateway, Priority: 77, MTU: 1280, Src: net.IPv4(10, 1, 2, 3)})
	addRoute(t, "eth1", netlink.Route{Dst: network(t, "10.1.9.1/32"), Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_STATIC})
	addRoute(t, "eth0", netlink.Route{Dst: network(t, "10.6.0.0/16"), Gw: gateway, Table: 100})
	addRoute(t, "eth1", netlink.Route{Dst: network(t, "10.8.0.0/24"), Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_KERNEL})
	addRoute(t, "eth1", netlink.Route{Dst: network(t, "10.2.0.0/16"), Scope: unix.RT_SCOPE_LINK, Table: unix.RT_TABLE_LOCAL})
	addRoute(t, "", netlink.Route{Dst: network(t, "10.7.0.0/16"), Type: unix.RTN_UNREACHABLE})
	addRoute(t, "", netlink.Route{Dst: network(t, "fd09::/32"), Type: unix.RTN_BLACKHOLE})
	addRoute(t, "eth0", netlink.Route{Dst: network(t, "::/0"), Gw: net.ParseIP("fd00::1")})
	addRoute(t, "eth0", netlink.Route{Dst: network(t, "10.4.0.0/16"), Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: net.ParseIP("fd00::1")}})
	addRoute(t, "", netlink.Route{Dst: network(t, "10.3.0.0/16"), MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: find(t, "lo").Attrs().Index},
		{LinkIndex: find(t, "eth0").Attrs().Index, Gw: gateway},
		{LinkIndex: find(t, "eth1").Attrs().Index, Gw: net.IPv4(10, 1, 3, 1)},
	}})

	ip, prefix := netip.MustParseAddr, netip.MustParsePrefix
	const main, unicast, boot = unix.RT_TABLE_MAIN, unix.RTN_UNICAST, unix.RTPROT_BOOT
	want := []Route{
		{Interface: "eth1", Destination: prefix("10.1.9.1/32"), Table: main, Type: unicast, Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_STATIC},
		{Destination: prefix("10.7.0.0/16"), Table: main, Type: unix.RTN_UNREACHABLE, Protocol: boot},
		{Interface: "eth1", Destination: prefix("10.8.0.0/24"), Table: main, Type: unicast, Scope: unix.RT_SCOPE_LINK, Protocol: unix.RTPROT_KERNEL},
		{Destination: prefix("fd09::/32"), Table: main, Type: unix.RTN_BLACKHOLE, Protocol: boot, Metric: 1024},
		// From here on with a gateway.
		{Interface: "eth0", Destination: prefix("0.0.0.0/0"), Gateway: ip("169.254.1.1"), Table: main, Type: unicast, Protocol: boot, Flags: unix.RTNH_F_ONLINK},
		{Interface: "eth0", Destination: prefix("10.3.0.0/16"), Gateway: ip("10.1.2.1"), Table: main, Type: unicast, Protocol: boot},
		{Interface: "eth0", Destination: prefix("10.4.0.0/16"), Gateway: ip("fd00::1"), Table: main, Type: unicast, Protocol: boot},
		{Interface: "eth0", Destination: prefix("10.5.0.0/16"), Gateway: ip("10.1.2.1"), Source: ip("10.1.2.3"), Table: main, Type: unicast, Protocol: boot, Metric: 77, MTU: 1280},
		{Interface: "eth0", Destination: prefix("10.6.0.0/16"), Gateway: ip("10.1.2.1"), Table: 100, Type: unicast, Protocol: boot},
		{Interface: "eth0", Destination: prefix("::/0"), Gateway: ip("fd00::1"), Table: main, Type: unicast, Protocol: boot, Metric: 1024},
	}
	state, err := Scan()
	must(t, err)
	compare := func(a, b Route) int {
		switch {
		case a.Gateway.IsValid() && !b.Gateway.IsValid():
			return 1
		case !a.Gateway.IsValid() && b.Gateway.IsValid():
			return -1
		}
		return a.Destination.Addr().Compare(b.Destination.Addr())
	}
	for i := 1; i < len(state.Routes); i++ {
		if state.Routes[i-1].Gateway.IsValid() && !state.Routes[i].Gateway.IsValid() {
			t.Errorf("a route without a gateway comes after one with: %+v", state.Routes)
		}
	}
	slices.SortFunc(state.Routes, compare)
	if !reflect.DeepEqual(state.Routes, want) {
		t.Errorf("got %d routes:", len(state.Routes))
		for i := range max(len(want), len(state.Routes)) {
			if i >= len(want) || i >= len(state.Routes) || state.Routes[i] != want[i] {
				t.Errorf("%d: got %+v\nwant %+v", i, state.Routes[i:min(i+1, len(state.Routes))], want[i:min(i+1, len(want))])
			}
		}
	}
}

func TestScanNeighbours(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	addAddress(t, "eth0", "10.1.2.3/24", nil)
	index := find(t, "eth0").Attrs().Index
	for _, n := range []netlink.Neigh{
		{IP: net.IPv4(10, 1, 2, 1), HardwareAddr: routerMAC, State: unix.NUD_PERMANENT},
		{IP: net.IPv4(10, 1, 2, 2), HardwareAddr: routerMAC, State: unix.NUD_REACHABLE},
		{IP: net.ParseIP("fe80::9"), HardwareAddr: routerMAC, State: unix.NUD_PERMANENT, Flags: unix.NTF_ROUTER},
		{IP: net.IPv4(10, 1, 2, 9), Flags: unix.NTF_PROXY},
	} {
		n.LinkIndex = index
		must(t, netlink.NeighAdd(&n))
	}
	state, err := Scan()
	must(t, err)
	slices.SortFunc(state.Neighbours, func(a, b Neighbour) int { return a.IP.Compare(b.IP) })
	want := []Neighbour{
		{Interface: "eth0", IP: netip.MustParseAddr("10.1.2.1"), MAC: routerMAC, State: unix.NUD_PERMANENT},
		{Interface: "eth0", IP: netip.MustParseAddr("10.1.2.9"), Flags: unix.NTF_PROXY},
		{Interface: "eth0", IP: netip.MustParseAddr("fe80::9"), MAC: routerMAC, State: unix.NUD_PERMANENT, Flags: unix.NTF_ROUTER},
	}
	if !reflect.DeepEqual(state.Neighbours, want) {
		t.Errorf("got %+v, want %+v", state.Neighbours, want)
	}
}

// Interfaces come and go while others are read.
func TestScanInMotion(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	here := current(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET)
		for err == nil && ctx.Err() == nil {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "moving"}, PeerName: "motion"}
			if err = netlink.LinkAdd(link); err == nil {
				netlink.LinkSetUp(link)
				err = netlink.LinkDel(link)
			}
		}
		ended <- err
	}()
	for range 100 {
		scanned(t, "eth0")
	}
	cancel()
	must(t, <-ended)
}

func TestDumpAsksAgain(t *testing.T) {
	calls := 0
	list := func() ([]int, error) {
		if calls++; calls%2 == 1 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	}
	if all, err := dump("numbers", list); err != nil || len(all) != 2 {
		t.Errorf("%v %v", all, err)
	}
	always := func() ([]int, error) { return nil, netlink.ErrDumpInterrupted }
	if _, err := dump("numbers", always); !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("%v", err)
	}
}
