package network

import (
	"testing"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// Containers that are in the bare namespace get there what the host says after all, whatever waits elsewhere.
func TestBare(t *testing.T) {
	for _, parked := range []string{"", "1", "2"} {
		t.Run("parked "+parked, func(t *testing.T) {
			l := newLab(t, nil)
			l.plug("1", "2")
			if parked != "" {
				if err := l.Park(l.ctx, []byte(alias(parked))); err != nil {
					t.Fatal(err)
				}
			}
			set := func(r *protocol.SetNetworkRequest) {
				t.Helper()
				r.Bare = true
				l.set(r)
			}
			waiting, left, bare := l.show(l.containers), l.containers, l.bare
			set(&protocol.SetNetworkRequest{})
			l.want("what waits", l.show(left), waiting...)
			l.want("what the containers have", l.show(bare))

			r := request(iface4("1", "eth0", "10.0.0.2", 24))
			r.Interfaces[0].Mtu = 1400
			r.Routes = []*protocol.Route{by("eth0", "", 0, "10.0.0.1")}
			if parked != "2" {
				waiting = nil
			}
			l.containers, l.bare = bare, left
			for range 2 {
				set(r)
				l.want("interfaces", l.show(bare), "eth0 device 1 1400 02:00:00:00:00:31 UP: 10.0.0.2/24")
				l.want("routes", l.routes("-4"), "default via 10.0.0.1 dev eth0")
				l.want("what waits", l.show(left), waiting...)

				set(&protocol.SetNetworkRequest{})
				l.want("what the containers have", l.show(bare))
			}
			set(request(iface4("1", "net1", "10.0.1.2", 24), iface4("2", "eth0", "10.0.0.2", 24)))
			l.want("interfaces", l.show(bare),
				"eth0 device 2 1500 02:00:00:00:00:32 UP: 10.0.0.2/24", "net1 device 1 1500 02:00:00:00:00:31 UP: 10.0.1.2/24")
			l.want("what waits", l.show(left))
			l.want("what is at home", l.show(l.home))
			if l.inLeft != nil {
				set(request()) // looks once more
			}
			if l.inLeft != nil {
				t.Error("the namespace that was left is still looked at")
			}
		})
	}
}
