package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// netSpec is a container in the containers' network namespace, with its interfaces in /sys.
func (g *guest) netSpec(id string, sysctl map[string]string, args ...string) []byte {
	g.t.Helper()
	var spec object
	if err := json.Unmarshal(g.spec(id, process(args...)), &spec); err != nil {
		g.t.Fatal(err)
	}
	spec["mounts"] = append(spec["mounts"].([]any), object{"destination": "/sys", "type": "sysfs", "source": "sysfs"})
	linux := spec["linux"].(object)
	linux["namespaces"] = append(linux["namespaces"].([]any), object{"type": "network", "path": g.network})
	linux["sysctl"] = sysctl
	return encode(g.t, spec)
}

// shell runs a script in a container of the network, and returns what it says.
func (g *guest) shell(id string, sysctl map[string]string, script string) string {
	g.t.Helper()
	e := g.open()
	r := g.createRequest(id, g.netSpec(id, sysctl, "sh", "-c", script), e.numbers)
	if _, err := g.Create(g.ctx, r); err != nil {
		g.t.Fatal(err)
	}
	g.start(id)
	out := read(g.t, e.stdout) + read(g.t, e.stderr)
	g.wait(id, "")
	g.delete(id, "")
	return out
}

// Containers see their network namespace and nothing of the agent's, in /sys as well, and sysctls of a specification
// take effect there.
func TestContainersNetwork(t *testing.T) {
	g := newGuest(t)
	if got := g.shell("c", nil, "ls /sys/class/net; cat /sys/class/net/lo/flags"); got != "lo\n0x9\n" { // up
		t.Errorf("interfaces %q", got)
	}
	sysctl := map[string]string{"net.ipv4.ip_unprivileged_port_start": "77", "net.ipv4.ip_forward": "1", "net.core.somaxconn": "99"}
	const show = "cd /proc/sys/net; cat ipv4/ip_unprivileged_port_start ipv4/ip_forward core/somaxconn"
	for range 2 { // the second container of a pod finds them as the first one left them
		if got := g.shell("c", sysctl, show); got != "77\n1\n99\n" {
			t.Errorf("sysctls %q", got)
		}
		sysctl = nil
	}
}

func TestSetNetworkRefuses(t *testing.T) {
	g := newGuest(t)
	_, err := g.SetNetwork(g.ctx, &protocol.SetNetworkRequest{Interfaces: []*protocol.Interface{{Name: "lo"}}})
	if err == nil || err.Error() != `interface name "lo" cannot be had` {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(g.ctx)
	cancel()
	if _, err := g.SetNetwork(ctx, &protocol.SetNetworkRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// reply is the answer to a DNS question for an IPv4 address (RFC 1035, 4.1): the question, and one record that names it.
// Of other types there is none.
func reply(question []byte, ip ...byte) []byte {
	answer := append([]byte{}, question...)
	answer[2], answer[3] = 0x81, 0x80 // a response, recursion desired and available
	end := 12
	for answer[end] != 0 {
		end += 1 + int(answer[end])
	}
	answer = answer[:end+5]
	if answer[end+2] != 1 { // A
		return answer
	}
	answer[7] = 1 // one record
	return append(answer, append([]byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4}, ip...)...)
}

// A container asks at 127.0.0.11, and the host answers.
func TestNameServer(t *testing.T) {
	g := newGuest(t)
	g.AnswerQuestions(func(_ context.Context, resolver int, tcp bool, message []byte) ([]byte, error) {
		if !strings.Contains(string(message), "\x05other\x04test\x00") {
			return nil, errors.New("no such name")
		}
		return reply(message, 10, 9, 8, byte(resolver)), nil
	})
	r := &protocol.SetNetworkRequest{Resolvers: [][]byte{{127, 0, 0, 12}, {127, 0, 0, 11}}}
	if _, err := g.SetNetwork(g.ctx, r); err != nil {
		t.Fatal(err)
	}
	got := g.shell("c", nil, "nslookup other.test 127.0.0.11; nslookup other.test 127.0.0.12")
	for _, want := range []string{"127.0.0.11:53\n", "Address: 10.9.8.1\n", "127.0.0.12:53\n", "Address: 10.9.8.0\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("nslookup says %q, without %q", got, want)
		}
	}
}
