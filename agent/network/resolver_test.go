package network

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// host is a host that answers questions with what it was asked.
type host struct {
	questions chan protocol.Question // what it was asked and has not answered
	answer    chan struct{}          // a value for each question to be answered
}

func newHost() *host {
	return &host{make(chan protocol.Question, 1000), make(chan struct{}, 1000)}
}

func (h *host) dial() (net.Conn, error) {
	guest, host := net.Pipe()
	go func() {
		defer host.Close()
		question, err := protocol.ReadQuestion(host)
		if err != nil {
			return
		}
		h.questions <- question
		<-h.answer
		protocol.WriteMessage(host, fmt.Appendf(nil, "%d %v %s", question.Resolver, question.TCP, question.Message))
	}()
	return guest, nil
}

// dial connects to a name server as a container does.
func (l *lab) dial(network, address string) net.Conn {
	l.t.Helper()
	var conn net.Conn
	err := l.Network.containers.inside(func() (err error) {
		conn, err = net.Dial(network, address)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(guard))
	return conn
}

// ask asks over a connection of either kind.
func (l *lab) ask(conn net.Conn, question string) string {
	l.t.Helper()
	if _, tcp := conn.(*net.TCPConn); tcp {
		if err := protocol.WriteMessage(conn, []byte(question)); err != nil {
			l.t.Fatal(err)
		}
		answer, err := protocol.ReadMessage(conn)
		if err != nil {
			l.t.Fatal(err)
		}
		return string(answer)
	}
	io.WriteString(conn, question)
	answer := make([]byte, protocol.MaxMessage)
	n, err := conn.Read(answer)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(answer[:n])
}

func named(addresses ...string) *protocol.SetNetworkRequest {
	r := &protocol.SetNetworkRequest{}
	for _, a := range addresses {
		r.Resolvers = append(r.Resolvers, bytesOf(a))
	}
	return r
}

func TestResolver(t *testing.T) {
	host := newHost()
	l := newLab(t, host.dial)
	for range 100 {
		host.answer <- struct{}{}
	}
	l.set(named("127.0.0.12", "127.0.0.11"))
	for _, network := range []string{"udp", "tcp"} {
		conn := l.dial(network, "127.0.0.11:53")
		for _, question := range []string{"who is there", strings.Repeat("x", 60000)} {
			if got, want := l.ask(conn, question), fmt.Sprintf("1 %v %s", network == "tcp", question); got != want {
				t.Errorf("%s: answer %.40q, want %.40q", network, got, want)
			}
		}
	}
	// A container's own name server has port 53 of all addresses, but that of the host's.
	err := l.Network.containers.inside(func() error {
		udp, err := net.ListenPacket("udp4", "0.0.0.0:53")
		if err != nil {
			return err
		}
		t.Cleanup(func() { udp.Close() })
		go func() {
			for b := make([]byte, 100); ; {
				n, client, err := udp.ReadFrom(b)
				if err != nil {
					return
				}
				udp.WriteTo(append([]byte("own "), b[:n]...), client)
			}
		}()
		tcp, err := net.Listen("tcp4", "0.0.0.0:53")
		if err == nil {
			t.Cleanup(func() { tcp.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"127.0.0.1:53": "own who is there", "127.0.0.11:53": "1 false who is there", "127.0.0.12:53": "0 false who is there",
	} {
		if got := l.ask(l.dial("udp", address), "who is there"); got != want {
			t.Errorf("%s: answer %q, want %q", address, got, want)
		}
	}
	// The rules are not a container's to remove.
	err = l.Network.containers.inside(func() error {
		s, err := dial(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer s.close()
		remove := nftMessage(unix.NFT_MSG_DELTABLE, attribute(nil, unix.NFTA_TABLE_NAME, text("hyper")))
		remove[6] |= unix.NLM_F_ACK
		return s.do(nil, batchMark(unix.NFNL_MSG_BATCH_BEGIN), remove, batchMark(unix.NFNL_MSG_BATCH_END))
	})
	if err == nil || !strings.Contains(err.Error(), "operation not permitted") {
		t.Errorf("error %v", err)
	}
}

// Resolvers that are not named any more are gone, and their rules.
func TestResolversGo(t *testing.T) {
	host := newHost()
	l := newLab(t, host.dial)
	host.answer <- struct{}{}
	l.set(named("127.0.0.11"))
	l.set(named("127.0.0.11"))
	conn := l.dial("udp", "127.0.0.11:53")
	l.ask(conn, "who is there")
	before := descriptors(t)
	for range 3 {
		l.set(named())
		refused(t, l.dial("udp", "127.0.0.11:53"))
		l.set(named("127.0.0.11", "127.0.0.12"))
		l.set(named("127.0.0.11"))
	}
	// The three that were dialled stay. What is closed in the background may still be there for a moment.
	more := func() int { return descriptors(t) - before - 3 }
	for end := time.Now().Add(10 * time.Second); more() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors more", more())
		}
	}
}

// refused checks that nobody listens where conn sends to.
func refused(t *testing.T, conn net.Conn) {
	t.Helper()
	io.WriteString(conn, "who is there")
	if n, err := conn.Read(make([]byte, 100)); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%d bytes, error %v", n, err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// On a kernel without nftables they listen at port 53.
func TestResolverWithoutNftables(t *testing.T) {
	host := newHost()
	l := newLab(t, host.dial)
	l.redirect = func([]redirect) (*socket, error) { return nil, refusal{Errno: unix.EOPNOTSUPP} }
	l.set(named("127.0.0.11"))
	for _, network := range []string{"udp", "tcp"} {
		host.answer <- struct{}{}
		if got := l.ask(l.dial(network, "127.0.0.11:53"), "who is there"); !strings.HasSuffix(got, "who is there") {
			t.Errorf("%s: answer %q", network, got)
		}
	}
	l.set(named())
	refused(t, l.dial("udp", "127.0.0.11:53"))
}

// A host that does not answer holds up a bounded number of questions, and nothing else.
func TestStalledHost(t *testing.T) {
	host := newHost()
	l := newLab(t, host.dial)
	l.plug("1")
	l.set(named("127.0.0.11"))
	for range protocol.MaxQuestions {
		io.WriteString(l.dial("udp", "127.0.0.11:53"), "who is there")
		<-host.questions
	}
	tcp := l.dial("tcp", "127.0.0.11:53")
	if err := protocol.WriteMessage(tcp, []byte("is nobody there")); err != nil {
		t.Fatal(err)
	}
	if answer, err := protocol.ReadMessage(tcp); err == nil {
		t.Errorf("answer %q", answer)
	}
	r := request(iface4("1", "eth0", "10.0.0.2", 24))
	r.Resolvers = named("127.0.0.11").Resolvers
	l.set(r) // works
	for range protocol.MaxQuestions {
		host.answer <- struct{}{}
	}
	l.set(request(r.Interfaces...))
	l.set(r)
	// The slots are free again as soon as the answers have gone out.
	for free := false; !free; {
		host.answer <- struct{}{}
		conn := l.dial("tcp", "127.0.0.11:53")
		if err := protocol.WriteMessage(conn, []byte("who is there")); err != nil {
			t.Fatal(err)
		}
		answer, err := protocol.ReadMessage(conn)
		free = err == nil && bytes.HasSuffix(answer, []byte("who is there"))
	}
}

// More clients than there is room for are sent away.
func TestManyClients(t *testing.T) {
	host := newHost()
	l := newLab(t, host.dial)
	l.set(named("127.0.0.11"))
	for range maxClients {
		host.answer <- struct{}{}
		l.ask(l.dial("tcp", "127.0.0.11:53"), "who is there")
	}
	surplus := l.dial("tcp", "127.0.0.11:53")
	if n, err := surplus.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes", n)
	}
}
