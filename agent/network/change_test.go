package network

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

func request(interfaces ...*protocol.Interface) *protocol.SetNetworkRequest {
	return &protocol.SetNetworkRequest{Interfaces: interfaces}
}

// Interfaces come, go, and exchange their names; each keeps its own.
func TestNames(t *testing.T) {
	l := newLab(t, nil)
	l.plug("1", "2", "3")
	l.ip(l.home, "link", "set", "new1", "name", "eth0") // a name that it shall not have
	steps := []struct {
		names map[string]string // device to name
		want  []string
	}{
		{map[string]string{"1": "eth1", "2": "eth0"}, []string{"eth0 2", "eth1 1"}},
		{map[string]string{"1": "eth0", "2": "eth1"}, []string{"eth0 1", "eth1 2"}},
		{map[string]string{"1": "eth1", "2": "eth2", "3": "eth0"}, []string{"eth0 3", "eth1 1", "eth2 2"}},
		{map[string]string{"1": "eth2", "2": "eth0", "3": "eth1"}, []string{"eth0 2", "eth1 3", "eth2 1"}},
		{map[string]string{"3": "eth2"}, []string{"eth2 3"}},
		{map[string]string{"1": "eth2", "3": "abcdefghijklmno"}, []string{"abcdefghijklmno 3", "eth2 1"}},
	}
	for _, step := range steps {
		var interfaces []*protocol.Interface
		for _, device := range []string{"1", "2", "3"} {
			if name := step.names[device]; name != "" {
				interfaces = append(interfaces, iface4(device, name, "10.0."+device+".2", 24))
			}
		}
		r := request(interfaces...)
		for _, i := range interfaces {
			device := string(i.Device[len(i.Device)-1:])
			r.Routes = append(r.Routes, by(i.Name, "10."+device+".0.0", 16, "10.0."+device+".1"))
		}
		l.set(r)
		var want, routes []string
		for _, line := range step.want {
			name, device, _ := strings.Cut(line, " ")
			want = append(want, name+" device "+device+" 1500 02:00:00:00:00:3"+device+" UP: 10.0."+device+".2/24")
			routes = append(routes, "10."+device+".0.0/16 via 10.0."+device+".1 dev "+name)
		}
		l.want("interfaces", l.show(l.containers), want...)
		got := l.routes("-4")
		for _, line := range routes {
			if !strings.Contains(strings.Join(got, "\n")+"\n", line+"\n") || len(got) != len(routes) {
				t.Errorf("routes %q, want %q", got, routes)
			}
		}
	}
}

