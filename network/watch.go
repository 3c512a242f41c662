package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// watched are the multicast groups of rtnetlink(7) that say when Scan's answer may have changed.
var watched = []int{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_NEIGH,
}

// Watch puts a token into the channel when what Scan reads may have changed; while a token waits, further changes add none.
// So a burst of changes makes one token, or two if it is taken early, and after the last change there is always one. What
// happens to taps of ours makes none. The channel is closed when ctx is done, or when the kernel ends the socket.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch the network: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "netlink")
	if err := subscribe(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the network: %w", err), socket.Close())
	}
	changes := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	go func() {
		defer close(changes)
		defer socket.Close()
		defer stop()
		pass(socket, changes)
	}()
	return changes, nil
}

func subscribe(fd int) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, group := range watched {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return err
		}
	}
	return nil
}

// pass turns messages into tokens until the socket is closed.
func pass(socket *os.File, changes chan<- struct{}) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := socket.Read(buffer)
		// ENOBUFS: there were more messages than the socket holds, so something has changed.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		if err == nil && !matters(buffer[:n]) {
			continue
		}
		select {
		case changes <- struct{}{}:
		default:
		}
	}
}

// matters says whether any of the messages is about something that Scan reads. It is true in doubt.
func matters(data []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return true
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			if isOurName(linkName(m)) {
				continue
			}
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			if len(m.Data) >= unix.SizeofRtMsg && m.Data[4] == unix.RT_TABLE_LOCAL { // struct rtmsg, rtm_table
				continue
			}
		case unix.RTM_NEWNEIGH: // struct ndmsg: state at 8, flags at 10. The others come and go with the traffic
			if len(m.Data) >= unix.SizeofNdMsg && binary.NativeEndian.Uint16(m.Data[8:])&unix.NUD_PERMANENT == 0 &&
				m.Data[10]&unix.NTF_PROXY == 0 {
				continue
			}
		}
		return true
	}
	return false
}

func linkName(m syscall.NetlinkMessage) string {
	attributes, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return ""
	}
	for _, a := range attributes {
		if a.Attr.Type == unix.IFLA_IFNAME {
			return unix.ByteSliceToString(a.Value)
		}
	}
	return ""
}
