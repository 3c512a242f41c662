package network

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guard is the longest that a test waits for what must come.
const guard = 30 * time.Second

// enterNew puts the rest of the test into a network namespace of its own. The test keeps its thread, which ends with it.
func enterNew(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	must(t, netlink.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "lo"}}))
}

// current opens the namespace of the test's thread.
func current(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

// another makes one more namespace.
func another(t *testing.T) *os.File {
	t.Helper()
	here := current(t)
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	there := current(t)
	must(t, unix.Setns(int(here.Fd()), unix.CLONE_NEWNET))
	return there
}

// inside calls f in another namespace.
func inside(t *testing.T, namespace *os.File, f func()) {
	t.Helper()
	here := current(t)
	must(t, unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET))
	f()
	must(t, unix.Setns(int(here.Fd()), unix.CLONE_NEWNET))
}

// addVeth makes a veth here, up, and its peer of the same name in a namespace of its own, up too, which is returned.
func addVeth(t *testing.T, name string) *os.File {
	t.Helper()
	peer := another(t)
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: name, PeerNamespace: netlink.NsFd(int(peer.Fd()))}))
	must(t, netlink.LinkSetUp(find(t, name)))
	inside(t, peer, func() { must(t, netlink.LinkSetUp(find(t, name))) })
	return peer
}

func find(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	return link
}

// scanned is an interface as Scan sees it.
func scanned(t *testing.T, name string) Interface {
	t.Helper()
	state, err := Scan()
	must(t, err)
	for _, i := range state.Interfaces {
		if i.Name == name {
			return i
		}
	}
	t.Fatalf("Scan does not list %s but %v", name, state.Interfaces)
	return Interface{}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// etherType is one that nobody uses: IEEE 802, local experimental.
const etherType = 0x88b5

// frame is an Ethernet frame for everyone.
func frame(text string) []byte {
	header := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, etherType >> 8, etherType & 0xff}
	return append(header, text...)
}

// wire is the far end of a veth.
type wire struct {
	fd int
}

func openWire(t *testing.T, namespace *os.File, name string) wire {
	t.Helper()
	var w wire
	inside(t, namespace, func() {
		protocol := uint16(etherType>>8 | etherType&0xff<<8)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
		must(t, err)
		index := find(t, name).Attrs().Index
		must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: index}))
		timeout := unix.NsecToTimeval(int64(guard))
		must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
		w = wire{fd}
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func (w wire) send(t *testing.T, f []byte) {
	t.Helper()
	_, err := unix.Write(w.fd, f)
	must(t, err)
}

func (w wire) expect(t *testing.T, f []byte) {
	t.Helper()
	buffer := make([]byte, 1<<16)
	n, err := unix.Read(w.fd, buffer)
	must(t, err)
	if !bytes.Equal(buffer[:n], f) {
		t.Fatalf("the wire has %q, want %q", buffer[:n], f)
	}
}

// vnetHeader is the size of a virtio_net_hdr before QEMU sets another.
const vnetHeader = 10

func sendTap(t *testing.T, file *os.File, f []byte) {
	t.Helper()
	_, err := file.Write(append(make([]byte, vnetHeader), f...))
	must(t, err)
}

// expectTap reads frames until the one that is wanted: IPv6 sends some of its own.
func expectTap(t *testing.T, file *os.File, f []byte) {
	t.Helper()
	must(t, file.SetReadDeadline(time.Now().Add(guard)))
	buffer := make([]byte, 1<<16)
	for {
		n, err := file.Read(buffer)
		must(t, err)
		if n > vnetHeader && bytes.Equal(buffer[vnetHeader:n], f) {
			return
		}
	}
}

// untouched fails the test if an interface has an ingress, or the namespace a tap of ours.
func untouched(t *testing.T, interfaces ...string) {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	for _, link := range links {
		if isOurs(link) {
			t.Errorf("%s is left over", link.Attrs().Name)
		}
	}
	for _, name := range interfaces {
		qdiscs, err := netlink.QdiscList(find(t, name))
		must(t, err)
		for _, qdisc := range qdiscs {
			if qdisc.Attrs().Parent == netlink.HANDLE_CLSACT {
				t.Errorf("%s has %v", name, qdisc)
			}
		}
	}
}

func addAddress(t *testing.T, name, address string, change func(*netlink.Addr)) {
	t.Helper()
	a, err := netlink.ParseAddr(address)
	must(t, err)
	a.Flags = unix.IFA_F_NODAD
	if a.IP.To4() != nil {
		a.Flags = 0
	}
	if change != nil {
		change(a)
	}
	must(t, netlink.AddrAdd(find(t, name), a))
}

func network(t *testing.T, text string) *net.IPNet {
	t.Helper()
	p, err := netip.ParsePrefix(text)
	must(t, err)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