// What a container changes by itself stays until the host changes the same thing, and its own interfaces stay always.
func TestContainersChanges(t *testing.T) {
	l := newLab(t, nil)
	l.plug("1", "2")
	eth0 := iface4("1", "eth0", "10.0.0.2", 24)
	r := request(eth0)
	r.Routes = []*protocol.Route{by("eth0", "", 0, "10.0.0.1"), by("eth0", "10.5.0.0", 16, "10.0.0.1")}
	l.set(r)
	for _, args := range []string{
		"link add name own type veth peer name pown",
		"link set own up",
		"addr add 10.0.0.7/24 dev eth0",
		"route add 10.6.0.0/16 via 10.0.0.3",
		"route del 10.5.0.0/16",
		"link set eth0 mtu 1300",
		"link add link eth0 name child type macvlan",
	} {
		l.ip(l.containers, strings.Fields(args)...)
	}
	check := func(eth0, own string, others ...string) {
		t.Helper()
		var got []string
		for _, line := range l.show(l.containers) {
			if !strings.HasPrefix(line, "child") && !strings.HasPrefix(line, "own") {
				got = append(got, line)
			}
		}
		l.want("interfaces", got, append([]string{eth0}, others...)...)
		if routes := strings.Join(l.routes("-4"), "\n"); routes != own {
			t.Errorf("routes\n%s\nwant\n%s", routes, own)
		}
		l.ip(l.containers, "link", "show", "own")
	}
	changed := "eth0 device 1 1300 02:00:00:00:00:31 UP: 10.0.0.2/24 10.0.0.7/24"
	routes := "default via 10.0.0.1 dev eth0\n10.6.0.0/16 via 10.0.0.3 dev eth0"
	l.set(r) // the same
	check(changed, routes)
	r.Interfaces = append(r.Interfaces, iface4("2", "eth1", "10.1.0.2", 24)) // another one
	l.set(r)
	net1 := "eth1 device 2 1500 02:00:00:00:00:32 UP: 10.1.0.2/24"
	check(changed, routes, net1)
	r.Routes[0] = by("eth0", "", 0, "10.0.0.9")
	l.set(r)
	check(changed, strings.Replace(routes, ".1 ", ".9 ", 1), net1)
	// With its first address an interface loses the others of the network, and routes: what the host wants of them is
	// made again.
	eth0.Addresses[0].Ip = bytesOf("10.0.0.5")
	l.set(r)
	check(strings.Replace(changed, "10.0.0.2/24 10.0.0.7/24", "10.0.0.5/24", 1),
		"default via 10.0.0.9 dev eth0\n10.5.0.0/16 via 10.0.0.1 dev eth0", net1)
	eth0.Mtu = 1450
	l.set(r)
	if got := l.show(l.containers); !strings.Contains(strings.Join(got, "\n"), "eth0 device 1 1450 ") {
		t.Errorf("interfaces %q", got)
	}
	// The name of a container's own interface is not to be had, which leaves everything as it was.
	r.Interfaces[1].Name = "own"
	if err := l.Set(l.ctx, r); err == nil || err.Error() !=
		"set interface own: the containers have another interface of this name: file exists" {
		t.Errorf("error %v", err)
	}
	l.ip(l.containers, "link", "del", "own")
	l.set(r)
	if got := l.show(l.containers); !strings.Contains(strings.Join(got, "\n"), "own device 2 1500 ") {
		t.Errorf("interfaces %q", got)
	}
}

