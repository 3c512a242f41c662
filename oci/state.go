package oci

import (
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// State is what `state` prints of a container, and `list` of each: the state of the specification and what runc adds.
// Names and order of the JSON keys are runc's.
type State struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"` // on the host; 0 once stopped
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`  // absolute
	Rootfs      string               `json:"rootfs"`  // absolute
	Created     time.Time            `json:"created"` // UTC
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"` // user name, or "#" and the uid; `state` leaves it empty
}

// Hook is the state as hooks see it on stdin, without runc's additions.
func (s State) Hook() specs.State {
	return specs.State{
		Version: s.Version, ID: s.ID, Status: s.Status, Pid: s.Pid, Bundle: s.Bundle, Annotations: s.Annotations,
	}
}
