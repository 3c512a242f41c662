package network_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBeforeCreate is the order of CNI and podman: the namespace is wired when create is called.
func TestBeforeCreate(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.veth(p.in.Pid, "eth0", "10.1.1")
	p.in.Sh("ip route add 10.99.0.0/16 via 10.1.1.9 metric 7; ip route add 10.98.0.9 via 10.50.0.1 dev eth0 onlink; ip route add blackhole 10.97.0.0/16")
	c := p.StartNew(p.sleeper(p.in.Path))
	p.reaches(c, "10.1.1")

	for script, want := range map[string]string{
		"cat /sys/class/net/eth0/address":      "02:00:0a:00:00:02\n",
		"cat /sys/class/net/eth0/mtu":          "1400\n",
		"ls /sys/class/net":                    "eth0\nlo\n",
		"cat /sys/class/net/eth0/operstate":    "up\n",
		"ip route show exact 10.99.0.0/16":     "10.99.0.0/16 via 10.1.1.9 dev eth0 metric 7",
		"ip route show exact 10.98.0.9":        "10.98.0.9 via 10.50.0.1 dev eth0 onlink",
		"ip route show exact default":          "default via 10.1.1.1 dev eth0",
		"ip -6 route show default":             "default via fd00:1011::1 dev eth0",
		"ip route get 10.97.0.1 2>&1 || true":  "Invalid argument",
		"ip neigh show dev eth0 nud permanent": "10.1.1.77 lladdr 02:00:00:00:00:77",
		"ip -o -4 addr show dev eth0":          "inet 10.1.1.2/24 ",
		"ip -o addr show dev lo":               "inet 127.0.0.1/8",
	} {
		if got := strings.ReplaceAll(c.Sh(script), "  ", " "); !strings.Contains(got, want) || strings.HasSuffix(want, "\n") && got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	// Engines find the addresses where they put them.
	if got := p.in.Sh("ip -o -4 addr show dev eth0"); !strings.Contains(got, "10.1.1.2/24") {
		t.Errorf("in the host's namespace: %q", got)
	}
	c.Remove()
	bare(t, p.in)
}

// TestBetweenCreateAndStart is the order of docker from 26 on: create makes the namespace, the engine wires it, then
// calls start. Nobody is known to do so with a namespace that it gives.
func TestBetweenCreateAndStart(t *testing.T) {
	t.Parallel()
	for _, given := range []bool{false, true} {
		p := newPair(t)
		b := p.Shell("ip -o -4 addr show dev eth0; ping -c 1 -W 20 10.1.2.1 >/dev/null && echo reached")
		if given {
			b.AddOrReplaceLinuxNamespace("network", p.in.Path)
		}
		c := p.Create(b)
		p.veth(c.Pid, "eth0", "10.1.2")
		c.Start()
		if r := c.Wait(); r.Code != 0 || !strings.Contains(r.Stdout, "inet 10.1.2.2/24") || !strings.HasSuffix(r.Stdout, "reached\n") {
			t.Errorf("the container left %v", r)
		}
		p.OK("delete", c.ID)
	}
}

// TestWhileRunning changes the network of a running container, as `docker network connect` does. refresh returns when
// the guest has followed.
func TestWhileRunning(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.veth(p.in.Pid, "eth0", "10.1.3")
	c := p.StartNew(p.sleeper(p.in.Path))
	p.reaches(c, "10.1.3")

	p.veth(p.in.Pid, "eth1", "10.1.4")
	p.OK("network", "refresh", c.ID)
	p.reaches(c, "10.1.4")
	p.reaches(c, "10.1.3")

	p.in.Sh("ip link set eth1 down; ip link set eth1 name lan; ip link set lan mtu 1300 up; ip addr add 10.1.4.3/24 dev lan; ip addr del 10.1.3.2/24 dev eth0")
	p.OK("network", "refresh", c.ID)
	if got := c.Sh("ls /sys/class/net; cat /sys/class/net/lan/mtu; ip -o -4 addr show dev eth0"); got != "eth0\nlan\nlo\n1300\n" {
		t.Errorf("after a new name, MTU, and the loss of an address: %q", got)
	}
	p.out.Sh("busybox ping -c 1 -W 20 10.1.4.3")

	p.out.Sh("ip link del peth0")
	p.OK("network", "refresh", c.ID)
	if got := c.Sh("ls /sys/class/net"); got != "lan\nlo\n" {
		t.Errorf("interfaces after one is gone: %q", got)
	}
	p.veth(p.in.Pid, "eth0", "10.1.3") // gets the NIC that the first one had
	p.OK("network", "refresh", c.ID)
	p.reaches(c, "10.1.3")
	c.Remove()
	bare(t, p.in)
}

// TestFollows changes the network and asks nothing of the runtime.
func TestFollows(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.veth(p.in.Pid, "eth0", "10.1.5")
	b := p.Shell("echo ready; until ip -o addr show dev eth1 2>/dev/null | grep -q 10.1.6.2; do sleep 0.1; done; echo there")
	b.AddOrReplaceLinuxNamespace("network", p.in.Path)
	c := p.StartNew(b)
	c.Stdout.Expect(t, "ready")
	p.veth(p.in.Pid, "eth1", "10.1.6")
	if r := c.Wait(); r.Stdout != "ready\nthere\n" {
		t.Errorf("the container left %v", r)
	}
	p.OK("delete", c.ID)
	bare(t, p.in)
}

// TestDeaths ends sandboxes in every way; in a namespace that outlives them nothing may stay.
func TestDeaths(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(p *pair, pid int)
	}{
		{"the keeper is killed", func(p *pair, pid int) { unix.Kill(pid, unix.SIGKILL) }},
		{"QEMU is killed", func(p *pair, pid int) { unix.Kill(p.VMs()[0], unix.SIGKILL) }},
		{"the interface goes first", func(p *pair, pid int) { p.out.Sh("ip link del peth0"); unix.Kill(pid, unix.SIGKILL) }},
		{"the namespace goes first", func(p *pair, pid int) { p.in.Close(); unix.Kill(pid, unix.SIGKILL) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.veth(p.in.Pid, "eth0", "10.1.7")
			c := p.StartNew(p.sleeper(p.in.Path))
			p.reaches(c, "10.1.7")
			test.end(p, c.Pid)
			c.Wait()
			p.OK("delete", "--force", c.ID)
			if test.name != "the namespace goes first" {
				bare(t, p.in)
			}
		})
	}
}

// TestHostNetwork: a VM has no way into the host's own network.
func TestHostNetwork(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	b := p.Sleeper()
	b.RemoveLinuxNamespace("network")
	if c, r := p.TryCreate(b); c != nil || !strings.Contains(r.Stderr, "network") || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("%v, want one line about the network", r)
	}
}

// TestOursMacvtap has the interfaces reach the guest the other way.
func TestOursMacvtap(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	config := p.WriteFile("macvtap.toml", p.ReadFile(p.Runtime.Config)+"\nnetwork_model = \"macvtap\"\n", 0o600)
	p.Runtime.Args = []string{"--config", config}
	p.veth(p.in.Pid, "eth0", "10.1.8")
	c := p.StartNew(p.sleeper(p.in.Path))
	p.reaches(c, "10.1.8")
	p.veth(p.in.Pid, "eth1", "10.2.8")
	p.OK("network", "refresh", c.ID)
	p.reaches(c, "10.2.8")
	c.Remove()
	if left := p.in.Sh("ip -o link show type macvtap"); left != "" {
		t.Errorf("left in the namespace: %q", left)
	}
}
