package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/network"
	"github.com/hyper-runtime/hyper/oci"
)

// How an interface of the network namespace reaches the guest: by a tap beside it, with traffic control that redirects
// each packet of one to the other, or by a macvtap on top of it.
const (
	ModelTC      = "tc"
	ModelMacvtap = "macvtap"
)

// networkTimeout guards one change of the guest's network against hanging: a device may have to be plugged for it.
const networkTimeout = 2 * time.Minute

// wiring keeps the guest's network the same as that of the namespace that this process runs in: each interface there
// is joined to a NIC of the VM, which looks in the guest as the interface looks here.
type wiring struct {
	queues int
	model  string
	own    bool // the namespace is the sandbox's own, and goes with it
	late   bool // it may get its interfaces between create and start

	mu sync.Mutex
	// All below is guarded by mu.
	slot        *network.Tap      // behind the NIC that every machine has
	free        bool              // the slot joins no interface
	wires       map[int]*wire     // by the index of the interface
	plugged     int               // NICs that were ever hot-plugged
	resolvConfs map[string]string // files on the host, by container
	told        *view             // what the guest was last told; nil: nothing
	chosen      bool              // where the containers are in the guest, which stays so:
	bare        bool              // in the namespace that has lo alone until the guest is told more

	servers atomic.Pointer[[]netip.Addr] // the name servers that the guest was last told of
}

// wire joins an interface to a NIC.
type wire struct {
	tap *network.Tap
	nic string           // QEMU's id; empty for the slot's
	mac net.HardwareAddr // by which the guest finds the NIC
	mtu int
}

// view is what the guest is told of the network.
type view struct {
	network.State
	devices   map[int]net.HardwareAddr // by the index of the interface
	resolvers []netip.Addr
}

// newWiring makes the tap of the NIC that the VM starts with, before any interface is known: engines may make them when
// the VM runs already.
func newWiring(o Options) (*wiring, error) {
	w := &wiring{
		queues: o.Machine.Queues(), model: o.Network, own: o.OwnNetwork, late: o.LateNetwork, free: o.Network != ModelMacvtap,
		wires: make(map[int]*wire), resolvConfs: make(map[string]string),
	}
	slot, err := w.tap()
	if err != nil {
		return nil, err
	}
	w.slot = slot
	return w, nil
}

func (w *wiring) tap() (*network.Tap, error) {
	tap, err := network.NewTap(w.queues)
	if err != nil || !w.own {
		return tap, err
	}
	return tap, tap.Stay()
}

// nic is the NIC that the VM starts with.
func (w *wiring) nic() hypervisor.NIC {
	return hypervisor.NIC{Tap: w.slot.Files(), VHost: w.slot.VHost()}
}

// close takes away all that the wiring made, unless it goes with the namespace. It is for after the VM's end.
func (w *wiring) close() error {
	if w.own {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, wire := range w.wires {
		if err := w.drop(wire); err != nil {
			return err
		}
	}
	return w.slot.Close()
}

// occasion is why the network is looked at.
type occasion int

const (
	afterChange occasion = iota
	beforeCreate
	beforeStart
)

// SyncNetwork looks at the network namespace and makes the guest's network the same. Engines change it at any time.
func (s *Sandbox) SyncNetwork(ctx context.Context) error { return s.syncNetwork(ctx, afterChange) }

// SettleNetwork does the same before a container starts, which then sees nothing but that.
func (s *Sandbox) SettleNetwork(ctx context.Context) error { return s.syncNetwork(ctx, beforeStart) }

func (s *Sandbox) syncNetwork(ctx context.Context, why occasion) error {
	ctx, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	w := s.wiring
	w.mu.Lock()
	defer w.mu.Unlock()
	state, err := network.Scan()
	if err != nil {
		return err
	}
	gone, err := w.takeGone(state)
	if err != nil {
		return err
	}
	for _, i := range state.Interfaces {
		if err := w.join(ctx, s.vm, i); err != nil {
			return fmt.Errorf("network interface %s: %w", i.Name, err)
		}
	}
	v := view{state, w.devices(), w.resolvers()}
	if !w.toTell(v, why) {
		return nil
	}
	if err := s.tell(ctx, v); err != nil {
		return err
	}
	for _, wire := range gone {
		if err := s.vm.RemoveNIC(ctx, wire.nic); err != nil {
			return err
		}
		if err := w.drop(wire); err != nil {
			return err
		}
	}
	return nil
}

// toTell says whether the guest has to be told of the network, and chooses where its containers are before the first of
// them is created. An empty network is no news to a guest that was told nothing yet: in the bare namespace there is
// nothing, and in the other one nobody sees before the start what waits there.
func (w *wiring) toTell(v view, why occasion) bool {
	if !w.chosen && (why == beforeCreate || len(v.Interfaces) > 0) {
		w.chosen = true
		w.bare = w.model == ModelMacvtap || len(v.Interfaces) == 0 && !w.late
	}
	switch {
	case w.told != nil, len(v.Interfaces) > 0:
		return true
	case w.bare:
		return len(v.Routes)+len(v.Neighbours)+len(v.resolvers) > 0
	default:
		return why == beforeStart
	}
}

// guestNamespace is where the containers are in the guest. It is known before the first of them is created.
func (w *wiring) guestNamespace() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bare {
		return protocol.BareNamespace
	}
	return protocol.NetworkNamespace
}

