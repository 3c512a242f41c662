package network

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// A parked interface has no address at all, and the first request makes of it what it makes of any other.
func TestPark(t *testing.T) {
	for _, name := range []string{"eth0", "net1"} {
		l := newLab(t, nil)
		l.plug("1", "2")
		if err := l.Park(l.ctx, []byte(alias("1"))); err != nil {
			t.Fatal(err)
		}
		parked := l.show(l.containers)
		if len(parked) != 1 || !strings.HasPrefix(parked[0], "eth0 device 1 1500 ") || !strings.HasSuffix(parked[0], " UP:") {
			t.Errorf("parked: %q", parked)
		}
		if l.atContainers.drain() || l.seen == nil {
			t.Error("the first request has to look what there is")
		}
		r := request(iface4("1", name, "10.0.0.2", 24))
		l.set(r)
		want := name + " device 1 1500 02:00:00:00:00:31 UP: 10.0.0.2/24"
		l.want("interfaces", l.show(l.containers), want)
		r.Interfaces[0].NoLinkLocal = false
		l.set(r)
		l.want("interfaces", l.show(l.containers), want+" fe80::ff:fe00:31/64")
		r.Interfaces[0].Mac[5] = 0x99
		l.set(r)
		l.want("interfaces", l.show(l.containers), strings.Replace(want, ":31 ", ":99 ", 1)+" fe80::ff:fe00:99/64")
		r.Interfaces[0].NoLinkLocal = true
		l.set(r)
		l.want("interfaces", l.show(l.containers), strings.Replace(want, ":31 ", ":99 ", 1))
	}
	l := newLab(t, nil)
	l.plug("1", "2")
	if err := l.Park(l.ctx, []byte(alias("1"))); err != nil {
		t.Fatal(err)
	}
	l.set(request(iface4("2", "eth0", "10.0.0.2", 24))) // another device takes its name
	l.want("interfaces", l.show(l.containers), "eth0 device 2 1500 02:00:00:00:00:32 UP: 10.0.0.2/24")
	if err := l.Set(l.ctx, &protocol.SetNetworkRequest{}); err != nil {
		t.Fatal(err)
	}
	l.want("interfaces", l.show(l.containers))
}

// Where a container has switched IPv6 off, the link-local address is not missed, but others are.
func TestIPv6Off(t *testing.T) {
	l := newLab(t, nil)
	l.plug("1")
	eth0 := iface4("1", "eth0", "10.0.0.2", 24)
	l.set(request(eth0))
	off := func() error { return l.writeSysctl("net/ipv6/conf/eth0/disable_ipv6", "1") }
	if err := l.Network.containers.inside(off); err != nil {
		t.Fatal(err)
	}
	eth0.NoLinkLocal = false
	l.set(request(eth0))
	l.want("interfaces", l.show(l.containers), "eth0 device 1 1500 02:00:00:00:00:31 UP: 10.0.0.2/24")
	eth0.Addresses = append(eth0.Addresses, &protocol.Address{Ip: bytesOf("fd00::2"), Prefix: 64})
	if err := l.Set(l.ctx, request(eth0)); err == nil || !strings.HasPrefix(err.Error(), "add address fd00::2/64: permission denied") {
		t.Errorf("error %v", err)
	}
	eth0.Addresses, eth0.Mtu = eth0.Addresses[:1], 1000 // too small for IPv6
	l.set(request(eth0))
	l.want("interfaces", l.show(l.containers), "eth0 device 1 1000 02:00:00:00:00:31 UP: 10.0.0.2/24")
}

// writeSysctl sets a parameter of the calling thread's namespace.
func (l *lab) writeSysctl(name, value string) error {
	fd, err := unix.Open("/proc/sys/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}
