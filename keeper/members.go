package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/sandbox"
)

// member is a further container of the sandbox. Its stand-in holds the session that added it.
type member struct {
	record
	id        string
	settled   chan struct{}      // closed when Add is done; container is valid then
	container *sandbox.Container // nil if it could not be made
	ended     chan struct{}      // closed when its process has exited and the record says so
}

// Add implements api.KeeperService.
func (s *session) Add(ctx context.Context, r *api.AddRequest) (*api.AddResponse, error) {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.process != nil || s.member != nil {
		return nil, errors.New("this connection has a process already")
	}
	m, bundle, err := s.admit(ctx, r.ContainerId)
	if err != nil {
		return nil, err
	}
	defer close(m.settled)
	stdio := s.stdio
	stdio.OwnTerminal = r.OwnTerminal
	s.stdio = sandbox.Stdio{}
	// What the guest begins it ends, whether the stand-in waits for it or not: then the end of the session kills it.
	c, err := s.sandbox.Create(context.WithoutCancel(ctx), m.id, bundle, stdio, &sandbox.Membership{
		Joined: s.joined(m, bundle.Spec),
		// The host's mounts may have changed since ours became a copy of them: the stand-in lives in the host's.
		Within: func(f func() error) error { return oci.WithinMounts(m.body().PID, f) },
	})
	if err != nil {
		s.forget(m)
		return nil, err
	}
	m.container = c
	s.member, s.process, s.inside = m, c.Init(), m.id
	s.addSession(s)
	if s.process != nil {
		go s.watch(m, s.process)
	}
	return &api.AddResponse{}, m.saveStatus(specs.StateCreated)
}

// admit enters the container among the members, from the run directory that create has made.
func (k *keeper) admit(ctx context.Context, id string) (*member, *oci.Bundle, error) {
	m := &member{id: id, settled: make(chan struct{}), ended: make(chan struct{})}
	var err error
	if m.dir, err = k.containers.Get(id); err != nil {
		return nil, nil, err
	}
	if m.state, err = m.dir.LoadState(); err != nil {
		return nil, nil, err
	}
	if m.state.SandboxID != k.dir.ID {
		return nil, nil, fmt.Errorf("container %s is not of sandbox %s", id, k.dir.ID)
	}
	raw, err := m.dir.LoadConfig()
	if err != nil {
		return nil, nil, err
	}
	bundle, err := oci.Decode(m.state.Bundle, raw)
	if err != nil {
		return nil, nil, err
	}
	// Ids are unique in the run directory: one that has this id here lost its directory behind our back.
	if ghost := k.memberOf(id); ghost != nil {
		if err := k.remove(ctx, ghost); err != nil {
			return nil, nil, err
		}
	}
	k.lists.Lock()
	defer k.lists.Unlock()
	k.members[id] = m
	return m, bundle, nil
}

// joined finds out which namespaces of the guest a container shares: those that it joins by path on the host, and that
// the host's process of another container of this sandbox lives in.
func (k *keeper) joined(m *member, spec *specs.Spec) sandbox.Joined {
	joined := sandbox.Joined{}
	own := m.body().PID
	for _, ns := range spec.Linux.Namespaces {
		if ns.Path == "" || !slices.Contains([]specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace}, ns.Type) {
			continue
		}
		mine := oci.ProcessNamespace(ns.Type, own)
		if mine.Is(oci.ProcessNamespace(ns.Type, k.body().PID)) {
			joined[ns.Type] = k.container
			continue
		}
		for _, other := range k.allMembers() {
			if other != m && other.isSettled() && other.container != nil && mine.Is(oci.ProcessNamespace(ns.Type, other.body().PID)) {
				joined[ns.Type] = other.container
				break
			}
		}
	}
	return joined
}

// watch writes down the end of the member's process.
func (k *keeper) watch(m *member, p *sandbox.Process) {
	<-p.Exited()
	k.raiseOOM(&m.record, p.OOMKills())
	if err := m.saveEnd(p.Status(), ""); err != nil {
		slog.Warn("save state", "container", m.id, "error", err)
	}
	close(m.ended)
}

// isSettled tells whether Add is done.
func (m *member) isSettled() bool {
	select {
	case <-m.settled:
		return true
	default:
		return false
	}
}

// Remove implements api.KeeperService.
func (s *session) Remove(ctx context.Context, r *api.RemoveRequest) (*api.RemoveResponse, error) {
	if m := s.memberOf(r.ContainerId); m != nil {
		return &api.RemoveResponse{}, s.remove(ctx, m)
	}
	return &api.RemoveResponse{}, nil
}

// remove takes a member out of the sandbox.
func (k *keeper) remove(ctx context.Context, m *member) error {
	select {
	case <-m.settled:
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.container != nil {
		if err := m.container.Delete(ctx); err != nil {
			return err
		}
	}
	k.forget(m)
	return nil
}

func (k *keeper) forget(m *member) {
	k.lists.Lock()
	defer k.lists.Unlock()
	if k.members[m.id] == m {
		delete(k.members, m.id)
	}
}

// killMembers kills all processes of the members. An error means that the guest is gone or ends: so do they.
func (k *keeper) killMembers() {
	for _, m := range k.allMembers() {
		if m.isSettled() && m.container != nil {
			m.container.Signal(context.Background(), unix.SIGKILL, true)
		}
	}
}

// memberOf is the member of that id, nil if there is none.
func (k *keeper) memberOf(id string) *member {
	k.lists.Lock()
	defer k.lists.Unlock()
	return k.members[id]
}

func (k *keeper) allMembers() []*member {
	k.lists.Lock()
	defer k.lists.Unlock()
	var all []*member
	for _, m := range k.members {
		all = append(all, m)
	}
	return all
}

// recordOf is the record of the sandbox's container of that id.
func (k *keeper) recordOf(id string) *record {
	if m := k.memberOf(id); m != nil {
		return &m.record
	}
	return &k.record
}
