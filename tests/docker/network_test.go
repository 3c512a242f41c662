package docker_test

import (
	"strings"
	"testing"
)

// networkCases are docker's networks as they reach into the VM, one test each.
var networkCases = []struct {
	name string
	test func(t *testing.T, e *engine)
}{
	{"bridge", testBridge},
	{"run -p", testPublish},
	{"names", testNames},
	{"connect, disconnect", testConnect},
	{"none, then connect", testConnectFromNone},
	{"--ip, --mac-address", testAddresses},
	{"--ipv6, mtu", testIPv6},
	{"--network host", testHostNetwork},
	{"sysctl", testNetworkSysctl},
}

func TestDockerNetwork(t *testing.T) {
	e := startEngine(t)
	for _, c := range networkCases {
		t.Run(c.name, func(t *testing.T) { c.test(t, e) })
	}
}

// server is a container that answers on port 80 with a word, in the background.
func (e *engine) server(t *testing.T, word string, flags ...string) string {
	t.Helper()
	args := append([]string{"run", "--detach"}, flags...)
	return e.ok(t, append(args, image, "sh", "-c", "trap 'exit 0' TERM; while :; do echo "+word+" | nc -l -p 80 & wait $!; done")...)
}

// network makes a network that goes with the test.
func (e *engine) network(t *testing.T, name string, flags ...string) {
	t.Helper()
	e.ok(t, append(append([]string{"network", "create"}, flags...), name)...)
	t.Cleanup(func() {
		if ids := strings.Fields(e.ok(t, "ps", "--all", "--quiet", "--filter", "network="+name)); len(ids) > 0 {
			e.ok(t, append([]string{"rm", "--force"}, ids...)...)
		}
		e.ok(t, "network", "rm", name)
	})
}

// fetch is the word of a server as a container with these flags gets it. nc waits for stdin's end.
func (e *engine) fetch(t *testing.T, host string, flags ...string) string {
	t.Helper()
	args := append([]string{"run", "--rm"}, flags...)
	return e.ok(t, append(args, image, "sh", "-c", "until nc -w 9 "+host+" 80 </dev/null; do sleep 1; done")...)
}

func testBridge(t *testing.T, e *engine) {
	id := e.sleeper(t)
	address, mac, gateway := e.inspect(t, id, "{{.NetworkSettings.IPAddress}}"), e.inspect(t, id, "{{.NetworkSettings.MacAddress}}"),
		e.inspect(t, id, "{{.NetworkSettings.Gateway}}")
	out := e.ok(t, "exec", id, "sh", "-c", "cat /sys/class/net/eth0/address; ip -o -4 addr show dev eth0; ip route; ping -c 1 -W 20 "+gateway+" >/dev/null && echo reached")
	for _, want := range []string{mac + "\n", "inet " + address + "/16 ", "default via " + gateway + " dev eth0", "reached"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q has no %q", out, want)
		}
	}
	e.net.Sh("busybox ping -c 1 -W 20 " + address)
	if got := e.fetch(t, e.inspect(t, e.server(t, "one"), "{{.NetworkSettings.IPAddress}}")); got != "one" {
		t.Errorf("between containers: %q", got)
	}
}

func testPublish(t *testing.T, e *engine) {
	id := e.server(t, "published", "-p", "8085:80")
	for _, host := range []string{"127.0.0.1", e.inspect(t, id, "{{.NetworkSettings.Gateway}}")} {
		got := e.net.Sh("until out=$(busybox nc -w 20 " + host + " 8085 </dev/null) && test -n \"$out\"; do sleep 1; done; echo $out")
		if got != "published\n" {
			t.Errorf("at %s: %q", host, got)
		}
	}
}

// testNames resolves names through docker's name server at 127.0.0.11.
func testNames(t *testing.T, e *engine) {
	e.network(t, "named")
	e.server(t, "two", "--network", "named", "--name", "second", "--network-alias", "other")
	if got := e.fetch(t, "second", "--network", "named"); got != "two" {
		t.Errorf("by name: %q", got)
	}
	out := e.ok(t, "run", "--rm", "--network", "named", image, "sh", "-c",
		"cat /etc/resolv.conf; nslookup other; nslookup no-such; nc -l -p 53 & sleep 1; netstat -ltn; kill $!")
	if !strings.Contains(out, "nameserver 127.0.0.11") || !strings.Contains(out, "Address: 172.") || strings.Count(out, "Name:") != 1 {
		t.Errorf("the name server says %q", out)
	}
	if !strings.Contains(out, ":53 ") {
		t.Errorf("the container cannot have port 53 itself: %q", out)
	}
}

