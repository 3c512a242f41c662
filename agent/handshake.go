package agent

import (
	"encoding/binary"
	"io"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// AwaitSession answers every handshake until the host begins the session, and reads no byte of the session. Other bytes
// are what an earlier host left behind, before this guest was cloned: they are skipped.
func AwaitSession(port io.ReadWriter) error {
	var b [1 + protocol.NonceSize + 1]byte
	for {
		if _, err := io.ReadFull(port, b[:1]); err != nil {
			return err
		}
		switch b[0] {
		case protocol.Begin:
			return nil
		case protocol.Hello:
			if _, err := io.ReadFull(port, b[1:1+protocol.NonceSize]); err != nil {
				return err
			}
			b[0], b[len(b)-1] = protocol.Answer, protocol.Version
			if _, err := port.Write(b[:]); err != nil {
				return err
			}
		}
	}
}

// readNumber reads the number that every connection of the session starts with.
func readNumber(conn io.Reader) (uint32, error) {
	var b [4]byte
	_, err := io.ReadFull(conn, b[:])
	return binary.BigEndian.Uint32(b[:]), err
}
