package network

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// subscribed is a socket with what Watch reads. The kernel queues a change's messages before it answers who changed.
type subscribed int

func newSubscribed(t *testing.T) subscribed {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, subscribe(fd))
	return subscribed(fd)
}

// changed says whether any message since the last call matters.
func (s subscribed) changed(t *testing.T) bool {
	t.Helper()
	buffer := make([]byte, 1<<16)
	changed := false
	for {
		n, err := unix.Read(int(s), buffer)
		if err == unix.EAGAIN {
			return changed
		}
		must(t, err)
		changed = changed || matters(slices.Clone(buffer[:n]))
	}
}

// addQuiet makes an interface of which nothing is heard unless somebody changes it: it has no carrier to lose and no
// addresses that IPv6 is still probing.
func addQuiet(t *testing.T, name string) Interface {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	link := find(t, name)
	must(t, netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE))
	must(t, netlink.LinkSetUp(link))
	return Interface{Index: link.Attrs().Index, Name: name, MTU: 1400}
}

func TestWhatMatters(t *testing.T) {
	enterNew(t)
	addQuiet(t, "eth0")
	link := find(t, "eth0")
	index := link.Attrs().Index
	route := &netlink.Route{LinkIndex: index, Dst: network(t, "10.5.0.0/16"), Scope: unix.RT_SCOPE_LINK}
	route6 := &netlink.Route{LinkIndex: index, Dst: network(t, "fd05::/64")}
	neighbour := &netlink.Neigh{LinkIndex: index, IP: net.IPv4(10, 1, 2, 1), HardwareAddr: routerMAC, State: unix.NUD_PERMANENT}
	seen := newSubscribed(t)
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"MTU", func() error { return netlink.LinkSetMTU(link, 1400) }},
		{"address", func() error { addAddress(t, "eth0", "10.1.2.4/24", nil); return nil }},
		{"IPv6 address", func() error { addAddress(t, "eth0", "fd00::4/64", nil); return nil }},
		{"route", func() error { return netlink.RouteAdd(route) }},
		{"IPv6 route", func() error { return netlink.RouteAdd(route6) }},
		{"neighbour", func() error { return netlink.NeighAdd(neighbour) }},
		{"no neighbour", func() error { return netlink.NeighDel(neighbour) }},
		{"no IPv6 route", func() error { return netlink.RouteDel(route6) }},
		{"no route", func() error { return netlink.RouteDel(route) }},
		{"down", func() error { return netlink.LinkSetDown(link) }},
		{"new interface", func() error { return netlink.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}}) }},
		{"no interface", func() error { return netlink.LinkDel(link) }},
	} {
		seen.changed(t)
		must(t, step.do())
		if !seen.changed(t) {
			t.Errorf("%s does not matter", step.what)
		}
	}
}

// What we do ourselves does not matter: else every token would lead to the next.
func TestWhatDoesNotMatter(t *testing.T) {
	enterNew(t)
	i := addQuiet(t, "eth0")
	seen := newSubscribed(t)
	tap := newTestTap(t, 2)
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"join", func() error { return tap.Join(i) }},
		{"join again", func() error { return tap.Join(i) }},
		{"traffic", func() error {
			return netlink.NeighAdd(&netlink.Neigh{LinkIndex: i.Index, IP: net.IPv4(10, 1, 2, 1), HardwareAddr: routerMAC, State: unix.NUD_REACHABLE})
		}},
		{"leave", tap.Leave},
		{"close", tap.Close},
		{"clean", func() error { return Clean("") }},
	} {
		must(t, step.do())
		if seen.changed(t) {
			t.Errorf("%s matters", step.what)
		}
	}
}

// However much happens while nobody listens, one token waits, and none is missing after the last change.
func TestWatch(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := Watch(ctx)
	must(t, err)
	eth0 := find(t, "eth0")
	for n := range 2000 { // more than a socket holds
		must(t, netlink.LinkSetMTU(eth0, 1000+n))
	}
	for tokens := 0; ; tokens++ {
		if tokens > 50 {
			t.Fatal("a token for each change")
		}
		if !next(t, changes) {
			t.Fatal("the channel is closed")
		}
		if scanned(t, "eth0").MTU == 2999 {
			break
		}
	}
	cancel()
	for next(t, changes) {
	}
}

// next waits for a token. It is false when the channel is closed.
func next(t *testing.T, changes <-chan struct{}) bool {
	t.Helper()
	select {
	case _, open := <-changes:
		return open
	case <-time.After(guard):
		t.Fatal("no token")
		return false
	}
}
