package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/sandbox"
)

// maxFiles is how many descriptors a connection may bring: stdin, stdout, stderr.
const maxFiles = 3

// session is one connection of a verb or a stand-in: the descriptors that came with it and the process it started.
type session struct {
	*keeper
	stdio sandbox.Stdio

	starting sync.Mutex       // held while Exec or Add runs
	process  *sandbox.Process // nil before Exec or Add, and for a container without a process
	inside   string           // the id of the container that the process is in
	member   *member          // that Add made; nil with Exec
	pid      int32            // of the host process that stands for an exec process
}

// serve is the life of one connection.
func (k *keeper) serve(conn *net.UnixConn) {
	defer conn.Close()
	if k.connections.TryRLock() { // else the keeper ends: it serves those who come now, and does not wait for them
		defer k.connections.RUnlock()
	}
	files, err := receiveFiles(conn)
	if err != nil {
		return
	}
	s := &session{keeper: k, stdio: stdioOf(files)}
	defer s.end()
	answer(conn, func(server *ttrpc.Server) {
		api.RegisterKeeperService(server, s)
		api.RegisterProcessService(server, s)
	})
}

// answer serves the calls of one connection until it ends.
func answer(conn *net.UnixConn, register func(*ttrpc.Server)) {
	server, err := ttrpc.NewServer()
	if err != nil {
		return
	}
	register(server)
	l := &oneConn{conn: &notifyConn{Conn: conn, closed: make(chan struct{})}}
	server.Serve(context.Background(), l)
}

// end kills the session's process if it has not exited: nobody stands for it any more.
func (s *session) end() {
	s.starting.Lock()
	defer s.starting.Unlock()
	p := s.process
	if p == nil && s.member == nil {
		s.stdio.Close()
		return
	}
	defer s.removeSession(s)
	if p == nil {
		return // a container without one
	}
	select {
	case <-p.Exited():
	default:
		// An error means that the guest is gone or ends: so does the process.
		p.Signal(context.Background(), unix.SIGKILL)
		<-p.Exited()
	}
	if s.member == nil {
		p.Forget(context.Background()) // a container stays until it is removed
	}
}

// sendFiles opens a connection: one byte, and the descriptors with it.
func sendFiles(conn *net.UnixConn, files ...*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix([]byte{0}, rights, nil); err != nil {
		return fmt.Errorf("send stdio: %w", err)
	}
	return nil
}

// receiveFiles reads what sendFiles sent.
func receiveFiles(conn *net.UnixConn) ([]*os.File, error) {
	one, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(one, oob)
	if err != nil {
		return nil, fmt.Errorf("receive stdio: %w", err)
	}
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "stdio"))
		}
	}
	if err == nil && (n != 1 || flags&unix.MSG_CTRUNC != 0) {
		err = errors.New("not a greeting")
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("receive stdio: %w", err)
	}
	return files, nil
}

// oneConn is a listener whose only connection is there already; Accept then waits for its end.
type oneConn struct {
	conn  *notifyConn
	given bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return l.conn, nil
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// notifyConn tells when it was closed, which a ttrpc server does when the client has gone.
type notifyConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *notifyConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
