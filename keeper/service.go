package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/sandbox"
)

func (s *session) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	// Engines may wire the network namespace only now that there is a process in it (docker from 26 on).
	if err := s.sandbox.SettleNetwork(ctx); err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	if c.LimitsMemory() {
		s.followOOM(s.recordOf(r.ContainerId), c)
	}
	return &api.StartResponse{}, s.recordOf(r.ContainerId).saveStatus(specs.StateRunning)
}

func (s *session) Exec(ctx context.Context, r *api.ExecRequest) (*api.ExecResponse, error) {
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.process != nil || s.member != nil {
		return nil, errors.New("this connection has a process already")
	}
	var process specs.Process
	if err := json.Unmarshal(r.Process, &process); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	stdio := s.stdio
	stdio.OwnTerminal = r.OwnTerminal
	s.stdio = sandbox.Stdio{}
	p, err := c.Exec(ctx, &process, stdio)
	if err != nil {
		return nil, err
	}
	s.process, s.inside, s.pid = p, r.ContainerId, r.Pid
	s.addSession(s)
	return &api.ExecResponse{}, nil
}

func (s *session) Wait(ctx context.Context, _ *api.WaitRequest) (*api.WaitResponse, error) {
	s.starting.Lock()
	p, m := s.process, s.member
	s.starting.Unlock()
	var exited <-chan struct{}
	switch {
	case p == nil && m == nil:
		return nil, sandbox.ErrNoProcess
	case p == nil: // a container without one, which ends with the VM or its stand-in
	case m != nil:
		exited = m.ended
	default:
		exited = p.Exited()
	}
	select {
	case <-exited:
		return &api.WaitResponse{Status: uint32(p.Status())}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *session) Signal(ctx context.Context, r *api.SignalRequest) (*api.SignalResponse, error) {
	if s.process != nil {
		return &api.SignalResponse{}, s.process.Signal(ctx, unix.Signal(r.Signal))
	}
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	return &api.SignalResponse{}, c.Signal(ctx, unix.Signal(r.Signal), r.All)
}

func (s *session) Resize(ctx context.Context, r *api.ResizeRequest) (*api.ResizeResponse, error) {
	if s.process != nil {
		return &api.ResizeResponse{}, s.process.Resize(ctx, r.Width, r.Height)
	}
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	return &api.ResizeResponse{}, c.Init().Resize(ctx, r.Width, r.Height)
}

func (s *session) Pause(ctx context.Context, r *api.PauseRequest) (*api.PauseResponse, error) {
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := c.Pause(ctx); err != nil {
		return nil, err
	}
	return &api.PauseResponse{}, s.recordOf(r.ContainerId).saveStatus(sandbox.StatePaused)
}

func (s *session) Resume(ctx context.Context, r *api.ResumeRequest) (*api.ResumeResponse, error) {
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := c.Resume(ctx); err != nil {
		return nil, err
	}
	return &api.ResumeResponse{}, s.recordOf(r.ContainerId).saveStatus(specs.StateRunning)
}

func (s *session) Processes(_ context.Context, r *api.ProcessesRequest) (*api.ProcessesResponse, error) {
	if _, err := s.sandbox.Container(r.ContainerId); err != nil {
		return nil, err
	}
	return &api.ProcessesResponse{Pids: s.pids(r.ContainerId)}, nil
}
