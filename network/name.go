package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	dnsPort    = 53
	dnsHeader  = 12               // RFC 1035, 4.1.1
	dnsMaximum = 1<<16 - 1        // what the length before a message in TCP can say
	askTimeout = 20 * time.Second // resolvers ask again after 5 s (resolv.conf(5)); later answers help nobody
	resolvers  = 3                // resolv.conf(5): MAXNS, the name servers that a resolver looks at
)

// Ask puts a question to the name server at server:53 in the current network namespace, over UDP or TCP, and returns its
// answer. Both are DNS messages of at most 64 KiB (RFC 1035) and are not looked into but for the identifier. It takes at
// most 20 s, less if ctx ends before.
func Ask(ctx context.Context, server netip.Addr, tcp bool, question []byte) (answer []byte, err error) {
	if len(question) < dnsHeader || len(question) > dnsMaximum {
		return nil, fmt.Errorf("ask name server %s: a question of %d bytes", server, len(question))
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	network, exchange := "udp", askUDP
	if tcp {
		network, exchange = "tcp", askTCP
	}
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, network, netip.AddrPortFrom(server, dnsPort).String())
	if err != nil {
		return nil, fmt.Errorf("ask name server: %w", err)
	}
	defer connection.Close()
	defer context.AfterFunc(ctx, func() { connection.SetDeadline(time.Unix(1, 0)) })()
	if answer, err = exchange(connection, question); err != nil {
		return nil, fmt.Errorf("ask name server %s: %w", server, errors.Join(err, ctx.Err()))
	}
	return answer, nil
}

// askUDP waits for the answer with the question's identifier. Others are late answers to somebody who had the port before.
func askUDP(connection net.Conn, question []byte) ([]byte, error) {
	if _, err := connection.Write(question); err != nil {
		return nil, err
	}
	buffer := make([]byte, dnsMaximum)
	for {
		n, err := connection.Read(buffer)
		if err != nil {
			return nil, err
		}
		if n >= dnsHeader && bytes.Equal(buffer[:2], question[:2]) {
			return slices.Clone(buffer[:n]), nil
		}
	}
}

// askTCP exchanges messages with their length before them (RFC 1035, 4.2.2).
func askTCP(connection net.Conn, question []byte) ([]byte, error) {
	message := append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	if _, err := connection.Write(message); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(connection, length[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(connection, answer); err != nil {
		return nil, err
	}
	return answer, nil
}

// Resolvers are the IPv4 loopback addresses among the name servers of a resolv.conf(5): the ones that a guest does not
// reach, because they are in the host's namespace. Each is there once, in their order. ::1, alone in its network, would
// be the container's own.
func Resolvers(resolvConf []byte) []netip.Addr {
	var found []netip.Addr
	servers := 0
	for line := range strings.Lines(string(resolvConf)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		address, err := netip.ParseAddr(fields[1])
		if err != nil {
			continue
		}
		if servers++; servers > resolvers {
			break
		}
		if address.Is4() && address.IsLoopback() && !slices.Contains(found, address) {
			found = append(found, address)
		}
	}
	return found
}
