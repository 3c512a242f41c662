package protocol

import (
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// The handshake's bytes and the names that both ends share. The picture is at the top of agent.proto.
const (
	Port      = "hyper.agent" // name of the virtio-serial port
	Version   = 1             // of the channel, the byte that ends the agent's answer
	NonceSize = 16            // bytes
	Hello     = 'H'           // host: a nonce follows
	Answer    = 'h'           // agent: the same nonce and Version follow
	Begin     = 'S'           // host: the session starts with the next byte
)

// Where the guest mounts its two network namespaces for containers. All containers of a session are in the same one, which
// the host chooses: the one in which a template's device waits, or the one that has lo alone as long as the host says
// nothing of the network. A device can come into either, and takes its time where it has not waited.
const (
	NetworkNamespace = "/run/network"
	BareNamespace    = "/run/network.bare"
)

// UsualDevices is how the host encodes the device rules of nearly every container in its configuration, and how the
// rehearsal of a template does: the guest's runtime's default devices and no others. Strings there have their quotes
// escaped, so it stands nowhere else.
const UsualDevices = `"devices":[{"allow":false,"access":"rwm"}]`

// ShareTag is the mount tag of the host's 9p share.
const ShareTag = "share"

// ShareOptions are the mount options of a 9p share (Linux Documentation/filesystems/9p.rst). Every read and write goes
// to the host at once, so that both sides always see the same bytes; the cache is for mapped files only: with cache=none
// a file cannot be mapped shared and writable at all. With cache=mmap alone, or more, the guest reads what the host has
// changed since from its cache as long as it has the file open. What this mode lacks in Linux 6.12 is in
// guest/kernel/9p.patch. access=client gives new files their owners.
const ShareOptions = "trans=virtio,version=9p2000.L,msize=131072,cache=mmap,directio,access=client"

// Window is how many bytes of one stream may be under way unread, and so the most that either end keeps for a stream.
const Window = 256 << 10

// Mux returns the settings of the session's multiplexer, for both ends. It has no timers of its own: a QEMU that is
// frozen for minutes is not an error, and the host's calls have their own deadlines.
func Mux() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          1024,
		KeepAliveInterval:      time.Hour, // must be positive, although keep-alive is off
		ConnectionWriteTimeout: 10000 * time.Hour,
		MaxStreamWindowSize:    Window,
		LogOutput:              io.Discard,
	}
}
