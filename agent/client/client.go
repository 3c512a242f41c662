// Package client is the host's end of the agent channel (see agent/protocol/agent.proto).
//
// The guest is a stranger. Whatever it sends, memory stays bounded (protocol.Window for each stream that the host has
// opened, maxAnswer for control, protocol.MaxQuestions questions of protocol.MaxMessage bytes), nothing panics, and nothing is logged: a guest that breaks the rules ends the
// session, and Err says how. A call ends with its context, answered or not.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// ErrClosed is what Err returns after Close.
var ErrClosed = errors.New("agent channel closed")

// Client is a session with the agent of one guest. Its methods may be called by many goroutines at once.
type Client struct {
	protocol.AgentService
	frames  *frames
	session *yamux.Session
	answer  atomic.Pointer[Answer]

	once sync.Once
	done chan struct{}
	err  error // set before done is closed
}

// New shakes hands with the agent behind conn and starts the session. The Client owns conn from now on; after an error
// conn is of no more use, and is still the caller's to close.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	if err := Handshake(ctx, conn); err != nil {
		return nil, err
	}
	err := interruptible(ctx, conn, func() error {
		_, err := conn.Write([]byte{protocol.Begin})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("begin session with the agent: %w", err)
	}
	c := &Client{frames: guardFrames(conn), done: make(chan struct{})}
	c.session, err = yamux.Client(c.frames, protocol.Mux())
	if err != nil {
		return nil, fmt.Errorf("begin session with the agent: %w", err)
	}
	go func() { c.fail(c.acceptQuestions()) }()
	control, err := c.Stream(ctx, 0)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("begin session with the agent: %w", err)
	}
	calls := ttrpc.NewClient(guardAnswers(control, c.fail), ttrpc.WithUnaryClientInterceptor(c.call), ttrpc.WithOnClose(func() {
		if !c.session.IsClosed() { // else its own reason is on the way
			c.fail(errors.New("the agent closed its control connection"))
		}
	}))
	c.AgentService = protocol.NewAgentClient(calls)
	return c, nil
}

// Done is closed when the session has ended, whoever ended it.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the session has ended. It is nil before Done is closed.
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close ends the session and closes the connection. The agent powers the guest off.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	return nil
}

// fail ends the session. The first reason stays.
func (c *Client) fail(err error) {
	c.once.Do(func() {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the guest closed the agent channel: %w", io.ErrUnexpectedEOF)
		}
		c.err = err
		close(c.done)
		go c.session.Close() // it waits for its own goroutines, of which this may be one
	})
}

// Stream is one byte stream of a process, a net.Conn. Reads return io.EOF when the guest has closed it, writes block
// while the guest does not take the bytes. Deadlines hold for both.
type Stream struct {
	*yamux.Stream
}

// Stream opens the stream of this number. Numbers are the caller's choice, are used once in a session, are not 0, and
// are named to the agent in CreateRequest or ExecRequest, before or after this call.
func (c *Client) Stream(ctx context.Context, number uint32) (*Stream, error) {
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("open stream %d: %w", number, err)
	}
	type result struct {
		conn *yamux.Stream
		err  error
	}
	opened := make(chan result, 1)
	go func() { // it waits when the guest leaves too many streams unacknowledged
		conn, err := c.session.OpenStream()
		if err == nil {
			_, err = conn.Write([]byte{byte(number >> 24), byte(number >> 16), byte(number >> 8), byte(number)})
		}
		opened <- result{conn, err}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("open stream %d: %w", number, r.err)
		}
		return &Stream{r.conn}, nil
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.conn != nil {
				r.conn.Close()
			}
		}()
		return nil, fmt.Errorf("open stream %d: %w", number, ctx.Err())
	}
}

// CloseWrite tells the guest that no more bytes come: a process's stdin ends. Reading goes on.
func (s *Stream) CloseWrite() error { return s.Stream.Close() }

// Close gives the stream up: of an output, the process that still writes gets SIGPIPE. It does not wait.
func (s *Stream) Close() error {
	err := s.Stream.Close()
	s.SetDeadline(time.Unix(1, 0)) // ends what blocks on it
	return err
}
