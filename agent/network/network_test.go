package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// guard is the time after which a test that hangs is ended.
const guard = time.Minute

// lab is a containers' network whose devices are ends of veth pairs, known by their aliases, in a namespace that stands
// for the guest's own.
type lab struct {
	*Network
	t                      *testing.T
	ctx                    context.Context
	home, containers, bare string // paths
}

func newLab(t *testing.T, dialHost func() (net.Conn, error)) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{
		t: t, home: filepath.Join(dir, "home"), containers: filepath.Join(dir, "containers"), bare: filepath.Join(dir, "bare"),
	}
	home, err := makeNamespace(l.home)
	if err != nil {
		t.Fatal(err)
	}
	l.Network, err = newNetwork(l.containers, l.bare, home, dialHost)
	if err != nil {
		t.Fatal(err)
	}
	l.identify = func(l link) string { return cString(l.attributes[unix.IFLA_IFALIAS]) }
	var cancel func()
	l.ctx, cancel = context.WithTimeout(t.Context(), guard)
	t.Cleanup(func() {
		cancel()
		l.names.close()
		l.inHome.close()
		l.inContainers.close()
		if l.inLeft != nil {
			l.inLeft.close()
		}
		l.atHome.close()
		l.atContainers.close()
		for _, path := range []string{l.home, l.containers, l.bare} {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
		unix.Close(l.Network.home.fd)
		unix.Close(l.Network.containers.fd)
		unix.Close(l.Network.bare.fd)
	})
	return l
}

