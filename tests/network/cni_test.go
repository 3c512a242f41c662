package network_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// plugins is where Debian's containernetworking-plugins are.
const plugins = "/usr/lib/cni"

// chain is a CNI network list for one container (CNI specification 1.0, section 4: add in order, delete in reverse).
type chain struct {
	t    *testing.T
	p    *pair
	id   string
	list []map[string]any
}

// call runs one plugin in "out", for the container's namespace "in".
func (n *chain) call(verb string, config map[string]any, previous json.RawMessage) json.RawMessage {
	n.t.Helper()
	config = maps.Clone(config)
	config["cniVersion"], config["name"] = "1.0.0", n.p.Token
	if previous != nil {
		config["prevResult"] = previous
	}
	stdin, err := json.Marshal(config)
	if err != nil {
		n.t.Fatal(err)
	}
	ifname, _ := config["ifname"].(string)
	if ifname == "" {
		ifname = "eth0"
	}
	cmd := n.p.out.Command(plugins + "/" + config["type"].(string))
	cmd.Env = append(cmd.Env, "CNI_COMMAND="+verb, "CNI_CONTAINERID="+n.id, "CNI_NETNS="+n.p.in.Path, "CNI_IFNAME="+ifname, "CNI_PATH="+plugins)
	process := n.p.Spawn(cmd)
	if _, err := process.Stdin.Write(stdin); err != nil {
		n.t.Error(err)
	}
	process.Stdin.Close()
	r := process.Wait()
	if r.Code != 0 {
		n.t.Fatalf("%s %s: %v", verb, config["type"], r)
	}
	return json.RawMessage(r.Stdout)
}

func (n *chain) add() json.RawMessage {
	n.t.Helper()
	var result json.RawMessage
	for _, config := range n.list {
		if previous := n.call("ADD", config, result); len(previous) > 0 && config["type"] != "loopback" {
			result = previous
		}
	}
	return result
}

func (n *chain) del(result json.RawMessage) {
	n.t.Helper()
	for _, config := range slices.Backward(n.list) {
		n.call("DEL", config, result)
	}
}

// TestCNI wires a container with the real plugins as Kubernetes does, and looks at it from outside.
func TestCNI(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.out.Sh("sysctl -qw net.ipv4.ip_forward=1")
	ipam := func(subnet string) map[string]any {
		return map[string]any{"type": "host-local", "dataDir": p.Path("ipam"), "ranges": []any{[]any{map[string]any{"subnet": subnet}}},
			"routes": []any{map[string]any{"dst": "0.0.0.0/0"}}}
	}
	n := &chain{t: t, p: p, id: p.ID(), list: []map[string]any{
		{"type": "loopback", "ifname": "lo"},
		{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "mtu": 1450, "ipam": ipam("10.22.0.0/24")},
		{"type": "portmap", "capabilities": map[string]any{"portMappings": true}, "runtimeConfig": map[string]any{
			"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}},
		{"type": "bandwidth", "ingressRate": 40_000_000, "ingressBurst": 4_000_000, "egressRate": 40_000_000, "egressBurst": 4_000_000},
	}}
	result := n.add()
	b := p.Shell("echo ready; exec nc -ll -p 80 -e echo hello")
	b.AddOrReplaceLinuxNamespace("network", p.in.Path)
	c := p.StartNew(b)
	c.Stdout.Expect(t, "ready")

	var ips struct {
		IPs []struct{ Address, Gateway string }
	}
	if err := json.Unmarshal(result, &ips); err != nil || len(ips.IPs) != 1 {
		t.Fatalf("%s: %v", result, err)
	}
	address, _, _ := strings.Cut(ips.IPs[0].Address, "/")
	if got := c.Sh("ip -o -4 addr show dev eth0; cat /sys/class/net/eth0/mtu; ping -c 1 -W 20 " + ips.IPs[0].Gateway); !strings.Contains(got, address) || !strings.Contains(got, "\n1450\n") {
		t.Errorf("in the container: %q", got)
	}
	for _, where := range []string{address + " 80", "127.0.0.1 8080"} {
		if got := p.out.Sh("echo | busybox nc -w 20 " + where); got != "hello\n" {
			t.Errorf("from %s: %q", where, got)
		}
	}
	c.Remove()
	n.del(result)
	bare(t, p.in)
}

// TestCNIMacvlan chains a second interface, a macvlan, which has its own way of delivery.
func TestCNIMacvlan(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	lan := p.Namespace()
	p.out.Sh(fmt.Sprintf(`ip link add trunk type veth peer name far netns %d
		ip link set trunk up
		nsenter --net=%s sh -ec 'ip addr add 10.33.0.1/24 dev far; ip link set far up'`, lan.Pid, lan.Path))
	n := &chain{t: t, p: p, id: p.ID(), list: []map[string]any{
		{"type": "bridge", "bridge": "cni0", "ipam": map[string]any{"type": "static", "addresses": []any{map[string]any{"address": "10.34.0.2/24"}}}},
		{"type": "macvlan", "master": "trunk", "ifname": "net1", "ipam": map[string]any{"type": "static",
			"addresses": []any{map[string]any{"address": "10.33.0.2/24"}}}},
	}}
	result := n.add()
	c := p.StartNew(p.sleeper(p.in.Path))
	c.Sh("ping -c 1 -W 20 10.33.0.1; ip addr show dev eth0 | grep -q 10.34.0.2/24")
	lan.Sh("busybox ping -c 1 -W 20 10.33.0.2")
	c.Remove()
	n.del(result)
	bare(t, p.in)
}
