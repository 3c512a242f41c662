// Package qmp speaks QEMU's machine protocol (docs/interop/qmp-spec.txt) as a client: JSON objects, one a line.
//
//	client                                     QEMU
//	  |<- {"QMP": {"version", "capabilities"}} --|  greeting
//	  |-- {"execute", "arguments", "id"} ------->|  any number, by any number of callers
//	  |<- {"return" | "error", "id"} ------------|  routed to the caller by id
//	  |<- {"event", "data", "timestamp"} --------|  at any time, to the subscribers
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MaxMessage is the longest line taken from QEMU, in bytes. The longest answer that there is, to query-qmp-schema, has a
// fifth of it.
const MaxMessage = 1 << 20

// Version is QEMU's version, for example 7.2.22.
type Version struct{ Major, Minor, Micro int }

// Error is a command that QEMU refused.
type Error struct {
	Command string
	Class   string // "GenericError", or what QEMU's QapiErrorClass lists
	Desc    string // for people
}

func (e *Error) Error() string { return "qmp " + e.Command + ": " + e.Desc }

// Client is one QMP session. Its methods can be called at the same time.
type Client struct {
	conn    net.Conn
	version Version
	writing chan struct{} // holds the one right to write; a channel, so that a context can end the wait for it
	done    chan struct{}

	mu            sync.Mutex
	err           error // why the session ended; set before done is closed
	nextID        uint64
	pending       map[uint64]chan<- reply
	subscriptions map[*subscription]struct{}
}

type reply struct {
	result json.RawMessage
	err    *Error
}

// message is any object that QEMU sends.
type message struct {
	QMP *struct {
		Version struct {
			QEMU Version `json:"qemu"`
		} `json:"version"`
	}
	ID     *uint64         `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// New reads the greeting and enters command mode. The client owns conn, and closes it if New fails. A QEMU that dies
// before its greeting shows as io.EOF or a reset connection.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn:          conn,
		writing:       make(chan struct{}, 1),
		done:          make(chan struct{}),
		pending:       map[uint64]chan<- reply{},
		subscriptions: map[*subscription]struct{}{},
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, MaxMessage)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	var greeting message
	err := next(lines, &greeting)
	if err == nil && greeting.QMP == nil {
		err = errors.New("the first message is no greeting")
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("read qmp greeting: %w", err)
	}
	c.version = greeting.QMP.Version.QEMU
	go c.read(lines)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Version is the one that QEMU told in its greeting.
func (c *Client) Version() Version { return c.version }

// Done is closed when the session has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the session has ended: io.EOF when QEMU closed it, net.ErrClosed after Close. It is nil until Done.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the session. Whoever waits for an answer gets net.ErrClosed.
func (c *Client) Close() { c.end(net.ErrClosed) }

// Execute sends a command and waits for its answer, which it decodes into result. Arguments and result can be nil. It
// fails with an *Error when QEMU refuses, with the session's error when that ends, and with the context's error; QEMU
// may then still do what it was told.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	return c.execute(ctx, nil, command, arguments, result)
}

// SendFile gives QEMU a duplicate of the file's descriptor, under a name that later commands know it by: getfd, to be
// undone by closefd. The name must not begin with a digit. The session must be over a Unix socket.
func (c *Client) SendFile(ctx context.Context, name string, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("qmp getfd: %w", err)
	}
	controlErr := raw.Control(func(fd uintptr) {
		err = c.execute(ctx, unix.UnixRights(int(fd)), "getfd", map[string]any{"fdname": name}, nil)
	})
	return errors.Join(controlErr, err)
}

func (c *Client) execute(ctx context.Context, rights []byte, command string, arguments, result any) error {
	answer := make(chan reply, 1)
	id, err := c.expect(answer)
	if err == nil {
		defer c.forget(id)
		err = c.write(ctx, id, rights, command, arguments)
	}
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	select {
	case r := <-answer:
		return r.decode(command, result)
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", command, ctx.Err())
	case <-c.done:
		select {
		case r := <-answer: // QEMU answered, and then went, as with quit
			return r.decode(command, result)
		default:
			return fmt.Errorf("qmp %s: %w", command, c.Err())
		}
	}
}

func (r reply) decode(command string, result any) error {
	if r.err != nil {
		r.err.Command = command
		return r.err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.result, result); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	return nil
}

func (c *Client) expect(answer chan<- reply) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.nextID++
	c.pending[c.nextID] = answer
	return c.nextID, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

func (c *Client) write(ctx context.Context, id uint64, rights []byte, command string, arguments any) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return err
	}
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.Err()
	}
	defer func() { <-c.writing }()
	if err := ctx.Err(); err != nil {
		return err
	}
	// A QEMU that hangs does not read.
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(expired)
	})
	err = c.send(append(line, '\n'), rights)
	if !stop() {
		<-expired
		_ = c.conn.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		return nil
	}
	c.end(err) // half a command may be out: nothing can be sent after it
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// send writes a line. The rights, if there are any, go with its first byte (SCM_RIGHTS, unix(7)).
func (c *Client) send(line, rights []byte) error {
	if rights != nil {
		socket, ok := c.conn.(*net.UnixConn)
		if !ok {
			return fmt.Errorf("no file can be sent over a %T", c.conn)
		}
		n, _, err := socket.WriteMsgUnix(line, rights, nil)
		if err != nil {
			return err
		}
		line = line[n:]
	}
	_, err := c.conn.Write(line)
	return err
}

// read routes all that QEMU sends, until the session ends. Nothing in it waits for a caller.
func (c *Client) read(lines *bufio.Scanner) {
	for {
		var m message
		if err := next(lines, &m); err != nil {
			c.end(err)
			return
		}
		switch {
		case m.Event != "":
			at := time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)
			c.publish(Event{Name: m.Event, Data: m.Data, Time: at})
		case m.ID != nil:
			r := reply{result: m.Return}
			if m.Error != nil {
				r.err = &Error{Class: m.Error.Class, Desc: m.Error.Desc}
			}
			c.mu.Lock()
			answer := c.pending[*m.ID] // nil when its caller has given up
			delete(c.pending, *m.ID)   // so that a second answer cannot block
			c.mu.Unlock()
			if answer != nil {
				answer <- r
			}
		default:
			c.end(errors.New("a message that is neither answer nor event"))
			return
		}
	}
}

// next reads one message. Its errors say why a session ends.
func next(lines *bufio.Scanner, m *message) error {
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		return json.Unmarshal(line, m)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.EOF
}

// end closes the session once, and wakes all who wait.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	c.conn.Close()
	close(c.done)
	for s := range c.subscriptions {
		c.unsubscribe(s)
	}
}