// ip runs ip(8) in one of the namespaces.
func (l *lab) ip(namespace string, args ...string) string {
	l.t.Helper()
	out, err := exec.CommandContext(l.ctx, "nsenter", append([]string{"--net=" + namespace, "ip"}, args...)...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

// plug makes devices. Each one's peer is up, so that there is a carrier.
func (l *lab) plug(devices ...string) {
	l.t.Helper()
	for _, d := range devices {
		l.ip(l.home, "link", "add", "name", "old"+d, "type", "veth", "peer", "name", "p"+d)
		l.ip(l.home, "link", "set", "p"+d, "up")
		l.ip(l.home, "link", "set", "old"+d, "alias", alias(d))
		l.ip(l.home, "link", "set", "old"+d, "name", "new"+d) // of which the kernel tells, unlike of an alias
	}
}

// alias is what identifies a device: as long as a hardware address.
func alias(device string) string { return "device " + device }

func (l *lab) set(r *protocol.SetNetworkRequest) {
	l.t.Helper()
	if err := l.Set(l.ctx, r); err != nil {
		l.t.Fatal(err)
	}
}

// shown is what ip(8) tells of an interface.
type shown struct {
	Name    string   `json:"ifname"`
	Flags   []string `json:"flags"`
	MTU     int      `json:"mtu"`
	MAC     string   `json:"address"`
	Alias   string   `json:"ifalias"`
	Entries []struct {
		Local     string `json:"local"`
		Peer      string `json:"address"`
		Prefix    int    `json:"prefixlen"`
		Broadcast string `json:"broadcast"`
		Scope     string `json:"scope"`
		Tentative bool   `json:"tentative"`
	} `json:"addr_info"`
}

// show lists what there is in a namespace beside lo: interfaces and addresses, as
// "name alias mtu mac flags: addresses".
func (l *lab) show(namespace string) []string {
	l.t.Helper()
	var list []shown
	if err := json.Unmarshal([]byte(l.ip(namespace, "-d", "-j", "addr")), &list); err != nil {
		l.t.Fatal(err)
	}
	var lines []string
	for _, s := range list {
		if s.Name == "lo" || strings.HasPrefix(s.Name, "p") {
			continue
		}
		line := fmt.Sprintf("%s %s %d %s", s.Name, s.Alias, s.MTU, s.MAC)
		for _, flag := range []string{"UP", "NOARP"} {
			if slices.Contains(s.Flags, flag) {
				line += " " + flag
			}
		}
		if !slices.Contains(s.Flags, "MULTICAST") {
			line += " UNICAST" // which nobody has asked for
		}
		line += ":"
		for _, a := range s.Entries {
			line += fmt.Sprintf(" %s/%d", a.Local, a.Prefix)
			for _, more := range []string{a.Peer, a.Broadcast} {
				if more != "" {
					line += "," + more
				}
			}
			if a.Tentative {
				line += ",tentative"
			}
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func (l *lab) want(what string, got []string, want ...string) {
	l.t.Helper()
	if !slices.Equal(got, want) {
		l.t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// routes lists the routes that the kernel has not made, in the kernel's order.
func (l *lab) routes(args ...string) []string {
	l.t.Helper()
	var lines []string
	for line := range strings.Lines(l.ip(l.containers, append(args, "route", "show", "table", "all")...)) {
		if !strings.Contains(line, "proto kernel") && !strings.Contains(line, "proto ra") {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
	}
	return lines
}

// iface4 is a plain interface.
func iface4(device, name, ip string, prefix uint32) *protocol.Interface {
	i := &protocol.Interface{Device: []byte(alias(device)), Name: name, Mac: []byte{2, 0, 0, 0, 0, device[0]}, Mtu: 1500, Up: true, NoLinkLocal: true}
	if ip != "" {
		i.Addresses = []*protocol.Address{{Ip: bytesOf(ip), Prefix: prefix}}
	}
	return i
}

func bytesOf(ip string) []byte { return netip.MustParseAddr(ip).AsSlice() }

func by(name, destination string, prefix uint32, gateway string) *protocol.Route {
	r := &protocol.Route{
		Interface: name, Prefix: prefix, Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST,
		Protocol: unix.RTPROT_BOOT,
	}
	if destination != "" {
		r.Destination = bytesOf(destination)
	}
	if gateway != "" {
		r.Gateway = bytesOf(gateway)
	} else {
		r.Scope = unix.RT_SCOPE_LINK
	}
	if strings.Contains(destination+gateway, ":") {
		r.Family, r.Scope = unix.AF_INET6, 0
	}
	return r
}

// What docker makes of a user network with both families, CNI of a point-to-point one, and what else there is.
func TestSet(t *testing.T) {
	l := newLab(t, nil)
	l.plug("1", "2")
	eth0 := &protocol.Interface{
		Device: []byte(alias("1")), Name: "eth0", Mac: []byte{2, 0x42, 0xac, 0x12, 0, 2}, Mtu: 9000, Up: true,
		Addresses: []*protocol.Address{
			{Ip: bytesOf("172.18.0.2"), Prefix: 16, Broadcast: bytesOf("172.18.255.255")},
			{Ip: bytesOf("172.18.0.3"), Prefix: 16},
			{Ip: bytesOf("fd00::2"), Prefix: 64, Flags: unix.IFA_F_PERMANENT},
			{Ip: bytesOf("fe80::77"), Prefix: 64, Scope: unix.RT_SCOPE_LINK},
		},
	}
	net1 := &protocol.Interface{
		Device: []byte(alias("2")), Name: "net1", Mac: []byte{2, 0, 0, 0, 0, 9}, Mtu: 1400, Up: true, NoArp: true,
		Addresses: []*protocol.Address{{Ip: bytesOf("10.1.1.1"), Prefix: 32, Peer: bytesOf("10.1.1.2")}},
	}
	unreachable := by("", "10.9.0.0", 16, "")
	unreachable.Type, unreachable.Scope = unix.RTN_UNREACHABLE, 0
	onlink := by("net1", "10.7.0.0", 16, "10.77.0.1")
	onlink.Flags, onlink.Metric, onlink.Mtu = unix.RTNH_F_ONLINK|unix.RTNH_F_LINKDOWN, 50, 1300
	other := by("eth0", "", 0, "172.18.0.254")
	other.Table, other.Source = 1000, bytesOf("172.18.0.3")
	overV6 := by("eth0", "10.6.0.0", 16, "fd00::1")
	overV6.Family = unix.AF_INET
	request := &protocol.SetNetworkRequest{
		Interfaces: []*protocol.Interface{eth0, net1},
		Routes: []*protocol.Route{ // those by a gateway first, which the kernel would not take
			by("eth0", "", 0, "172.18.0.1"), by("eth0", "", 0, "fd00:1::1"), by("eth0", "fd00:1::1", 128, ""),
			by("net1", "10.8.0.0", 16, "169.254.1.1"), by("net1", "169.254.1.1", 32, ""), onlink, unreachable, other, overV6,
		},
		Neighbours: []*protocol.Neighbour{
			{Interface: "eth0", Ip: bytesOf("172.18.0.1"), Mac: []byte{2, 0, 0, 0, 0, 1}, State: unix.NUD_PERMANENT},
			{Interface: "eth0", Ip: bytesOf("fd00::1"), Mac: []byte{2, 0, 0, 0, 0, 1}, State: unix.NUD_PERMANENT, Flags: unix.NTF_ROUTER},
			{Interface: "eth0", Ip: bytesOf("172.18.0.9"), Flags: unix.NTF_PROXY},
		},
	}
	check := func() {
		t.Helper()
		l.want("interfaces", l.show(l.containers),
			"eth0 device 1 9000 02:42:ac:12:00:02 UP: 172.18.0.2/16,172.18.255.255 172.18.0.3/16 fd00::2/64 fe80::42:acff:fe12:2/64 fe80::77/64",
			"net1 device 2 1400 02:00:00:00:00:09 UP NOARP: 10.1.1.1/32,10.1.1.2 fe80::ff:fe00:9/64")
		l.want("IPv4 routes", slices.Sorted(slices.Values(l.routes("-4"))),
			"10.6.0.0/16 via inet6 fd00::1 dev eth0",
			"10.7.0.0/16 via 10.77.0.1 dev net1 metric 50 onlink mtu 1300",
			"10.8.0.0/16 via 169.254.1.1 dev net1",
			"169.254.1.1 dev net1 scope link",
			"default via 172.18.0.1 dev eth0",
			"default via 172.18.0.254 dev eth0 table 1000 src 172.18.0.3",
			"unreachable 10.9.0.0/16")
		l.want("IPv6 routes", l.routes("-6"), "fd00:1::1 dev eth0 metric 1024 pref medium", "default via fd00:1::1 dev eth0 metric 1024 pref medium")
		neighbours := strings.Fields(l.ip(l.containers, "neigh", "show", "nud", "permanent"))
		l.want("neighbours", neighbours, strings.Fields("172.18.0.1 dev eth0 lladdr 02:00:00:00:00:01 PERMANENT "+
			"fd00::1 dev eth0 lladdr 02:00:00:00:00:01 router PERMANENT")...)
		l.want("proxies", strings.Fields(l.ip(l.containers, "neigh", "show", "proxy")), "172.18.0.9", "dev", "eth0", "proxy")
	}
	l.set(request)
	check()
	l.set(request) // changes nothing
	check()
	eth0.Up = false // drops routes and IPv6 addresses
	request.Routes, request.Neighbours = nil, nil
	l.set(request)
	l.want("interfaces", l.show(l.containers)[:1], "eth0 device 1 9000 02:42:ac:12:00:02: 172.18.0.2/16,172.18.255.255 172.18.0.3/16 fd00::2/64 fe80::77/64")
	l.want("routes", l.routes("-4"))
	l.set(&protocol.SetNetworkRequest{})
	l.want("interfaces", l.show(l.containers))
	if home := l.show(l.home); len(home) != 2 || strings.Contains(home[0]+home[1], "UP") {
		t.Errorf("at home: %q", home)
	}
}
