package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// socket is a netlink socket (netlink(7)). It speaks to the network namespace that it was made in, whichever thread
// uses it. One question at a time.
type socket struct {
	fd       int
	sequence uint32
	buffer   []byte
}

// dial makes a socket of a netlink family, NETLINK_ROUTE say, in the calling thread's network namespace.
func dial(family int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, fmt.Errorf("make netlink socket: %w", err)
	}
	// The kernel says in words what it does not like, and does not repeat the question. Both are for better messages.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	return &socket{fd: fd, buffer: make([]byte, 32<<10)}, nil // 32 KiB is the most that the kernel puts in one datagram
}

func (s *socket) close() { unix.Close(s.fd) }

// message is one netlink message, header included.
type message []byte

// newMessage starts a message with its fixed part. Attributes follow by attribute.
func newMessage(kind, flags uint16, fixed []byte) message {
	m := make(message, unix.NLMSG_HDRLEN, 256)
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_REQUEST)
	return append(m, fixed...)
}

// attribute appends an attribute to a message, or to a list of them that is nested in another one.
func attribute(to []byte, kind uint16, value []byte) []byte {
	to = binary.NativeEndian.AppendUint16(to, uint16(unix.SizeofNlAttr+len(value)))
	to = binary.NativeEndian.AppendUint16(to, kind)
	to = append(to, value...)
	return append(to, make([]byte, -len(value)&3)...) // each starts at a multiple of four bytes
}

// nested appends an attribute that is a list of attributes.
func nested(to []byte, kind uint16, list []byte) []byte {
	return attribute(to, kind|unix.NLA_F_NESTED, list)
}

// text is a string as attributes have it.
func text(s string) []byte { return append([]byte(s), 0) }

// number is a number as attributes have it, in the machine's order.
func number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// attributes reads a list of attributes. What is cut off is left out.
func attributes(list []byte) map[uint16][]byte {
	read := map[uint16][]byte{}
	for len(list) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(list))
		if length < unix.SizeofNlAttr || length > len(list) {
			break
		}
		kind := binary.NativeEndian.Uint16(list[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		read[kind] = list[unix.SizeofNlAttr:length]
		list = list[min(len(list), (length+3)&^3):]
	}
	return read
}

// errInterrupted says that what was listed changed meanwhile, so that the list may lack something.
var errInterrupted = errors.New("the list changed while it was read")

// do sends messages at once, the last of which asks for an answer by NLM_F_ACK or NLM_F_DUMP, and gives each message of
// the answer to each, which may be nil. Its error is the kernel's.
func (s *socket) do(each func(fixed []byte), messages ...message) error {
	s.sequence++
	var all []byte
	for _, m := range messages {
		binary.NativeEndian.PutUint32(m, uint32(len(m)))
		binary.NativeEndian.PutUint32(m[8:], s.sequence)
		all = append(append(all, m...), make([]byte, -len(m)&3)...)
	}
	if err := retry(func() error { return unix.Sendto(s.fd, all, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) }); err != nil {
		return err
	}
	interrupted := false
	for {
		var n int
		err := retry(func() (err error) {
			n, _, err = unix.Recvfrom(s.fd, s.buffer, 0)
			return err
		})
		if err != nil {
			return err
		}
		for rest := s.buffer[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(rest))
			if length < unix.NLMSG_HDRLEN || length > len(rest) {
				return errors.New("netlink answer is cut off")
			}
			kind, flags := binary.NativeEndian.Uint16(rest[4:]), binary.NativeEndian.Uint16(rest[6:])
			body, mine := rest[unix.NLMSG_HDRLEN:length], binary.NativeEndian.Uint32(rest[8:]) == s.sequence
			rest = rest[min(len(rest), (length+3)&^3):]
			interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case !mine: // of an earlier question that failed half-way
			case kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE:
				if err := answer(body, flags); err != nil || !interrupted {
					return err
				}
				return errInterrupted
			case each != nil:
				each(body)
			}
		}
	}
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// refusal is the kernel's error, and its words where it has any.
type refusal struct {
	unix.Errno
	words string
}

func (r refusal) Error() string {
	if r.words == "" {
		return r.Errno.Error()
	}
	return r.Errno.Error() + " (" + strings.TrimSuffix(r.words, ".") + ")"
}

func (r refusal) Unwrap() error { return r.Errno }

// answer reads the end of an answer: the error's number, and behind the header of the question the words.
func answer(body []byte, flags uint16) error {
	const nlmsgerrAttrMsg = 1 // NLMSGERR_ATTR_MSG of linux/netlink.h
	if len(body) < 4 {
		return nil
	}
	errno := -int32(binary.NativeEndian.Uint32(body))
	if errno == 0 {
		return nil
	}
	r := refusal{Errno: unix.Errno(errno)}
	if flags&unix.NLM_F_ACK_TLVS != 0 && len(body) >= 4+unix.NLMSG_HDRLEN {
		r.words = strings.TrimRight(string(attributes(body[4+unix.NLMSG_HDRLEN:])[nlmsgerrAttrMsg]), "\x00")
	}
	return r
}
