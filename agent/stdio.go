package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// stdio is what a process reads and writes: three pipes, or a terminal that the runtime makes.
type stdio struct {
	numbers *protocol.Streams
	child   [3]int // the process's ends until the runtime has them, else -1
	stdin   *os.File
	outputs [2]*output // stdout and stderr; nil: /dev/null, or the terminal's
	tty     *os.File   // the master

	held chan struct{} // closed by release

	mu    sync.Mutex
	gone  chan struct{} // closed by close
	conns []net.Conn    // of the host, taken
}

// openStdio makes the process's ends. With a terminal they are /dev/null, for the runtime puts the terminal there.
func openStdio(numbers *protocol.Streams, terminal bool) (*stdio, error) {
	s := &stdio{numbers: numbers, child: [3]int{-1, -1, -1}, held: make(chan struct{}), gone: make(chan struct{})}
	wanted := [3]bool{numbers.GetStdin() != 0, numbers.GetStdout() != 0, numbers.GetStderr() != 0}
	for i := range s.child {
		if !wanted[i] || terminal {
			null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				s.close()
				return nil, fmt.Errorf("open /dev/null: %w", err)
			}
			s.child[i] = null
			continue
		}
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			s.close()
			return nil, fmt.Errorf("make pipe: %w", err)
		}
		if i == 0 {
			s.child[0], s.stdin = ends[0], pollable(ends[1], "stdin")
		} else {
			s.child[i] = ends[1]
			s.outputs[i-1] = &output{file: pollable(ends[0], "output")}
		}
	}
	return s, nil
}

// pollable makes a file of a descriptor on which a blocked read or write ends when the file is closed.
func pollable(fd int, name string) *os.File {
	unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// closeChild closes the process's ends in the agent: from now on only the process holds them.
func (s *stdio) closeChild() {
	for i, fd := range s.child {
		if fd >= 0 {
			unix.Close(fd)
			s.child[i] = -1
		}
	}
}

// setTerminal makes the master of the process's terminal its stdin and stdout.
func (s *stdio) setTerminal(master int) error {
	if s.numbers.GetPlainNewlines() {
		mode, err := unix.IoctlGetTermios(master, unix.TCGETS)
		if err == nil {
			mode.Oflag &^= unix.ONLCR
			err = unix.IoctlSetTermios(master, unix.TCSETS, mode)
		}
		if err != nil {
			unix.Close(master)
			return fmt.Errorf("set terminal mode: %w", err)
		}
	}
	s.tty = pollable(master, "terminal")
	if s.numbers.GetStdin() != 0 {
		s.stdin = s.tty
	}
	if s.numbers.GetStdout() != 0 {
		s.outputs[0] = &output{file: s.tty, tty: true}
	}
	return nil
}

// copy starts copying between the process and the host's connections, which may come later.
func (s *stdio) copy(from *streams) {
	if s.stdin != nil {
		go func() {
			if conn := s.take(from, s.numbers.Stdin); conn != nil {
				copyInput(s.stdin, conn, s.tty != nil)
				conn.Close()
			}
		}()
	}
	for i, number := range []uint32{s.numbers.GetStdout(), s.numbers.GetStderr()} {
		out := s.outputs[i]
		if out == nil { // a terminal has no stderr
			from.drop(number)
			continue
		}
		go func() {
			if conn := s.take(from, number); conn != nil {
				go out.closeAfter(conn)
				select {
				case <-s.held:
				case <-s.gone:
				}
				out.copyTo(conn)
				conn.Close()
			}
		}()
	}
}

// release lets output be copied. Until then it is the runtime's, and can be put in other words.
func (s *stdio) release() { close(s.held) }

// reword replaces what was written to stderr, or the terminal, before release.
func (s *stdio) reword(words func([]byte) []byte) {
	out := s.outputs[1]
	if s.tty != nil {
		out = s.outputs[0]
	}
	if out == nil {
		return
	}
	raw, err := out.file.SyscallConn()
	if err != nil {
		return
	}
	// An error means that the host wants no more output.
	_ = raw.Control(func(fd uintptr) {
		out.mu.Lock()
		defer out.mu.Unlock()
		out.drain(int(fd))
		out.tail = words(out.tail)
		out.read = uint64(len(out.tail))
	})
}

// take waits for a connection of the host's. It returns nil when close comes first.
func (s *stdio) take(from *streams, number uint32) net.Conn {
	conn := from.take(number, s.gone)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gone:
		if conn != nil {
			conn.Close()
		}
		return nil
	default:
		s.conns = append(s.conns, conn)
		return conn
	}
}

