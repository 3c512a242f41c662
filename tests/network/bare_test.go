package network_test

import (
	"fmt"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// TestNothingAtFirst starts a container and a second one in its namespace, which has lo alone, and wires it only then, as
// `docker network connect` does. All that it may depend on is what create could know of the namespace.
func TestNothingAtFirst(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		create func(p *pair) *harness.Container
	}{
		{"a given namespace", func(p *pair) *harness.Container { return p.Create(p.ports(p.in.Path)) }},
		{"its own", func(p *pair) *harness.Container { return p.Create(p.ports("")) }},
		{"its own, with a hook", func(p *pair) *harness.Container {
			b := p.ports("")
			b.AddPreStartHook(specs.Hook{Path: "/bin/true"})
			return p.Create(b)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			first := test.create(p)
			first.Start()
			member := func() *harness.Container { return p.StartNew(p.sleeper(fmt.Sprintf("/proc/%d/ns/net", first.Pid))) }
			see := func(want string, all ...*harness.Container) {
				t.Helper()
				p.OK("network", "refresh", first.ID)
				for _, c := range all {
					if got := c.Sh("ls /sys/class/net; cat /sys/class/net/lo/flags /proc/sys/net/ipv4/ip_unprivileged_port_start"); got != want+"lo\n0x9\n77\n" {
						t.Errorf("it sees %q", got)
					}
				}
			}
			second := member()
			see("", first, second)

			const one, two = "10.3.1", "10.3.2"
			p.veth(first.Pid, "eth0", one)
			see("eth0\n", first, second)
			p.reaches(first, one)
			p.reaches(second, one)

			p.out.Sh("ip link del peth0")
			see("", first, second)

			p.veth(first.Pid, "eth0", one)
			p.veth(first.Pid, "eth1", two)
			third := member()
			see("eth0\neth1\n", first, second, third)
			p.reaches(first, one)
			p.reaches(third, two)
			for _, c := range []*harness.Container{third, second, first} {
				c.Remove()
			}
			bare(t, p.in)
		})
	}
}

// ports is a sleeper whose network namespace can be told by a parameter that is set in it.
func (p *pair) ports(path string) *harness.Bundle {
	b := p.sleeper(path)
	b.AddLinuxSysctl("net.ipv4.ip_unprivileged_port_start", "77")
	return b
}
