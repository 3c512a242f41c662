package network

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func newTestTap(t *testing.T, queues int) *Tap {
	t.Helper()
	tap, err := NewTap(queues)
	must(t, err)
	t.Cleanup(func() { must(t, tap.Close()) })
	return tap
}

func TestFramesPass(t *testing.T) {
	enterNew(t)
	peer := addVeth(t, "eth0")
	wire := openWire(t, peer, "eth0")
	tap := newTestTap(t, 1)
	must(t, tap.Join(scanned(t, "eth0")))
	// Joining once more changes nothing.
	must(t, tap.Join(scanned(t, "eth0")))

	for _, text := range []string{"", "a", "to and fro", strings.Repeat("long", 300)} {
		sendTap(t, tap.Files()[0], frame(text))
		wire.expect(t, frame(text))
		wire.send(t, frame(text))
		expectTap(t, tap.Files()[0], frame(text))
	}
}

func TestTapDevice(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	must(t, netlink.LinkSetMTU(find(t, "eth0"), 9000))
	one, four := newTestTap(t, 1), newTestTap(t, 4)
	must(t, four.Join(scanned(t, "eth0")))
	if len(one.Files()) != 1 || len(four.Files()) != 4 {
		t.Fatalf("files: %d and %d", len(one.Files()), len(four.Files()))
	}
	if vhost := len(four.VHost()); HasVHost() && vhost != 4 || !HasVHost() && vhost != 0 {
		t.Errorf("%d vhost files; the host has vhost: %v", vhost, HasVHost())
	}
	link := find(t, four.owner.name).(*netlink.Tuntap)
	if link.Queues != 4 || link.MTU != 9000 || !link.NonPersist || link.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("the tap is %+v", link)
	}
	addresses, err := netlink.AddrList(link, unix.AF_UNSPEC)
	if err != nil || len(addresses) != 0 {
		t.Errorf("addresses %v, %v", addresses, err)
	}
	must(t, four.Leave())
	must(t, netlink.LinkSetMTU(find(t, "eth0"), 1400))
	must(t, one.Join(scanned(t, "eth0")))
	if mtu := find(t, one.owner.name).Attrs().MTU; mtu != 1400 {
		t.Errorf("MTU %d", mtu)
	}
	if _, err := NewTap(0); err == nil {
		t.Error("a tap without queues")
	}
}

func TestLeaveAndClose(t *testing.T) {
	enterNew(t)
	peer := addVeth(t, "eth0")
	wire := openWire(t, peer, "eth0")
	addVeth(t, "eth1")
	tap := newTestTap(t, 1)
	must(t, tap.Leave())
	must(t, tap.Join(scanned(t, "eth1")))
	must(t, tap.Join(scanned(t, "eth0"))) // leaves eth1
	wire.send(t, frame("hello"))
	expectTap(t, tap.Files()[0], frame("hello"))
	must(t, tap.Leave())
	must(t, tap.Leave())
	if find(t, tap.owner.name).Attrs().Flags&net.FlagUp != 0 {
		t.Error("the guest can talk to the host's kernel")
	}
	if found, all, err := redirects(handle(t), tap.index); err != nil || len(found)+len(all) != 0 {
		t.Errorf("the tap has %v %v %v", found, all, err)
	}
	must(t, tap.Join(scanned(t, "eth0")))
	must(t, tap.Close())
	must(t, tap.Close())
	untouched(t, "eth0", "eth1")
}

// A VMM that still runs has the tap open.
func TestCloseWithOpenFiles(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	tap := newTestTap(t, 1)
	must(t, tap.Join(scanned(t, "eth0")))
	fd, err := unix.Dup(int(tap.Files()[0].Fd()))
	must(t, err)
	defer unix.Close(fd)
	must(t, tap.Close())
	untouched(t, "eth0")
}

func TestInterfaceVanishes(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	i := scanned(t, "eth0")
	tap := newTestTap(t, 1)
	must(t, tap.Join(i))
	must(t, netlink.LinkDel(find(t, "eth0")))
	if err := tap.Join(i); !errors.Is(err, unix.ENODEV) {
		t.Errorf("joined an interface that is gone: %v", err)
	}
	must(t, tap.Leave())

	// Its successor can be joined, with what is left of the first.
	addVeth(t, "eth0")
	must(t, tap.Join(scanned(t, "eth0")))
	must(t, netlink.LinkDel(find(t, "eth0")))
	peer := addVeth(t, "eth0")
	must(t, tap.Join(scanned(t, "eth0")))
	wire := openWire(t, peer, "eth0")
	sendTap(t, tap.Files()[0], frame("again"))
	wire.expect(t, frame("again"))
	must(t, netlink.LinkDel(find(t, "eth0")))
	must(t, tap.Close())
	untouched(t)
}

