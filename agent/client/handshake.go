package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// maxStale bounds what may lie in the channel before the agent's answer, in bytes: answers to handshakes before this.
const maxStale = 64 << 10

// Handshake returns nil when the agent behind conn has answered: the guest has booted. It may be called before QEMU
// runs, waits for as long as ctx lets it, and can be repeated until New. After an error conn is of no more use.
func Handshake(ctx context.Context, conn net.Conn) error {
	err := interruptible(ctx, conn, func() error { return greet(conn) })
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the VM closed the channel")
	}
	if err != nil {
		return fmt.Errorf("greet the agent: %w", err)
	}
	return nil
}

func greet(conn io.ReadWriter) error {
	var nonce [protocol.NonceSize]byte
	rand.Read(nonce[:])
	if _, err := conn.Write(append([]byte{protocol.Hello}, nonce[:]...)); err != nil {
		return err
	}
	want := append([]byte{protocol.Answer}, nonce[:]...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	// Byte by byte through what is stale: not one byte behind the answer may be taken.
	for stale := 0; !bytes.Equal(got, want); stale++ {
		if stale == maxStale {
			return errors.New("the guest sent something else")
		}
		copy(got, got[1:])
		if _, err := io.ReadFull(conn, got[len(got)-1:]); err != nil {
			return err
		}
	}
	var version [1]byte
	if _, err := io.ReadFull(conn, version[:]); err != nil {
		return err
	}
	if version[0] != protocol.Version {
		return fmt.Errorf("it speaks version %d of the channel, not %d", version[0], protocol.Version)
	}
	return nil
}

// interruptible runs do, which uses conn, and makes it end with ctx. When ctx has ended it returns its error.
func interruptible(ctx context.Context, conn net.Conn, do func() error) error {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err := do()
	if !stop() {
		return ctx.Err()
	}
	return err
}
