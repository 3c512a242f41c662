// Package network_test joins containers to networks as engines and CNI plugins do, and looks from both sides.
package network_test

import (
	"fmt"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// pair is a namespace "out", in which a test's servers and clients live, and a container's namespace "in", with nothing
// between them yet.
type pair struct {
	*harness.Host
	out, in *harness.Namespace
}

func newPair(t *testing.T) *pair {
	t.Helper()
	h := harness.New(t)
	return &pair{h, h.Namespace(), h.Namespace()}
}

// veth joins the namespace of a process to "out": name gets .2 of the net, and the default route over .1 on the peer.
func (p *pair) veth(pid int, name, net string) {
	p.T.Helper()
	peer := "p" + name
	p.out.Sh(fmt.Sprintf(`ip link add %[1]s mtu 1400 type veth peer name %[2]s mtu 1400 address 02:00:0a:00:00:02 netns %[4]d
		ip addr add %[3]s.1/24 dev %[1]s
		ip addr add fd00:%[5]s::1/64 dev %[1]s nodad
		ip link set %[1]s up
		nsenter --net=/proc/%[4]d/ns/net sh -ec '
			ip addr add %[3]s.2/24 dev %[2]s
			ip addr add fd00:%[5]s::2/64 dev %[2]s nodad
			ip link set %[2]s up
			ip route add default via %[3]s.1 || true
			ip -6 route add default via fd00:%[5]s::1 || true
			ip neigh add %[3]s.77 lladdr 02:00:00:00:00:77 dev %[2]s'`,
		peer, name, net, pid, strings.ReplaceAll(net, ".", "")))
}

// sleeper is a container that waits in the namespace at path; in a new one when path is empty.
func (p *pair) sleeper(path string) *harness.Bundle {
	b := p.Sleeper()
	b.AddOrReplaceLinuxNamespace(string(specs.NetworkNamespace), path)
	return b
}

// bare checks that nothing of ours is left in a namespace: no tap, and no queue discipline that redirects.
func bare(t *testing.T, n *harness.Namespace) {
	t.Helper()
	if left := n.Sh("ip -o link show type tun; tc qdisc show | grep -E 'ingress|clsact' || true"); left != "" {
		t.Errorf("left in the namespace: %q", left)
	}
}

// reaches checks that the container and "out" reach each other over IPv4 and IPv6.
func (p *pair) reaches(c *harness.Container, net string) {
	p.T.Helper()
	v6 := "fd00:" + strings.ReplaceAll(net, ".", "") + "::"
	c.Sh("ping -c 1 -W 20 " + net + ".1 && ping6 -c 1 -W 20 " + v6 + "1")
	p.out.Sh("busybox ping -c 1 -W 20 " + net + ".2 && busybox ping6 -c 1 -W 20 " + v6 + "2")
}
