package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

const (
	maxResolvers = 8
	maxClients   = protocol.MaxQuestions // TCP connections of all containers at once
	askTime      = 60 * time.Second      // for the host to answer; its own limits are shorter
	idleTime     = 10 * time.Second      // of a TCP connection, for each question and each answer
)

// questions goes to the host with the containers' questions. A host that answers none holds up MaxQuestions of them, and
// nothing else: further ones are dropped, which is what name servers with too much to do do.
type questions struct {
	dialHost func() (net.Conn, error)
	slots    chan struct{} // one for each question under way
	clients  chan struct{} // one for each TCP connection
}

func newQuestions(dialHost func() (net.Conn, error)) *questions {
	return &questions{dialHost, make(chan struct{}, protocol.MaxQuestions), make(chan struct{}, maxClients)}
}

// take takes a slot, if there is one.
func take(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// ask returns the host's answer. The caller has a slot.
func (q *questions) ask(question protocol.Question) ([]byte, error) {
	host, err := q.dialHost()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	if err := host.SetDeadline(time.Now().Add(askTime)); err != nil {
		return nil, err
	}
	if err := protocol.WriteQuestion(host, question); err != nil {
		return nil, err
	}
	return protocol.ReadMessage(host)
}

// resolver is a name server that listens to the containers at one address and asks the host.
type resolver struct {
	*questions
	index uint8 // in the request's list
	udp   *net.UDPConn
	tcp   *net.TCPListener
}

// listen makes a resolver that does not listen to anybody yet. port 0 lets the kernel choose, for both protocols alone.
func (q *questions) listen(index int, address netip.Addr, port uint16) (*resolver, error) {
	place := netip.AddrPortFrom(address, port)
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(place))
	if err != nil {
		return nil, err
	}
	tcp, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(place))
	if err != nil {
		udp.Close()
		return nil, err
	}
	return &resolver{q, uint8(index), udp, tcp}, nil
}

func (r *resolver) close() {
	r.udp.Close()
	r.tcp.Close()
}

// redirects are the ways from port 53 to where the resolver listens.
func (r *resolver) redirects() []redirect {
	udp, tcp := r.udp.LocalAddr().(*net.UDPAddr).AddrPort(), r.tcp.Addr().(*net.TCPAddr).AddrPort()
	return []redirect{{udp.Addr(), unix.IPPROTO_UDP, udp.Port()}, {tcp.Addr(), unix.IPPROTO_TCP, tcp.Port()}}
}

// serveUDP answers datagrams until the socket is closed.
func (r *resolver) serveUDP() {
	buffer := make([]byte, protocol.MaxMessage)
	for {
		n, client, err := r.udp.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		if !take(r.slots) {
			continue
		}
		question := protocol.Question{Resolver: r.index, Message: slices.Clone(buffer[:n])}
		go func() {
			defer func() { <-r.slots }()
			if answer, err := r.ask(question); err == nil {
				_, _ = r.udp.WriteToUDPAddrPort(answer, client) // who asked may be gone
			}
		}()
	}
}

// serveTCP answers connections until the socket is closed.
func (r *resolver) serveTCP() {
	for {
		client, err := r.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // the client is gone again
			continue
		}
		if !take(r.clients) {
			client.Close()
			continue
		}
		go func() {
			defer func() { <-r.clients }()
			defer client.Close()
			for r.answer(client) == nil {
			}
		}()
	}
}

var errBusy = errors.New("too many questions at once")

// answer answers one question of a connection.
func (r *resolver) answer(client net.Conn) error {
	if err := client.SetDeadline(time.Now().Add(idleTime)); err != nil {
		return err
	}
	message, err := protocol.ReadMessage(client)
	if err != nil {
		return err
	}
	if !take(r.slots) {
		return errBusy
	}
	defer func() { <-r.slots }()
	answer, err := r.ask(protocol.Question{Resolver: r.index, TCP: true, Message: message})
	if err != nil {
		return err
	}
	if err := client.SetDeadline(time.Now().Add(idleTime)); err != nil {
		return err
	}
	return protocol.WriteMessage(client, answer)
}

// names are the resolvers that there are.
type names struct {
	addresses []netip.Addr
	resolvers []*resolver
	rules     *socket // nil: they listen at port 53 themselves
}

func (n *names) close() {
	for _, r := range n.resolvers {
		r.close()
	}
	if n.rules != nil {
		n.rules.close()
	}
	*n = names{}
}

// serve makes resolvers listen at these addresses of the containers' namespace, and at no others. They take a port that
// nobody asks for, and rules redirect port 53 to it: a container can have a name server of its own at port 53 of all
// addresses. Without nftables in the kernel it cannot: then they listen at port 53.
func (n *Network) serve(addresses []netip.Addr) error {
	if slices.Equal(addresses, n.names.addresses) {
		return nil
	}
	n.names.close()
	if len(addresses) == 0 {
		return nil
	}
	made := names{addresses: addresses}
	err := n.containers.inside(func() error {
		err := made.redirected(n.questions, n.redirect)
		if missing(err) {
			made.close()
			made.addresses = addresses
			err = made.listen(n.questions, dnsPort)
		}
		return err
	})
	if err != nil {
		made.close()
		return fmt.Errorf("make name server: %w", err)
	}
	for _, r := range made.resolvers {
		go r.serveUDP()
		go r.serveTCP()
	}
	n.names = made
	return nil
}

// redirected makes resolvers on ports of the kernel's choice and the way to them.
func (n *names) redirected(q *questions, redirectPorts func([]redirect) (*socket, error)) error {
	if err := n.listen(q, 0); err != nil {
		return err
	}
	var ways []redirect
	for _, r := range n.resolvers {
		ways = append(ways, r.redirects()...)
	}
	var err error
	n.rules, err = redirectPorts(ways)
	return err
}

func (n *names) listen(q *questions, port uint16) error {
	for i, address := range n.addresses {
		r, err := q.listen(i, address, port)
		if err != nil {
			return err
		}
		n.resolvers = append(n.resolvers, r)
	}
	return nil
}

// missing says whether the kernel has no nftables, or no nat in it.
func missing(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT)
}
