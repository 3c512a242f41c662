package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	serverAddress = netip.MustParseAddr("127.0.0.11")
	question      = append([]byte{0x12, 0x34}, "a question of some bytes"...)
)

func TestAskUDP(t *testing.T) {
	enterNew(t)
	server, err := net.ListenPacket("udp", "127.0.0.11:53")
	must(t, err)
	defer server.Close()
	long := append([]byte{0x12, 0x34}, bytes.Repeat([]byte{7}, 60000)...)
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			server.WriteTo([]byte("short"), from)
			server.WriteTo(append([]byte{0x12, 0x35}, buffer[2:n]...), from) // the answer to another question
			server.WriteTo(long, from)
		}
	}()
	answer, err := Ask(t.Context(), serverAddress, false, question)
	if err != nil || !bytes.Equal(answer, long) {
		t.Errorf("%d bytes, %v", len(answer), err)
	}
}

func TestAskTCP(t *testing.T) {
	enterNew(t)
	server, err := net.Listen("tcp", "127.0.0.11:53")
	must(t, err)
	defer server.Close()
	answers := [][]byte{bytes.Repeat([]byte{8}, 1<<16-1), nil, []byte("small")}
	go func() {
		for _, answer := range answers {
			connection, err := server.Accept()
			if err != nil {
				return
			}
			asked := make([]byte, 2+len(question))
			io.ReadFull(connection, asked)
			if bytes.Equal(asked[2:], question) {
				connection.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}
			connection.Close()
		}
		connection, err := server.Accept()
		if err != nil {
			return
		}
		connection.Write([]byte{1, 0, 'c', 'u', 't'})
		connection.Close()
	}()
	for _, want := range answers {
		answer, err := Ask(t.Context(), serverAddress, true, question)
		if err != nil || !bytes.Equal(answer, want) {
			t.Errorf("%d bytes, want %d; %v", len(answer), len(want), err)
		}
	}
	if answer, err := Ask(t.Context(), serverAddress, true, question); err == nil {
		t.Errorf("an answer that ends early: %q", answer)
	}
}

func TestAskInVain(t *testing.T) {
	enterNew(t)
	for _, tcp := range []bool{false, true} {
		if _, err := Ask(t.Context(), serverAddress, tcp, question); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("nobody listens: %v", err)
		}
		for _, size := range []int{0, 11, 1 << 16} {
			if _, err := Ask(t.Context(), serverAddress, tcp, make([]byte, size)); err == nil {
				t.Errorf("a question of %d bytes", size)
			}
		}
	}
	silent, err := net.ListenPacket("udp", "127.0.0.11:53")
	must(t, err)
	defer silent.Close()
	deaf, err := net.Listen("tcp", "127.0.0.11:53")
	must(t, err)
	defer deaf.Close()
	for _, tcp := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := Ask(ctx, serverAddress, tcp, question); err == nil || !strings.Contains(err.Error(), "deadline") {
			t.Errorf("a silent server: %v", err)
		}
		cancel()
	}
}

func TestResolvers(t *testing.T) {
	docker, stub := netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("127.0.0.53")
	for text, want := range map[string][]netip.Addr{
		"": nil,
		"nameserver 127.0.0.11\noptions ndots:0\n":                                      {docker},
		"# nameserver 127.0.0.11\n;nameserver 127.0.0.11\nnameserver 9.9.9.9":           nil,
		"search lan\n  nameserver\t127.0.0.53 trailing\nnameserver ::1":                 {stub},
		"nameserver 127.0.0.11\nnameserver 8.8.8.8\nnameserver 127.0.0.11":              {docker},
		"nameserver 1.1.1.1\nnameserver ::2\nnameserver ::3\nnameserver ::1\n":          nil, // the fourth is not asked
		"nameserver\nnameserver here\nnameservers 127.0.0.1\nnameserver 127.0.0.53\r\n": {stub},
	} {
		if got := Resolvers([]byte(text)); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}
