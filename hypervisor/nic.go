package hypervisor

import (
	"fmt"
	"os"
)

// NIC is the host's end of a network interface. Its files stay the caller's: QEMU gets duplicates, so they can be closed
// as soon as Launch or AddNIC has returned, and a tap that nothing else holds goes with QEMU.
//
// No files at all make a NIC with nothing behind it. It has fewer features than one with a tap, so a template and its
// clones must be alike in that.
type NIC struct {
	// Tap has a descriptor of the tap for each of Machine.Queues, attached with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, and
	// with IFF_MULTI_QUEUE where there are several (Linux Documentation/networking/tuntap.rst).
	Tap []*os.File
	// VHost has as many of /dev/vhost-net when the machine has VHost, else none.
	VHost []*os.File
}

// checkNIC tells why a NIC does not fit the machine.
func (m Machine) checkNIC(nic NIC) error {
	taps, vhosts := len(nic.Tap), 0
	if m.VHost {
		vhosts = taps
	}
	if taps != 0 && taps != m.Queues() || len(nic.VHost) != vhosts {
		return fmt.Errorf("a NIC has %d tap and %d vhost descriptors: the machine has %d queues, vhost is %s",
			taps, len(nic.VHost), m.Queues(), onOff(m.VHost))
	}
	return nil
}
