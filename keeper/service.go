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
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	return &api.StartResponse{}, s.saveStatus(specs.StateRunning)
}

func (s *session) Exec(ctx context.Context, r *api.ExecRequest) (*api.ExecResponse, error) {
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.process != nil {
		return nil, errors.New("this connection has a process already")
	}
	var process specs.Process
	if err := json.Unmarshal(r.Process, &process); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	stdio := s.stdio
	s.stdio = sandbox.Stdio{}
	p, err := c.Exec(ctx, &process, stdio)
	if err != nil {
		return nil, err
	}
	s.process, s.pid = p, r.Pid
	s.addExec(s)
	return &api.ExecResponse{}, nil
}

func (s *session) Wait(ctx context.Context, _ *api.WaitRequest) (*api.WaitResponse, error) {
	s.starting.Lock()
	p := s.process
	s.starting.Unlock()
	if p == nil {
		return nil, sandbox.ErrNoProcess
	}
	select {
	case <-p.Exited():
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
	return &api.PauseResponse{}, s.saveStatus(sandbox.StatePaused)
}

func (s *session) Resume(ctx context.Context, r *api.ResumeRequest) (*api.ResumeResponse, error) {
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := c.Resume(ctx); err != nil {
		return nil, err
	}
	return &api.ResumeResponse{}, s.saveStatus(specs.StateRunning)
}

func (s *session) Update(ctx context.Context, r *api.UpdateRequest) (*api.UpdateResponse, error) {
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.Resources, &resources); err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	return &api.UpdateResponse{}, c.Update(ctx, &resources)
}

func (s *session) Processes(_ context.Context, r *api.ProcessesRequest) (*api.ProcessesResponse, error) {
	if _, err := s.sandbox.Container(r.ContainerId); err != nil {
		return nil, err
	}
	return &api.ProcessesResponse{Pids: s.pids()}, nil
}
