package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// State is what a container's run directory tells about it when nobody else answers. Paths are absolute on the host.
type State struct {
	Version     int               `json:"version"`    // of this struct; set by SaveState
	OCIVersion  string            `json:"ociVersion"` // of config.json
	ID          string            `json:"id"`
	SandboxID   string            `json:"sandboxId,omitempty"` // the sandbox that it lives in; empty: one of its own
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"` // UTC
	Owner       string            `json:"owner,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	// Status is the last that the keeper told: an OCI state or "paused". A container whose keeper or stand-in is dead
	// has stopped, whatever stands here.
	Status     string `json:"status"`
	ExitStatus *int   `json:"exitStatus,omitempty"` // 0 to 255, once it has stopped
	Reason     string `json:"reason,omitempty"`     // why it stopped, if not by itself

	BootID   string             `json:"bootId"`             // the host's boot that the pids belong to; set by SaveState
	Keeper   Process            `json:"keeper,omitzero"`    // of its sandbox; zero before there is one
	StandIn  Process            `json:"standIn,omitzero"`   // of a further container in a sandbox
	Programs map[string]Process `json:"programs,omitempty"` // QEMU and helpers, by name

	Cgroup json.RawMessage `json:"cgroup,omitempty"` // resource.Cgroup
}

// Process identifies a process of the host: a pid alone is soon a stranger's.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // proc_pid_stat(5), field 22: clock ticks after boot
}

// stateVersion grows when older programs would misread a state.
const stateVersion = 1

const (
	statusCreating = "creating"
	statusStopped  = "stopped"
)

// decodeState reads a state and refuses what SaveState does not write. Above all no pid comes through that means
// something else to kill(2) than one process.
func decodeState(text []byte) (State, error) {
	var st State
	if err := json.Unmarshal(text, &st); err != nil {
		return State{}, fmt.Errorf("decode state: %w", err)
	}
	if st.Version != stateVersion {
		return State{}, fmt.Errorf("state has version %d, this hyper knows %d", st.Version, stateVersion)
	}
	switch st.Status {
	case statusCreating, "created", "running", "paused", statusStopped:
	default:
		return State{}, fmt.Errorf("%.40q is no status", st.Status)
	}
	if s := st.ExitStatus; s != nil && (*s < 0 || *s > 255) {
		return State{}, fmt.Errorf("%d is no exit status", *s)
	}
	if st.SandboxID != "" && ValidID(st.SandboxID) != nil {
		return State{}, fmt.Errorf("%.40q is no sandbox's id", st.SandboxID)
	}
	if st.BootID == "" {
		return State{}, errors.New("no boot id")
	}
	processes := []Process{st.Keeper, st.StandIn}
	for _, p := range st.Programs {
		processes = append(processes, p)
	}
	for _, p := range processes {
		if p != (Process{}) && (p.PID <= 1 || p.StartTime == 0) {
			return State{}, fmt.Errorf("pid %d with start time %d is no process of ours", p.PID, p.StartTime)
		}
	}
	return st, nil
}

// forgetProcesses makes the state that of a container which a boot of the host has ended.
func (st *State) forgetProcesses() {
	st.Keeper, st.StandIn, st.Programs = Process{}, Process{}, nil
	if st.Status != statusStopped {
		st.Status, st.Reason = statusStopped, "the host was booted since"
	}
}

// bootID is the id of the host's boot, read once: random(4).
var bootID = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
})
