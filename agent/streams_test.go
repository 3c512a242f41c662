package agent

import (
	"io"
	"net"
	"testing"
)

func TestStreamsMeet(t *testing.T) {
	s := newStreams()
	gone := make(chan struct{})
	connect := func() (host, guest net.Conn) { return net.Pipe() }
	closed := func(host net.Conn) {
		t.Helper()
		if _, err := host.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("connection is not closed: %v", err)
		}
	}

	_, guest := connect() // the connection first
	s.arrive(1, guest)
	if got := s.take(1, gone); got != guest {
		t.Error("another connection")
	}

	taken := make(chan net.Conn) // the process first
	go func() { taken <- s.take(2, gone) }()
	_, guest = connect()
	s.arrive(2, guest)
	if got := <-taken; got != guest {
		t.Error("another connection")
	}

	host, guest := connect() // a second one of the same number
	_, first := connect()
	s.arrive(3, first)
	s.arrive(3, guest)
	closed(host)
	if got := s.take(3, gone); got != first {
		t.Error("another connection")
	}

	host, guest = connect() // dropped before and after it comes
	s.drop(4)
	s.arrive(4, guest)
	closed(host)
	host, guest = connect()
	s.arrive(5, guest)
	s.drop(5)
	closed(host)

	go func() { taken <- s.take(6, gone) }() // a process that ends first
	close(gone)
	if got := <-taken; got != nil {
		t.Error("a connection from nowhere")
	}
	host, guest = connect()
	s.arrive(6, guest)
	closed(host)
	if len(s.slots) != 0 || s.unclaimed != 0 {
		t.Errorf("left: %v, %d", s.slots, s.unclaimed)
	}
}

func TestUnclaimedStreamsAreBounded(t *testing.T) {
	s := newStreams()
	for number := range uint32(maxUnclaimed) {
		_, guest := net.Pipe()
		s.arrive(number+1, guest)
	}
	host, guest := net.Pipe()
	s.arrive(maxUnclaimed+1, guest)
	if _, err := host.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one too many is kept: %v", err)
	}
}
