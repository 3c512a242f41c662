package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// dnsPort is where programs look for a name server.
const dnsPort = 53

// Numbers of linux/netfilter/nf_tables.h and linux/netfilter_ipv4.h that package unix lacks.
const (
	nftTableOwner  = 2    // NFT_TABLE_F_OWNER: the table is the socket's, and goes with it; nobody else can change it
	natDestination = -100 // NF_IP_PRI_NAT_DST
	ipv4Protocol   = 9    // offsets of these two in the IPv4 header
	ipv4To         = 16
	toPort         = 2 // offset in the headers of UDP and TCP
)

// redirect is a way from port 53 of an address to another port of it, for programs of the namespace.
type redirect struct {
	address  netip.Addr
	protocol uint8 // IPPROTO_UDP or IPPROTO_TCP
	port     uint16
}

// redirectPorts makes the redirects in the calling thread's network namespace, as a table of nftables. They last until
// the socket is closed.
func redirectPorts(redirects []redirect) (*socket, error) {
	s, err := dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	const table, chain = "hyper", "names"
	hook := nested(nil, unix.NFTA_CHAIN_HOOK, attribute(attribute(nil,
		unix.NFTA_HOOK_HOOKNUM, wire(unix.NF_INET_LOCAL_OUT)),
		unix.NFTA_HOOK_PRIORITY, wire(uint32(0xffffffff+1+natDestination))))
	batch := []message{
		batchMark(unix.NFNL_MSG_BATCH_BEGIN),
		nftMessage(unix.NFT_MSG_NEWTABLE, attribute(attribute(nil,
			unix.NFTA_TABLE_NAME, text(table)), unix.NFTA_TABLE_FLAGS, wire(nftTableOwner))),
		nftMessage(unix.NFT_MSG_NEWCHAIN, append(attribute(attribute(attribute(nil,
			unix.NFTA_CHAIN_TABLE, text(table)), unix.NFTA_CHAIN_NAME, text(chain)), unix.NFTA_CHAIN_TYPE, text("nat")), hook...)),
	}
	for _, r := range redirects {
		rule := attribute(attribute(nil, unix.NFTA_RULE_TABLE, text(table)), unix.NFTA_RULE_CHAIN, text(chain))
		batch = append(batch, nftMessage(unix.NFT_MSG_NEWRULE, nested(rule, unix.NFTA_RULE_EXPRESSIONS, r.expressions())))
	}
	last := batch[len(batch)-1]
	binary.NativeEndian.PutUint16(last[6:], binary.NativeEndian.Uint16(last[6:])|unix.NLM_F_ACK)
	if err := s.do(nil, append(batch, batchMark(unix.NFNL_MSG_BATCH_END))...); err != nil {
		s.close()
		return nil, fmt.Errorf("redirect port %d: %w", dnsPort, err)
	}
	return s, nil
}

// expressions are "ip daddr ADDRESS ip protocol PROTOCOL th dport 53 dnat to ADDRESS:PORT".
func (r redirect) expressions() []byte {
	address, port := r.address.AsSlice(), binary.BigEndian.AppendUint16(nil, r.port)
	var list []byte
	for _, test := range []struct {
		base   uint32
		offset uint32
		value  []byte
	}{
		{unix.NFT_PAYLOAD_NETWORK_HEADER, ipv4To, address},
		{unix.NFT_PAYLOAD_NETWORK_HEADER, ipv4Protocol, []byte{r.protocol}},
		{unix.NFT_PAYLOAD_TRANSPORT_HEADER, toPort, binary.BigEndian.AppendUint16(nil, dnsPort)},
	} {
		list = expression(list, "payload", numbers(
			unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1, unix.NFTA_PAYLOAD_BASE, test.base,
			unix.NFTA_PAYLOAD_OFFSET, test.offset, unix.NFTA_PAYLOAD_LEN, uint32(len(test.value))))
		list = expression(list, "cmp", nested(numbers(unix.NFTA_CMP_SREG, unix.NFT_REG_1, unix.NFTA_CMP_OP, unix.NFT_CMP_EQ),
			unix.NFTA_CMP_DATA, attribute(nil, unix.NFTA_DATA_VALUE, test.value)))
	}
	for i, value := range [][]byte{address, port} {
		list = expression(list, "immediate", nested(numbers(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1+uint32(i)),
			unix.NFTA_IMMEDIATE_DATA, attribute(nil, unix.NFTA_DATA_VALUE, value)))
	}
	return expression(list, "nat", numbers(
		unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT, unix.NFTA_NAT_FAMILY, unix.NFPROTO_IPV4,
		unix.NFTA_NAT_REG_ADDR_MIN, unix.NFT_REG_1, unix.NFTA_NAT_REG_PROTO_MIN, unix.NFT_REG_1+1))
}

// expression appends one expression to a rule's list.
func expression(list []byte, name string, data []byte) []byte {
	return nested(list, unix.NFTA_LIST_ELEM, nested(attribute(nil,
		unix.NFTA_EXPR_NAME, text(name)), unix.NFTA_EXPR_DATA, data))
}

// numbers is a list of attributes that are numbers: kinds and values in turn.
func numbers(pairs ...uint32) []byte {
	var list []byte
	for i := 0; i < len(pairs); i += 2 {
		list = attribute(list, uint16(pairs[i]), wire(pairs[i+1]))
	}
	return list
}

// wire is a number as nftables has it, in network order.
func wire(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// nftMessage is a message of nftables: struct nfgenmsg and attributes.
func nftMessage(kind uint16, list []byte) message {
	const create = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	return newMessage(unix.NFNL_SUBSYS_NFTABLES<<8|kind, create, append([]byte{unix.NFPROTO_IPV4, unix.NFNETLINK_V0, 0, 0}, list...))
}

// batchMark begins or ends a batch, all of which is done or nothing.
func batchMark(kind uint16) message {
	return newMessage(kind, 0, []byte{0, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES})
}
