package sandbox

import (
	"testing"

	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/hypervisor"
)

// TestNamesOfDevices: the guest looks for its devices under the names that the host gives them. The two rooms do not
// know each other.
func TestNamesOfDevices(t *testing.T) {
	if hypervisor.ShareTag != protocol.ShareTag {
		t.Errorf("the share is %q on the host, %q in the guest", hypervisor.ShareTag, protocol.ShareTag)
	}
	if hypervisor.AgentPort != protocol.Port {
		t.Errorf("the port is %q on the host, %q in the guest", hypervisor.AgentPort, protocol.Port)
	}
}
