package agent

import (
	"net"
	"sync"
)

// maxUnclaimed bounds the connections that wait for a process to name their number.
const maxUnclaimed = 4096

// streams brings the host's connections and the processes they belong to together. Either may come first.
type streams struct {
	mu        sync.Mutex
	slots     map[uint32]*slot
	unclaimed int // connections in slots
}

type slot struct {
	conn    net.Conn      // set by arrive
	arrived chan struct{} // closed by arrive
	dropped bool          // nobody wants it any more
}

func newStreams() *streams {
	return &streams{slots: map[uint32]*slot{}}
}

func (s *streams) slot(number uint32) *slot {
	if s.slots[number] == nil {
		s.slots[number] = &slot{arrived: make(chan struct{})}
	}
	return s.slots[number]
}

// arrive keeps a connection until its process takes it. A second one of the same number is closed.
func (s *streams) arrive(number uint32, conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unclaimed == maxUnclaimed {
		conn.Close()
		return
	}
	slot := s.slot(number)
	switch {
	case slot.dropped:
		delete(s.slots, number)
		conn.Close()
	case slot.conn != nil:
		conn.Close()
	default:
		slot.conn = conn
		s.unclaimed++
		close(slot.arrived)
	}
}

// take returns the connection of this number as soon as it is there, or nil when gone is closed first.
func (s *streams) take(number uint32, gone <-chan struct{}) net.Conn {
	s.mu.Lock()
	slot := s.slot(number)
	s.mu.Unlock()
	select {
	case <-slot.arrived:
	case <-gone:
		s.drop(number)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.slots, number)
	s.unclaimed--
	return slot.conn
}

// drop closes the connection of this number, now or when it comes. 0 is no number.
func (s *streams) drop(number uint32) {
	if number == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.slot(number)
	if slot.conn == nil {
		slot.dropped = true
		return
	}
	delete(s.slots, number)
	s.unclaimed--
	slot.conn.Close()
}