// tell sends what the guest does not know yet.
func (s *Sandbox) tell(ctx context.Context, v view) error {
	if s.wiring.told != nil && reflect.DeepEqual(v, *s.wiring.told) {
		return nil
	}
	if _, err := s.agent.SetNetwork(ctx, networkRequest(v, s.wiring.bare)); err != nil {
		return fmt.Errorf("set up the guest's network: %w", err)
	}
	s.wiring.told = &v
	s.wiring.servers.Store(&v.resolvers)
	return nil
}

// takeGone takes the wires of vanished interfaces away, and returns those whose NIC has yet to be unplugged, when the
// guest knows.
func (w *wiring) takeGone(now network.State) (plugged []*wire, err error) {
	for index, wire := range w.wires {
		if slices.ContainsFunc(now.Interfaces, func(i network.Interface) bool { return i.Index == index }) {
			continue
		}
		delete(w.wires, index)
		if wire.nic != "" {
			plugged = append(plugged, wire)
			continue
		}
		if err := w.drop(wire); err != nil {
			return nil, err
		}
	}
	return plugged, nil
}

// drop takes a wire off whose NIC no longer needs it.
func (w *wiring) drop(wire *wire) error {
	if wire.tap != w.slot {
		return wire.tap.Close()
	}
	w.free = true
	return w.slot.Leave()
}

// join makes a wire for the interface unless there is one.
func (w *wiring) join(ctx context.Context, vm *hypervisor.VM, i network.Interface) error {
	if known, ok := w.wires[i.Index]; ok {
		if known.mtu == i.MTU {
			return nil
		}
		known.mtu = i.MTU
		return known.tap.Join(i)
	}
	if !w.free {
		return w.plug(ctx, vm, i)
	}
	if err := w.slot.Join(i); err != nil {
		return err
	}
	w.free = false
	w.wires[i.Index] = &wire{tap: w.slot, mac: slotMAC(), mtu: i.MTU}
	return nil
}

// plug gives the VM one more NIC, joined to the interface. On error there is none.
func (w *wiring) plug(ctx context.Context, vm *hypervisor.VM, i network.Interface) error {
	tap, err := w.newTap(i)
	if err != nil {
		return err
	}
	w.plugged++
	wire := &wire{tap: tap, nic: fmt.Sprintf("nic%d", w.plugged), mac: deviceMAC(w.plugged), mtu: i.MTU}
	if err = tap.Join(i); err == nil {
		err = vm.AddNIC(ctx, wire.nic, wire.mac, hypervisor.NIC{Tap: tap.Files(), VHost: tap.VHost()})
	}
	if err != nil {
		return errors.Join(err, tap.Close())
	}
	w.wires[i.Index] = wire
	return nil
}

func (w *wiring) newTap(i network.Interface) (*network.Tap, error) {
	if w.model == ModelMacvtap {
		return network.NewMacvtap(i, w.queues)
	}
	return w.tap()
}

// slotMAC is the address that the guest finds the slot's NIC by.
func slotMAC() net.HardwareAddr {
	mac, err := net.ParseMAC(hypervisor.SlotMAC)
	if err != nil {
		panic(err) // it is a constant
	}
	return mac
}

// deviceMAC is the address that the guest finds the n-th hot-plugged NIC by, before it gives it the interface's own.
func deviceMAC(n int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'h', 'y', 'p', byte(n >> 8), byte(n)}
}

func (w *wiring) devices() map[int]net.HardwareAddr {
	devices := make(map[int]net.HardwareAddr, len(w.wires))
	for index, wire := range w.wires {
		devices[index] = wire.mac
	}
	return devices
}

// resolvers are the name servers that containers were told to find at a loopback address. One that cannot be read names
// none: the engine may be about to write it.
func (w *wiring) resolvers() []netip.Addr {
	var all []netip.Addr
	for _, file := range slices.Sorted(maps.Values(w.resolvConfs)) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for _, server := range network.Resolvers(text) {
			if !slices.Contains(all, server) {
				all = append(all, server)
			}
		}
	}
	return all
}

// addResolvConf remembers where the host keeps the container's resolv.conf, if it has one of its own.
func (w *wiring) addResolvConf(id string, bundle *oci.Bundle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range bundle.Spec.Mounts {
		if filepath.Clean(m.Destination) != "/etc/resolv.conf" {
			continue
		}
		file := m.Source
		if !filepath.IsAbs(file) {
			file = filepath.Join(bundle.Path, file)
		}
		w.resolvConfs[id] = file
	}
}

func (w *wiring) removeResolvConf(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.resolvConfs, id)
}

// answer asks the host's name server what a container has asked the guest's.
func (w *wiring) answer(ctx context.Context, resolver int, tcp bool, question []byte) ([]byte, error) {
	servers := w.servers.Load()
	if servers == nil || resolver >= len(*servers) {
		return nil, fmt.Errorf("no name server %d", resolver)
	}
	return network.Ask(ctx, (*servers)[resolver], tcp, question)
}

// followNetwork makes the guest's network the same as the namespace's whenever that has changed, until the VM ends.
func (s *Sandbox) followNetwork() {
	ctx, stop := context.WithCancel(context.Background())
	changes, err := network.Watch(ctx)
	if err != nil {
		stop()
		s.log.Warn("changes of the network are not followed", "error", err)
		return
	}
	go func() {
		<-s.ended
		stop()
	}()
	go func() {
		for range changes {
			if err := s.SyncNetwork(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("the guest's network is not as the host's", "error", err)
			}
		}
	}()
}