// testConnect changes the networks of a running container.
func testConnect(t *testing.T, e *engine) {
	e.network(t, "later")
	e.server(t, "three", "--network", "later", "--name", "third")
	id := e.sleeper(t, "--name", "joiner")
	e.ok(t, "network", "connect", "--alias", "alias", "later", id)
	address := e.inspect(t, id, "{{.NetworkSettings.Networks.later.IPAddress}}")
	until := func(what string) string {
		return e.ok(t, "exec", id, "sh", "-c", "for i in $(seq 100); do "+what+" && exit; sleep 0.1; done; ip addr; cat /etc/resolv.conf /etc/hosts; exit 1")
	}
	until("ip -o addr show dev eth1 2>/dev/null | grep -q " + address)
	if got := until("nc -w 9 third 80 </dev/null"); got != "three" {
		t.Errorf("on the new network: %q", got)
	}
	if got := e.ok(t, "exec", id, "cat", "/etc/hosts"); !strings.Contains(got, address) {
		t.Errorf("hosts after connect: %q", got)
	}
	e.net.Sh("busybox ping -c 1 -W 20 " + address)
	e.ok(t, "network", "disconnect", "later", id)
	until("! ip link show dev eth1 2>/dev/null")
	e.net.Sh("busybox ping -c 1 -W 20 " + e.inspect(t, id, "{{.NetworkSettings.IPAddress}}"))
}

func testConnectFromNone(t *testing.T, e *engine) {
	e.network(t, "first")
	id := e.sleeper(t, "--network", "none")
	if got := e.ok(t, "exec", id, "ls", "/sys/class/net"); got != "lo" {
		t.Errorf("without a network: %q", got)
	}
	e.ok(t, "network", "disconnect", "none", id)
	for range 2 {
		e.ok(t, "network", "connect", "first", id)
		address := e.inspect(t, id, "{{.NetworkSettings.Networks.first.IPAddress}}")
		e.ok(t, "exec", id, "sh", "-c", "until ip -o addr show 2>/dev/null | grep -q "+address+"; do sleep 0.1; done")
		e.net.Sh("busybox ping -c 1 -W 20 " + address)
		e.ok(t, "network", "disconnect", "first", id)
		e.ok(t, "exec", id, "sh", "-c", "until test \"$(ls /sys/class/net)\" = lo; do sleep 0.1; done")
	}
}

func testAddresses(t *testing.T, e *engine) {
	e.network(t, "fixed", "--subnet", "10.44.0.0/24")
	out := e.ok(t, "run", "--rm", "--network", "fixed", "--ip", "10.44.0.44", "--mac-address", "02:42:00:00:00:44", "--dns", "10.9.8.7", image,
		"sh", "-c", "ip addr show dev eth0; ping -c 1 -W 20 10.44.0.1")
	if !strings.Contains(out, "inet 10.44.0.44/24") || !strings.Contains(out, "link/ether 02:42:00:00:00:44") {
		t.Errorf("%q", out)
	}
}

func testIPv6(t *testing.T, e *engine) {
	e.network(t, "six", "--ipv6", "--subnet", "fd00:44::/64", "-o", "com.docker.network.driver.mtu=9000")
	server := e.server(t, "six", "--network", "six", "--name", "sixth")
	out := e.ok(t, "run", "--rm", "--network", "six", image, "sh", "-c",
		"cat /sys/class/net/eth0/mtu; ping6 -c 1 -W 20 "+e.inspect(t, server, "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}")+
			" >/dev/null && ping -s 8000 -c 1 -W 20 sixth >/dev/null && echo reached")
	if out != "9000\nreached" {
		t.Errorf("%q", out)
	}
}

// testHostNetwork: a VM has no way into the host's own network.
func testHostNetwork(t *testing.T, e *engine) {
	r := e.run(t, "run", "--rm", "--network", "host", image, "true")
	if r.Code == 0 || !strings.Contains(r.Stderr, "host network") {
		t.Errorf("%v", r)
	}
}

func testNetworkSysctl(t *testing.T, e *engine) {
	out := e.ok(t, "run", "--rm", "--sysctl", "net.ipv4.conf.eth0.forwarding=1", "--sysctl", "net.core.somaxconn=77", image,
		"cat", "/proc/sys/net/ipv4/conf/eth0/forwarding", "/proc/sys/net/core/somaxconn")
	if out != "1\n77" {
		t.Errorf("%q", out)
	}
}
