package sandbox

import (
	"net/netip"
	"testing"

	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/network"
)

// A guest whose containers have no network is told nothing, and keeps them where nothing has to be taken away. One whose
// network may come yet is told at the start what it is.
func TestWhatIsToldAndWhere(t *testing.T) {
	nothing := view{}
	eth0 := view{State: network.State{Interfaces: []network.Interface{{Name: "eth0"}}}}
	names := view{resolvers: []netip.Addr{netip.MustParseAddr("127.0.0.11")}}
	route := view{State: network.State{Routes: []network.Route{{Table: 254}}}}
	type look struct {
		why  occasion
		what view
		tell bool
	}
	for _, test := range []struct {
		name   string
		wiring *wiring
		looks  []look
		where  string
	}{
		{"nothing", &wiring{}, []look{
			{afterChange, nothing, false}, {beforeCreate, nothing, false}, {beforeStart, nothing, false}, {afterChange, nothing, false},
		}, protocol.BareNamespace},
		{"nothing at first", &wiring{}, []look{
			{beforeCreate, nothing, false}, {afterChange, eth0, true}, {afterChange, nothing, true}, {beforeCreate, eth0, true},
		}, protocol.BareNamespace},
		{"names alone", &wiring{}, []look{{afterChange, names, false}, {beforeCreate, names, true}}, protocol.BareNamespace},
		{"a route alone", &wiring{}, []look{{beforeCreate, nothing, false}, {beforeStart, route, true}}, protocol.BareNamespace},
		{"an interface", &wiring{}, []look{
			{beforeCreate, eth0, true}, {beforeStart, eth0, true}, {afterChange, nothing, true}, {beforeCreate, nothing, true},
		}, protocol.NetworkNamespace},
		{"an interface that comes before the container", &wiring{}, []look{
			{afterChange, eth0, true}, {beforeCreate, nothing, true},
		}, protocol.NetworkNamespace},
		{"an interface after create", &wiring{late: true}, []look{
			{beforeCreate, names, false}, {afterChange, names, false}, {beforeStart, eth0, true},
		}, protocol.NetworkNamespace},
		{"none after create", &wiring{late: true}, []look{
			{beforeCreate, nothing, false}, {beforeStart, nothing, true}, {afterChange, nothing, true},
		}, protocol.NetworkNamespace},
		{"no use for the slot", &wiring{model: ModelMacvtap}, []look{{beforeCreate, eth0, true}}, protocol.BareNamespace},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := test.wiring
			for i, look := range test.looks {
				tell := w.toTell(look.what, look.why)
				if tell != look.tell {
					t.Errorf("look %d: %v, want %v", i, tell, look.tell)
				}
				if tell {
					w.told = &look.what
				}
			}
			if where := w.guestNamespace(); where != test.where {
				t.Errorf("the containers are in %s, want %s", where, test.where)
			}
		})
	}
}