// An interface that goes to another namespace loses its filters, and can come back.
func TestInterfaceMovesAway(t *testing.T) {
	enterNew(t)
	wireEnd := addVeth(t, "eth0")
	elsewhere, here := another(t), current(t)
	tap := newTestTap(t, 1)
	must(t, tap.Join(scanned(t, "eth0")))
	must(t, netlink.LinkSetNsFd(find(t, "eth0"), int(elsewhere.Fd())))
	inside(t, elsewhere, func() {
		untouched(t, "eth0")
		must(t, netlink.LinkSetNsFd(find(t, "eth0"), int(here.Fd())))
	})
	must(t, netlink.LinkSetUp(find(t, "eth0")))
	must(t, tap.Join(scanned(t, "eth0")))
	wire := openWire(t, wireEnd, "eth0")
	sendTap(t, tap.Files()[0], frame("back"))
	wire.expect(t, frame("back"))
}

func TestSecondVM(t *testing.T) {
	enterNew(t)
	peer := addVeth(t, "eth0")
	first, second := newTestTap(t, 1), newTestTap(t, 1)
	must(t, first.Join(scanned(t, "eth0")))
	err := second.Join(scanned(t, "eth0"))
	if err == nil || !strings.Contains(err.Error(), "eth0: its frames go to "+first.owner.name+" already") {
		t.Errorf("error %v", err)
	}
	must(t, second.Close())
	wire := openWire(t, peer, "eth0")
	wire.send(t, frame("first"))
	expectTap(t, first.Files()[0], frame("first"))
	must(t, first.Close())
	untouched(t, "eth0")
}

// foreignFilter puts on the ingress of an interface what another program may have there.
func foreignFilter(t *testing.T, name string, protocol uint16, priority uint16, actions ...netlink.Action) {
	t.Helper()
	must(t, netlink.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: find(t, name).Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS,
			Priority: priority, Protocol: protocol},
		Actions: actions,
	}))
}

func TestRedirectOfOthers(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	addVeth(t, "eth1")
	eth0, eth1 := find(t, "eth0").Attrs().Index, find(t, "eth1").Attrs().Index
	must(t, netlink.QdiscAdd(clsact(eth0)))
	foreignFilter(t, "eth0", unix.ETH_P_ALL, filterPriority, netlink.NewMirredAction(eth1))
	tap := newTestTap(t, 1)
	err := tap.Join(scanned(t, "eth0"))
	if err == nil || !strings.Contains(err.Error(), "its frames go to eth1 already") {
		t.Errorf("error %v", err)
	}
	must(t, tap.Close())
	must(t, Clean(""))
	if _, all, err := redirects(handle(t), eth0); err != nil || len(all) != 1 {
		t.Errorf("filters of others: %v %v", all, err)
	}
}

// What others have on the interface works on, and stays: with either kind of qdisc, whoever made it.
func TestFiltersOfOthers(t *testing.T) {
	ingress := func(index int) netlink.Qdisc {
		return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	}
	kinds := map[string]func(int) netlink.Qdisc{"ingress": ingress, "clsact": clsact, "ours": nil}
	enterNew(t)
	for kind, qdisc := range kinds {
		name := kind
		peer := addVeth(t, name)
		index := find(t, name).Attrs().Index
		must(t, netlink.QdiscAdd(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       1 << 20, Limit: 1 << 20, Buffer: 1 << 20,
		}))
		filters := 0
		if qdisc != nil {
			must(t, netlink.QdiscAdd(qdisc(index)))
			foreignFilter(t, name, unix.ETH_P_IP, 5)
			filters++
		}
		tap := newTestTap(t, 1)
		must(t, tap.Join(scanned(t, name)))
		foreignFilter(t, name, unix.ETH_P_IPV6, 7)
		filters++
		wire := openWire(t, peer, name)
		wire.send(t, frame(name))
		expectTap(t, tap.Files()[0], frame(name))
		sendTap(t, tap.Files()[0], frame(name))
		wire.expect(t, frame(name))
		must(t, tap.Close())
		must(t, Clean(""))
		_, all, err := redirects(handle(t), index)
		if err != nil || len(all) != filters {
			t.Errorf("%s: %d filters, want %d; %v", name, len(all), filters, err)
		}
		if n := tables(t, index); n != 0 {
			t.Errorf("%s: %d tables of our filter", name, n)
		}
		qdiscs, err := netlink.QdiscList(find(t, name))
		if err != nil || len(qdiscs) != 2 {
			t.Errorf("%s: qdiscs %v %v", name, qdiscs, err)
		}
	}
}

