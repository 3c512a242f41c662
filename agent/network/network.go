// Package network makes the network that the containers see: one network namespace for all of them, in which the host
// says what interfaces, addresses, routes and neighbours there are, and a name server that is the host's.
//
// There is a second one, the bare namespace, for containers of which it is known that there is nothing to say, so that
// nothing has to be done for them. If the host says something after all, it becomes theirs with the first request.
//
// Set remembers what it has made, and makes the difference. So what a container has changed by itself, where it may,
// stays until the host changes the same thing, and interfaces that containers have made are left alone.
package network

import (
	"context"
	"fmt"
	"maps"
	"net"
	"time"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// Network is the containers' network.
type Network struct {
	containers, home     namespace // theirs, and the agent's, where devices appear
	bare                 namespace // has lo alone, and becomes theirs if a request says so
	moved                bool      // it has
	inContainers, inHome *socket   // of NETLINK_ROUTE
	inLeft               *socket   // nil, or of the namespace that was theirs before, where a device may be parked
	atContainers, atHome *watch    // of their interfaces
	seen                 *devices  // nil, or what there was at the last look
	identify             func(link) string
	redirect             func([]redirect) (*socket, error)
	questions            *questions

	turn  chan struct{} // full while one Set runs
	made  made
	names names
}

// made is what earlier requests have made, as far as it is known to be there.
type made struct {
	interfaces map[string]iface  // by device: those in the containers' namespace; the zero value when it is not known how
	index      map[string]uint32 // of them, and of lo
	addresses  map[address]bool
	routes     map[route]bool
	neighbours map[neighbour]bool
}

func newMade() made {
	return made{
		interfaces: map[string]iface{}, index: map[string]uint32{loopback: 1},
		addresses: map[address]bool{}, routes: map[route]bool{}, neighbours: map[neighbour]bool{},
	}
}

// New makes the containers' network namespace and the bare one, with nothing but lo in them, and mounts them at these
// paths. dialHost opens a connection to the host, for one question to its name server.
func New(path, bare string, dialHost func() (net.Conn, error)) (*Network, error) {
	home, err := openNamespace()
	if err != nil {
		return nil, err
	}
	return newNetwork(path, bare, home, dialHost)
}

func newNetwork(path, barePath string, home namespace, dialHost func() (net.Conn, error)) (*Network, error) {
	containers, err := makeNamespace(path)
	if err != nil {
		return nil, err
	}
	bare, err := makeNamespace(barePath)
	if err != nil {
		return nil, err
	}
	n := &Network{
		containers: containers, home: home, bare: bare, identify: permanentAddress,
		redirect: redirectPorts, questions: newQuestions(dialHost),
		turn: make(chan struct{}, 1), made: newMade(),
	}
	if n.inHome, n.atHome, err = home.open(); err != nil {
		return nil, err
	}
	n.inContainers, n.atContainers, err = containers.open()
	return n, err
}

// deviceTime bounds the wait for a device that the host has plugged, for callers without a deadline.
const deviceTime = 30 * time.Second

// Set makes the network as the request says. Requests take turns. After an error the next one goes on from there.
func (n *Network) Set(ctx context.Context, r *protocol.SetNetworkRequest) error {
	want, err := parse(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deviceTime)
	defer cancel()
	select {
	case n.turn <- struct{}{}:
		defer func() { <-n.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.Bare && !n.moved {
		if err := n.leave(); err != nil {
			return err
		}
	}
	there, err := n.find(ctx, want.interfaces)
	if err != nil {
		return err
	}
	if err := n.clear(want, there); err != nil {
		return err
	}
	if err := n.place(want.interfaces, there); err != nil {
		return err
	}
	if err := n.fill(want); err != nil {
		return err
	}
	return n.serve(want.resolvers)
}

// leave makes the bare namespace the containers'. What is in the other one stays there until it is wanted.
func (n *Network) leave() error {
	route, links, err := n.bare.open()
	if err != nil {
		return err
	}
	n.names.close()
	n.atContainers.close()
	n.inLeft = n.inContainers
	n.containers, n.bare = n.bare, n.containers
	n.inContainers, n.atContainers = route, links
	n.made, n.seen, n.moved = newMade(), nil, true
	return nil
}

// Devices returns the hardware addresses of the devices that a request could name and that no request has taken yet.
func (n *Network) Devices() ([][]byte, error) {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	list, err := n.inHome.links("")
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var devices [][]byte
	for _, l := range list {
		if device := n.identify(l); device != "" {
			devices = append(devices, []byte(device))
		}
	}
	return devices, nil
}

// devices are where the devices are: by what identifies them, in the containers' namespace and elsewhere.
type devices struct {
	contained, free map[string]link
}

// find looks for devices until all that are wanted are there.
func (n *Network) find(ctx context.Context, want []iface) (devices, error) {
	for {
		d, missing, err := n.look(want)
		if err != nil || missing == nil {
			return d, err
		}
		n.seen = nil
		if _, err := n.atHome.wait(ctx); err != nil {
			return d, fmt.Errorf("wait for device %x of interface %s: %w", missing.device, missing.name, err)
		}
	}
}

// look looks for devices, and returns one that is wanted and not there. It asks the kernel only if something has changed
// since the last time.
func (n *Network) look(want []iface) (d devices, missing *iface, err error) {
	contained, free := n.atContainers.drain(), n.atHome.drain()
	if contained || free || n.seen == nil {
		n.seen = nil
		if d.contained, err = n.index(n.inContainers); err != nil {
			return d, nil, err
		}
		if d.free, err = n.index(n.inHome); err != nil {
			return d, nil, err
		}
		if err := n.addParked(d.free); err != nil {
			return d, nil, err
		}
		n.seen = &d
	}
	d = *n.seen
	for i, w := range want {
		_, contained := d.contained[w.device]
		if _, free := d.free[w.device]; !contained && !free {
			return d, &want[i], nil
		}
	}
	return d, nil, nil
}

// addParked adds the devices in the namespace that the containers have left, which is closed when none is there.
func (n *Network) addParked(free map[string]link) error {
	if n.inLeft == nil {
		return nil
	}
	parked, err := n.index(n.inLeft)
	if err != nil {
		return err
	}
	maps.Copy(free, parked)
	if len(parked) == 0 {
		n.inLeft.close()
		n.inLeft = nil
	}
	return nil
}

func (n *Network) index(s *socket) (map[string]link, error) {
	list, err := s.links("")
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	found := map[string]link{}
	for _, l := range list {
		if device := n.identify(l); device != "" {
			l.at = s
			found[device] = l
		}
	}
	return found, nil
}