// close ends all copying and closes all descriptors. The host's connections are closed too, or will be when they come.
func (s *stdio) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.gone)
	for _, conn := range s.conns {
		conn.SetDeadline(time.Unix(1, 0)) // ends what blocks on it
	}
	s.closeChild()
	files := []*os.File{s.stdin, s.tty}
	for _, out := range s.outputs {
		if out != nil {
			files = append(files, out.file)
		}
	}
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// copyInput writes what the host sends to the process, until either has ended. At the host's end of file a pipe is
// closed. What is left when the process does not read any more is dropped.
func copyInput(dst *os.File, src io.Reader, tty bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				io.Copy(io.Discard, src)
				err = werr
			}
		}
		if err != nil {
			if !tty {
				dst.Close()
			}
			return
		}
	}
}

// buffers are held only while they have bytes in them: an idle process costs none.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// output is the agent's end of a pipe or terminal that a process writes to.
type output struct {
	file *os.File
	tty  bool

	mu   sync.Mutex
	read uint64 // bytes taken out of the file
	tail []byte // taken out by settle, not yet copied
}

// copyTo copies until the last holder of the other end is gone, the file is closed, or dst fails. Then it closes the
// file, so that a process that still writes gets SIGPIPE.
func (o *output) copyTo(dst io.Writer) {
	defer func() {
		if !o.tty {
			o.file.Close()
		}
	}()
	raw, err := o.file.SyscallConn()
	if err != nil {
		return
	}
	for {
		var buf *[32 << 10]byte
		var data []byte
		err := raw.Read(func(fd uintptr) bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			if len(o.tail) > 0 {
				data, o.tail = o.tail, nil
				return true
			}
			buf = buffers.Get().(*[32 << 10]byte)
			n, err := readSome(int(fd), buf[:])
			if err == unix.EAGAIN {
				buffers.Put(buf)
				buf = nil
				return false
			}
			o.read += uint64(n)
			data = buf[:n]
			return true
		})
		if len(data) > 0 {
			if _, err := dst.Write(data); err != nil {
				return
			}
		}
		if buf != nil {
			buffers.Put(buf)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && o.file.SetReadDeadline(time.Time{}) == nil {
			continue // drain has woken this
		}
		if err != nil || len(data) == 0 {
			return
		}
	}
}

// closeAfter closes the file when the host closes its end of the connection: it wants no more output.
func (o *output) closeAfter(conn io.Reader) {
	io.Copy(io.Discard, conn)
	o.file.Close()
}

// terminalBuffer is more than the kernel holds of a terminal's output: 64 KiB on the way (drivers/tty/tty_buffer.c) and
// 4 KiB read ahead (drivers/tty/n_tty.c).
const terminalBuffer = 128 << 10

// settle returns how many bytes were written to the file until now, copied or not. It is called at the process's exit,
// and does not wait for a host that does not read.
func (o *output) settle() uint64 {
	if o == nil {
		return 0
	}
	total, closed := uint64(0), true
	if raw, err := o.file.SyscallConn(); err == nil {
		closed = raw.Control(func(fd uintptr) {
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.tty {
				o.drain(int(fd))
			} else if n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
				total = uint64(n)
			}
			total += o.read
		}) != nil
	}
	if closed { // all was read
		o.mu.Lock()
		defer o.mu.Unlock()
		total = o.read
	}
	return total
}

// drain takes what a terminal holds, and wakes copyTo for it. A count, as pipes have one, would miss what is still on
// its way inside the kernel: only a read waits for that.
func (o *output) drain(fd int) {
	defer o.file.SetReadDeadline(time.Unix(1, 0))
	var buf [4096]byte
	for len(o.tail) < terminalBuffer {
		n, err := readSome(fd, buf[:])
		if err != nil || n <= 0 {
			return
		}
		o.tail = append(o.tail, buf[:n]...)
		o.read += uint64(n)
	}
}

// readSome reads once. No byte and no error is the end; a terminal whose last holder is gone says EIO instead.
func readSome(fd int, buf []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, buf)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EIO:
			return 0, nil
		case err != nil:
			return 0, err
		}
		return n, nil
	}
}