// tables counts what the ingress of an interface has with our priority, the empty tables of u32 filters too.
func tables(t *testing.T, index int) int {
	t.Helper()
	request := nl.NewNetlinkRequest(unix.RTM_GETTFILTER, unix.NLM_F_DUMP)
	request.AddData(&nl.TcMsg{Ifindex: int32(index), Parent: netlink.HANDLE_MIN_INGRESS})
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWTFILTER)
	must(t, err)
	found := 0
	for _, m := range messages {
		if nl.DeserializeTcMsg(m).Info>>16 == filterPriority {
			found++
		}
	}
	return found
}

// A qdisc without filters that was there before is not ours to remove.
func TestEmptyQdiscStays(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	index := find(t, "eth0").Attrs().Index
	must(t, netlink.QdiscAdd(clsact(index)))
	tap := newTestTap(t, 1)
	must(t, tap.Join(scanned(t, "eth0")))
	must(t, tap.Close())
	must(t, Clean(""))
	if err := netlink.QdiscAdd(clsact(index)); !os.IsExist(err) {
		t.Errorf("the qdisc is gone: %v", err)
	}
}

func clsact(index int) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

func handle(t *testing.T) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

func TestMacvtap(t *testing.T) {
	enterNew(t)
	peer := addVeth(t, "eth0")
	must(t, netlink.LinkSetMTU(find(t, "eth0"), 1400))
	wire := openWire(t, peer, "eth0")
	i := scanned(t, "eth0")
	tap, err := NewMacvtap(i, 2)
	must(t, err)
	t.Cleanup(func() { must(t, tap.Close()) })
	must(t, tap.Join(i))
	must(t, tap.Join(i))
	link := find(t, tap.owner.name).Attrs()
	if link.MTU != 1400 || link.HardwareAddr.String() != i.MAC.String() || len(tap.Files()) != 2 {
		t.Errorf("the macvtap is %+v with %d files", link, len(tap.Files()))
	}
	sendTap(t, tap.Files()[0], frame("out"))
	wire.expect(t, frame("out"))
	if _, err := NewMacvtap(i, 1); err == nil {
		t.Error("a second macvtap on the interface")
	}
	other := i
	other.Index++
	if err := tap.Join(other); err == nil {
		t.Error("joined another interface")
	}
	// The kernel chooses a queue by the frame: with one, there is no choice.
	must(t, tap.Close())
	untouched(t, "eth0")
	tap, err = NewMacvtap(i, 1)
	must(t, err)
	must(t, tap.Join(i))
	wire.send(t, frame("in"))
	expectTap(t, tap.Files()[0], frame("in"))
	must(t, netlink.LinkDel(find(t, "eth0")))
	must(t, tap.Close())
	untouched(t)
}

// A tap alone leaves no device in the namespace that it was made from, also when it is closed.
func TestTapAlone(t *testing.T) {
	enterNew(t)
	tap, err := NewTapAlone(1)
	if err != nil {
		t.Fatal(err)
	}
	before, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	if err := tap.Close(); err != nil {
		t.Error(err)
	}
	after, err := netlink.LinkList()
	if err != nil || len(before) != 1 || len(after) != 1 {
		t.Errorf("links %v, then %v, %v; want lo alone", before, after, err)
	}
}

// A tap that stays does so without files, until it is closed or its namespace ends.
func TestTapStays(t *testing.T) {
	enterNew(t)
	for _, stays := range []bool{false, true} {
		tap, err := NewTap(1)
		if err != nil {
			t.Fatal(err)
		}
		if stays {
			if err := tap.Stay(); err != nil {
				t.Fatal(err)
			}
		}
		if err := closeAll(tap.Files()); err != nil {
			t.Fatal(err)
		}
		if _, err := netlink.LinkByName(tap.owner.name); (err == nil) != stays {
			t.Errorf("stays %v: %v", stays, err)
		}
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
		if _, err := netlink.LinkByName(tap.owner.name); err == nil {
			t.Error("it is still there")
		}
	}
}
