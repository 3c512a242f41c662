package client

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// framer follows the frames of a byte stream: a header of fixed size, which says how many bytes of body come after it.
type framer struct {
	header []byte // of the frame at hand
	have   int    // bytes of header that have come
	body   int64  // bytes of body still to come
	check  func(header []byte) (body int64, err error)
}

// feed takes the next bytes of the stream. It returns the first error of check.
func (f *framer) feed(p []byte) error {
	for len(p) > 0 {
		if f.body > 0 {
			n := min(f.body, int64(len(p)))
			f.body -= n
			p = p[n:]
			continue
		}
		n := copy(f.header[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have < len(f.header) {
			return nil
		}
		f.have = 0
		var err error
		if f.body, err = f.check(f.header); err != nil {
			return err
		}
	}
	return nil
}

// frames is a connection with a guest whose yamux frames are checked before yamux sees them.
type frames struct {
	net.Conn
	framer

	mu     sync.Mutex
	opened map[uint32]*opened // by the guest, until both ends let go
	held   int                // of them, by the host: not yet released
	kept   int                // of them, by the guest: not yet closed
}

// opened is a connection that the guest has opened.
type opened struct {
	left             int64 // bytes that it may still carry
	released, closed bool
}

// guardFrames refuses what an agent never sends and what yamux would answer with a stream or a goroutine each, as many
// as the guest likes: pings, and more connections at once, or more bytes on one, than questions need. The frame format
// is in yamux's spec.md.
func guardFrames(conn net.Conn) *frames {
	f := &frames{Conn: conn, opened: map[uint32]*opened{}}
	f.framer = framer{header: make([]byte, 12), check: f.checkFrame}
	return f
}

func (f *frames) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if bad := f.feed(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

func (f *frames) checkFrame(h []byte) (int64, error) {
	const data, windowUpdate, goAway = 0, 1, 3
	version, kind, flags := h[0], h[1], binary.BigEndian.Uint16(h[2:])
	id, length := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
	switch {
	case version != 0:
		return 0, fmt.Errorf("the guest broke the agent channel's rules: frame of version %d", version)
	case kind == goAway:
		return 0, nil
	case kind != data && kind != windowUpdate:
		return 0, fmt.Errorf("the guest broke the agent channel's rules: frame of type %d", kind)
	}
	body := int64(0)
	if kind == data {
		body = int64(length)
	}
	if body > protocol.Window {
		return 0, fmt.Errorf("the guest broke the agent channel's rules: frame of %d bytes", length)
	}
	return body, f.checkOwn(id, flags, body)
}

// checkOwn follows the connections that the guest opens. Their numbers are even. An agent closes one after it has been
// answered, and the host releases it before it answers, so that for an agent neither count is ever above the limit.
func (f *frames) checkOwn(id uint32, flags uint16, body int64) error {
	const (
		syn, fin, rst = 1, 4, 8
		question      = 4 + protocol.MaxMessage // bytes: kind, resolver, length, message
	)
	f.mu.Lock()
	defer f.mu.Unlock()
	own := f.opened[id]
	if flags&syn != 0 {
		if id%2 != 0 || own != nil || max(f.held, f.kept) == protocol.MaxQuestions {
			return fmt.Errorf("the guest broke the agent channel's rules: it opened stream %d, %d being open", id, max(f.held, f.kept))
		}
		own = &opened{left: question}
		f.opened[id] = own
		f.held++
		f.kept++
	}
	if own == nil {
		if id%2 == 0 && body > 0 {
			return fmt.Errorf("the guest broke the agent channel's rules: bytes on stream %d, which it has not open", id)
		}
		return nil
	}
	if own.left -= body; own.left < 0 || own.closed && body > 0 {
		return fmt.Errorf("the guest broke the agent channel's rules: too many bytes on stream %d", id)
	}
	if flags&(fin|rst) != 0 && !own.closed {
		own.closed = true
		f.kept--
		f.forget(id, own)
	}
	return nil
}

// release says that the host has read all that it wants from a connection of the guest's.
func (f *frames) release(id uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if own := f.opened[id]; own != nil && !own.released {
		own.released = true
		f.held--
		f.forget(id, own)
	}
}

func (f *frames) forget(id uint32, own *opened) {
	if own.released && own.closed {
		delete(f.opened, id)
	}
}

// maxAnswer bounds one answer of the agent, in bytes.
const maxAnswer = 1 << 20

// answers is the control connection, on which every answer must be one to a question.
type answers struct {
	net.Conn
	in, out framer
	fail    func(error)

	mu   sync.Mutex
	open map[uint32]bool // questions without an answer
}

// guardAnswers refuses what is no answer, which ttrpc would log, and what is too large, and then calls fail. The message
// format is in ttrpc's PROTOCOL.md.
func guardAnswers(conn net.Conn, fail func(error)) net.Conn {
	a := &answers{Conn: conn, fail: fail, open: map[uint32]bool{}}
	a.in = framer{header: make([]byte, 10), check: a.checkAnswer}
	a.out = framer{header: make([]byte, 10), check: a.noteQuestion}
	return a
}

func (a *answers) Read(p []byte) (int, error) {
	n, err := a.Conn.Read(p)
	if bad := a.in.feed(p[:n]); bad != nil {
		a.fail(bad)
		return 0, bad
	}
	return n, err
}

func (a *answers) Write(p []byte) (int, error) {
	if err := a.out.feed(p); err != nil {
		return 0, err
	}
	return a.Conn.Write(p)
}

func (a *answers) noteQuestion(h []byte) (int64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[binary.BigEndian.Uint32(h[4:])] = true
	return int64(binary.BigEndian.Uint32(h)), nil
}

func (a *answers) checkAnswer(h []byte) (int64, error) {
	const response = 2
	length, id, kind := binary.BigEndian.Uint32(h), binary.BigEndian.Uint32(h[4:]), h[8]
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case kind != response:
		return 0, fmt.Errorf("the guest broke the agent channel's rules: message of type %d", kind)
	case length > maxAnswer:
		return 0, fmt.Errorf("the guest broke the agent channel's rules: answer of %d bytes", length)
	case !a.open[id]:
		return 0, fmt.Errorf("the guest broke the agent channel's rules: answer to nothing")
	}
	delete(a.open, id)
	return int64(length), nil
}