// A device is waited for, and one that was unplugged and plugged again is made anew.
func TestPlug(t *testing.T) {
	l := newLab(t, nil)
	l.plug("1")
	r := request(iface4("1", "eth0", "10.0.0.2", 24), iface4("2", "eth1", "10.1.0.2", 24))
	r.Routes = []*protocol.Route{by("eth1", "", 0, "10.1.0.1")}
	done := make(chan error, 1)
	go func() { done <- l.Set(l.ctx, r) }()
	l.plug("3", "2")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := []string{"eth0 device 1 1500 02:00:00:00:00:31 UP: 10.0.0.2/24", "eth1 device 2 1500 02:00:00:00:00:32 UP: 10.1.0.2/24"}
	l.want("interfaces", l.show(l.containers), want...)
	l.ip(l.home, "link", "del", "p2") // and so its peer, the device
	l.plug("2")
	l.set(r)
	l.want("interfaces", l.show(l.containers), want...)
	l.want("routes", l.routes("-4"), "default via 10.1.0.1 dev eth1")
	l.ip(l.home, "link", "del", "p2")
	l.set(request(r.Interfaces[0])) // gone before the host says so
	l.want("interfaces", l.show(l.containers), want[0])

	ctx, cancel := context.WithCancel(l.ctx)
	go func() { done <- l.Set(ctx, r) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	l.want("interfaces", l.show(l.containers), want[0]) // nothing was half done
}

// After an error the next request goes on.
func TestErrorsOfTheKernel(t *testing.T) {
	l := newLab(t, nil)
	l.plug("1")
	r := request(iface4("1", "eth0", "10.0.0.2", 24))
	tests := []struct {
		name   string
		change func()
		reason string
	}{
		{"gateway", func() { r.Routes = []*protocol.Route{by("eth0", "", 0, "10.77.0.1")} },
			"add route default via 10.77.0.1: network is unreachable (Nexthop has invalid gateway)"},
		{"mtu", func() { r.Routes, r.Interfaces[0].Mtu = nil, 60000+9000 }, "set interface eth0: invalid argument (mtu greater than device maximum)"},
		{"prefix", func() { r.Interfaces[0].Mtu, r.Routes = 1500, []*protocol.Route{by("eth0", "10.1.1.1", 8, "10.0.0.1")} },
			"add route 10.1.1.1/8 via 10.0.0.1: invalid argument (Invalid prefix for given prefix length)"},
		{"none", func() { r.Routes = []*protocol.Route{by("eth0", "", 0, "10.0.0.1")} }, ""},
	}
	for _, test := range tests {
		test.change()
		if err := l.Set(l.ctx, r); (err == nil) != (test.reason == "") || err != nil && err.Error() != test.reason {
			t.Errorf("%s: error %v, want %s", test.name, err, test.reason)
		}
	}
	l.want("interfaces", l.show(l.containers), "eth0 device 1 1500 02:00:00:00:00:31 UP: 10.0.0.2/24")
	l.want("routes", l.routes("-4"), "default via 10.0.0.1 dev eth0")
}

func TestParseRefuses(t *testing.T) {
	good := func() *protocol.Interface { return iface4("1", "eth0", "10.0.0.2", 24) }
	named := func(name string) *protocol.Interface {
		i := good()
		i.Name = name
		return i
	}
	address := func(a *protocol.Address) *protocol.SetNetworkRequest {
		i := good()
		i.Addresses = []*protocol.Address{a}
		return request(i)
	}
	route := func(r *protocol.Route) *protocol.SetNetworkRequest {
		return &protocol.SetNetworkRequest{Interfaces: []*protocol.Interface{good()}, Routes: []*protocol.Route{r}}
	}
	tests := []struct {
		request *protocol.SetNetworkRequest
		reason  string
	}{
		{request(named("")), `interface name "" cannot be had`},
		{request(named("lo")), `interface name "lo" cannot be had`},
		{request(named("eth%d")), `interface name "eth%d" cannot be had`},
		{request(named("a/b")), `interface name "a/b" cannot be had`},
		{request(named("abcdefghijklmnop")), `interface name "abcdefghijklmnop" cannot be had`},
		{request(good(), good()), "two interfaces eth0"},
		{request(good(), named("eth1")), "is another's"},
		{request(&protocol.Interface{Name: "eth0"}), "is no hardware address"},
		{address(&protocol.Address{}), "is none"},
		{address(&protocol.Address{Ip: []byte{1, 2, 3}}), "is none"},
		{address(&protocol.Address{Ip: []byte{1, 2, 3, 4}, Prefix: 33}), "is none"},
		{address(&protocol.Address{Ip: []byte{1, 2, 3, 4}, Peer: bytesOf("fd00::1")}), "is none"},
		{route(by("eth7", "", 0, "10.0.0.1")), `route over "eth7", which is no interface`},
		{route(&protocol.Route{Family: 77}), "route of family 77"},
		{route(&protocol.Route{Family: unix.AF_INET, Destination: bytesOf("fd00::")}), "is none"},
		{route(&protocol.Route{Family: unix.AF_INET6, Gateway: bytesOf("10.0.0.1")}), "is none"},
		{&protocol.SetNetworkRequest{Neighbours: []*protocol.Neighbour{{Interface: "eth0", Ip: bytesOf("10.0.0.1")}}}, "no interface of the request"},
		{&protocol.SetNetworkRequest{Resolvers: [][]byte{bytesOf("10.0.0.1")}}, "not an IPv4 address of the loopback network"},
		{&protocol.SetNetworkRequest{Resolvers: [][]byte{bytesOf("::1")}}, "not an IPv4 address of the loopback network"},
		{&protocol.SetNetworkRequest{Resolvers: [][]byte{bytesOf("127.0.0.11"), bytesOf("127.0.0.11")}}, "two resolvers"},
	}
	for _, test := range tests {
		if _, err := parse(test.request); err == nil || !strings.Contains(err.Error(), test.reason) {
			t.Errorf("error %v, want %q", err, test.reason)
		}
	}
}
