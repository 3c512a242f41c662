// Package agent is the program inside the guest: PID 1, which makes the guest ready and then runs containers with an
// OCI runtime, as the host asks over one channel (see protocol/agent.proto).
//
// The host is trusted and the containers are not. Every descriptor of the agent is closed on exec, its directories are
// not in any container's mount namespace, and no stream holds more than a bounded number of bytes.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"

	"github.com/hyper-runtime/hyper/agent/network"
	"github.com/hyper-runtime/hyper/agent/protocol"
)

// Config says what runs containers and where the agent keeps things.
type Config struct {
	Runtime     string // path of the OCI runtime, which takes crun's command line
	RuntimeRoot string // the runtime's own state
	Bundles     string // <Bundles>/<container id>/config.json
	Scratch     string // files that live as long as one call of the runtime; short, for it holds sockets
	Share       string // where the host's directory is mounted
	Cgroups     string // the cgroup file system
	MachineID   string // file for the machine id
	Network     string // where the containers' network namespace is mounted
	BareNetwork string // the same of the one with lo alone
}

// DefaultConfig returns the places that the guest image is built for.
func DefaultConfig() Config {
	return Config{
		Runtime:     "/bin/crun",
		RuntimeRoot: "/run/crun",
		Bundles:     "/run/containers",
		Scratch:     "/run/agent",
		Share:       "/run/share",
		Cgroups:     "/sys/fs/cgroup",
		MachineID:   "/run/machine-id", // /etc/machine-id links to it
		Network:     protocol.NetworkNamespace,
		BareNetwork: protocol.BareNamespace,
	}
}

// Agent implements protocol.AgentService.
type Agent struct {
	config  Config
	reaper  *reaper
	streams *streams
	calls   calls
	network *network.Network
	server  *ttrpc.Server
	session atomic.Pointer[yamux.Session]
	guard   int // descriptor of the program that keepGuard has kept, or 0

	mu         sync.Mutex
	containers map[string]*container
	memory     map[string]bool // the tmpfs mounts that were made
}

// New returns an agent, with its directories and network namespaces for the containers. From now on it reaps every child
// of this process: nothing else in it may wait for one.
func New(config Config) (*Agent, error) {
	a := &Agent{
		config:     config,
		streams:    newStreams(),
		calls:      newCalls(),
		containers: map[string]*container{},
		memory:     map[string]bool{},
	}
	for _, dir := range []string{config.Share, config.Bundles, config.Scratch} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if a.server, err = ttrpc.NewServer(); err != nil {
		return nil, err
	}
	protocol.RegisterAgentService(a.server, a)
	if a.network, err = network.New(config.Network, config.BareNetwork, a.dialHost); err != nil {
		return nil, err
	}
	a.reaper = newReaper()
	return a, nil
}

// Serve serves the session that AwaitSession has seen begin. It returns when the session has ended, with the reason.
func (a *Agent) Serve(port io.ReadWriteCloser) error {
	session, err := yamux.Server(port, protocol.Mux())
	if err != nil {
		return fmt.Errorf("start session: %w", err)
	}
	defer session.Close()
	a.session.Store(session)
	control := &listener{conns: make(chan net.Conn), done: make(chan struct{})}
	defer close(control.done)
	go a.server.Serve(context.Background(), control)
	for {
		conn, err := session.AcceptStream()
		if errors.Is(err, io.EOF) {
			return errors.New("the host closed the channel")
		}
		if err != nil {
			return fmt.Errorf("session: %w", err)
		}
		go a.admit(conn, control)
	}
}

// dialHost opens a connection of the session towards the host.
func (a *Agent) dialHost() (net.Conn, error) {
	session := a.session.Load()
	if session == nil {
		return nil, errors.New("there is no session yet")
	}
	return session.OpenStream()
}

// admit reads which stream of whose a new connection is, and hands it over.
func (a *Agent) admit(conn net.Conn, control *listener) {
	number, err := readNumber(conn)
	switch {
	case err != nil:
		conn.Close()
	case number != 0:
		a.streams.arrive(number, conn)
	default:
		select {
		case control.conns <- conn:
		case <-control.done:
		}
	}
}

// listener gives the session's control connections to the ttrpc server.
type listener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: protocol.Port} }
