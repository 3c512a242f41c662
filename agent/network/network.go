// Package network makes the network that the containers see: one network namespace for all of them, in which the host
// says what interfaces, addresses, routes and neighbours there are, and a name server that is the host's.
//
// Set remembers what it has made, and makes the difference. So what a container has changed by itself, where it may,
// stays until the host changes the same thing, and interfaces that containers have made are left alone.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// Network is the containers' network.
type Network struct {
	containers, home     namespace // theirs, and the agent's, where devices appear
	inContainers, inHome *socket   // of NETLINK_ROUTE
	changes              [2]watch  // in both
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

// New makes the containers' network namespace, with nothing but lo in it, and mounts it at path. dialHost opens a
// connection to the host, for one question to its name server.
func New(path string, dialHost func() (net.Conn, error)) (*Network, error) {
	home, err := openNamespace()
	if err != nil {
		return nil, err
	}
	return newNetwork(path, home, dialHost)
}

func newNetwork(path string, home namespace, dialHost func() (net.Conn, error)) (*Network, error) {
	containers, err := makeNamespace(path)
	if err != nil {
		return nil, err
	}
	n := &Network{
		containers: containers, home: home, identify: permanentAddress,
		redirect: redirectPorts, questions: newQuestions(dialHost),
		turn: make(chan struct{}, 1),
		made: made{
			interfaces: map[string]iface{}, index: map[string]uint32{loopback: 1},
			addresses: map[address]bool{}, routes: map[route]bool{}, neighbours: map[neighbour]bool{},
		},
	}
	if n.inHome, err = home.dialRoute(); err != nil {
		return nil, err
	}
	if n.inContainers, err = containers.dialRoute(); err != nil {
		return nil, err
	}
	for i, space := range []namespace{containers, home} {
		if n.changes[i].fd, err = space.watchLinks(); err != nil {
			return nil, err
		}
	}
	return n, nil
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

// Devices returns the hardware addresses of the devices that a request could name and that no request has taken yet.
func (n *Network) Devices() ([][]byte, error) {
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

// devices are where the devices are: by what identifies them, in the containers' namespace and in the agent's.
type devices struct {
	contained, free map[string]link
}

// find looks for devices until all that are wanted are there.
func (n *Network) find(ctx context.Context, want []iface) (devices, error) {
	d, missing, err := n.look(want)
	if err != nil || missing == nil {
		return d, err
	}
	fd, err := n.home.watchLinks()
	if err != nil {
		return d, err
	}
	events := os.NewFile(uintptr(fd), "netlink")
	defer events.Close()
	defer interrupt(ctx, events)()
	for message := make([]byte, 32<<10); ; {
		if d, missing, err = n.look(want); err != nil || missing == nil {
			return d, err
		}
		if _, err := events.Read(message); err != nil && !errors.Is(err, unix.ENOBUFS) { // ENOBUFS: events were lost
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return d, fmt.Errorf("wait for device %x of interface %s: %w", missing.device, missing.name, err)
		}
	}
}

// interrupt makes reads of the file end with ctx, until the returned function is called.
func interrupt(ctx context.Context, file *os.File) func() bool {
	return context.AfterFunc(ctx, func() { file.SetReadDeadline(time.Unix(1, 0)) })
}

// look looks for devices, and returns one that is wanted and not there.
func (n *Network) look(want []iface) (d devices, missing *iface, err error) {
	theirs, ours := n.changes[0].drain(), n.changes[1].drain()
	if theirs || ours || n.seen == nil {
		n.seen = nil
		if d.contained, err = n.index(n.inContainers); err != nil {
			return d, nil, err
		}
		if d.free, err = n.index(n.inHome); err != nil {
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

func (n *Network) index(s *socket) (map[string]link, error) {
	list, err := s.links("")
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	found := map[string]link{}
	for _, l := range list {
		if device := n.identify(l); device != "" {
			found[device] = l
		}
	}
	return found, nil
}

// watch is a socket of watchLinks.
type watch struct{ fd int }

// drain says whether there was a change since the last time.
func (w watch) drain() bool {
	var one [1]byte
	for changed := false; ; changed = true {
		_, _, err := unix.Recvfrom(w.fd, one[:], unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return changed
		}
	}
}

// watchLinks returns a socket that gets a message at each change of an interface of the namespace.
func (n namespace) watchLinks() (fd int, err error) {
	err = n.inside(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("watch interfaces: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("watch interfaces: %w", err)
	}
	return fd, nil
}
