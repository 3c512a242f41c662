package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// pipe is a port: what the host has sent, and what the agent answers.
type pipe struct {
	io.Reader
	bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error) { return p.Reader.Read(b) }

func TestAwaitSession(t *testing.T) {
	hello := "H" + strings.Repeat("n", protocol.NonceSize)
	answer := "h" + strings.Repeat("n", protocol.NonceSize) + string(rune(protocol.Version))
	tests := []struct{ name, sent, answered, left string }{
		{"session at once", "Sxyz", "", "xyz"},
		{"one handshake", hello + "Sxyz", answer, "xyz"},
		{"repeated", hello + hello + "S", answer + answer, ""},
		{"stale bytes", "\x00nn" + hello + "\xff" + "S", answer, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			port := &pipe{Reader: strings.NewReader(test.sent)}
			if err := AwaitSession(port); err != nil {
				t.Fatal(err)
			}
			left, _ := io.ReadAll(port.Reader)
			if port.String() != test.answered || string(left) != test.left {
				t.Errorf("answered %q, left %q", port.String(), left)
			}
		})
	}
	for _, sent := range []string{"", "H", hello, hello + "H123"} {
		err := AwaitSession(&pipe{Reader: strings.NewReader(sent)})
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", sent, err)
		}
	}
}

func FuzzAwaitSession(f *testing.F) {
	f.Add([]byte("H0123456789abcdefS\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		port := &pipe{Reader: bytes.NewReader(sent)}
		err := AwaitSession(port)
		if port.Len()%(protocol.NonceSize+2) != 0 {
			t.Errorf("half an answer: %q", port.Bytes())
		}
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(port.Reader)
		number, err := readNumber(bytes.NewReader(rest))
		if len(rest) < 4 {
			if err == nil {
				t.Errorf("number %d of %q", number, rest)
			}
		} else if err != nil || number != binary.BigEndian.Uint32(rest) {
			t.Errorf("number %d of %q, %v", number, rest, err)
		}
	})
}
