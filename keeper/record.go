package keeper

import (
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/program"
	"github.com/hyper-runtime/hyper/store"
)

// record is a container's state on disk, which this process alone writes.
type record struct {
	dir *store.Dir

	mu    sync.Mutex
	state store.State // guarded by mu

	ooms ooms
}

// body identifies the host's process that stands for the container.
func (r *record) body() program.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return body(r.state)
}

// body identifies the host's process that stands for a container: its keeper, or its stand-in if it lives in the sandbox
// of another; the zero value, which nobody is, before there is one.
func body(state store.State) program.ID {
	if state.SandboxID != "" {
		return program.ID(state.StandIn)
	}
	return program.ID(state.Keeper)
}

// saveState changes the state on disk.
func (r *record) saveState(change func(*store.State)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.state)
	return r.dir.SaveState(r.state)
}

// saveStatus changes the status of a container that has not stopped.
func (r *record) saveStatus(status specs.ContainerState) error {
	return r.saveState(func(s *store.State) {
		if s.Status != string(specs.StateStopped) {
			s.Status = string(status)
		}
	})
}

// saveEnd says that the container has stopped. reason is empty if it did so by itself.
func (r *record) saveEnd(status int, reason string) error {
	return r.saveState(func(s *store.State) {
		s.Status, s.ExitStatus, s.Reason = string(specs.StateStopped), &status, reason
	})
}
