package protocol

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxQuestions is how many questions to the host's name server a guest has under way at once, and MaxMessage the most
// bytes of a question or an answer: its length has two bytes.
const (
	MaxQuestions = 64
	MaxMessage   = 1<<16 - 1
)

// minMessage is a DNS message's header, in bytes (RFC 1035, 4.1.1).
const minMessage = 12

// Question is what the guest sends first on a connection that it has opened: a container's question to a name server.
type Question struct {
	TCP      bool   // it came over TCP, else over UDP
	Resolver uint8  // index in SetNetworkRequest.resolvers
	Message  []byte // DNS message (RFC 1035, 4.1), 12 to MaxMessage bytes
}

// WriteQuestion sends a question as agent.proto draws it.
func WriteQuestion(w io.Writer, q Question) error {
	b := make([]byte, 0, 4+len(q.Message))
	if q.TCP {
		b = append(b, 't', q.Resolver)
	} else {
		b = append(b, 'u', q.Resolver)
	}
	return writeMessage(w, b, q.Message)
}

// ReadQuestion reads a question, and no byte more. Its error is not nil for all that is none.
func ReadQuestion(r io.Reader) (Question, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Question{}, err
	}
	if head[0] != 'u' && head[0] != 't' {
		return Question{}, fmt.Errorf("question of kind %#x", head[0])
	}
	message, err := ReadMessage(r)
	return Question{head[0] == 't', head[1], message}, err
}

// WriteMessage sends a DNS message with its length before it, as over TCP (RFC 1035, 4.2.2), in one write.
func WriteMessage(w io.Writer, message []byte) error { return writeMessage(w, nil, message) }

func writeMessage(w io.Writer, head, message []byte) error {
	if len(message) < minMessage || len(message) > MaxMessage {
		return fmt.Errorf("DNS message of %d bytes", len(message))
	}
	head = binary.BigEndian.AppendUint16(head, uint16(len(message)))
	_, err := w.Write(append(head, message...))
	return err
}

// ReadMessage reads a DNS message with its length before it, and no byte more.
func ReadMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(length[:])
	if n < minMessage {
		return nil, fmt.Errorf("DNS message of %d bytes", n)
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	return message, err
}
