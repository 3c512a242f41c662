package keeper

import (
	"context"
	"encoding/json"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/resource"
	"github.com/hyper-runtime/hyper/sandbox"
)

// Update changes the limits in the guest, and those that the host can hold better: of CPU shares, CPUs and memory nodes.
// The VM keeps its size, and the host's memory limit stays one that it fits in.
func (s *session) Update(ctx context.Context, r *api.UpdateRequest) (*api.UpdateResponse, error) {
	c, err := s.sandbox.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.Resources, &resources); err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	files, exited, err := c.Stats(ctx, 0, 0)
	if err != nil {
		return nil, err
	}
	if exited {
		return nil, sandbox.ErrNotRunning
	}
	now, err := resource.ParseStats(files)
	if err != nil {
		return nil, err
	}
	guest, err := resource.Update(&resources, now)
	if err != nil {
		return nil, err
	}
	if err := s.limitHost(r.ContainerId, &resources, resource.HostQuota(guest)); err != nil {
		return nil, err
	}
	return &api.UpdateResponse{}, c.Update(ctx, guest)
}

// limitHost applies limits to a container's cgroup on the host.
func (k *keeper) limitHost(id string, r *specs.LinuxResources, quota resource.Limits) error {
	record := k.recordOf(id)
	record.mu.Lock()
	kept := record.state.Cgroup
	record.mu.Unlock()
	var cgroup resource.Cgroup
	if err := json.Unmarshal(kept, &cgroup); err != nil {
		return fmt.Errorf("decode cgroup: %w", err)
	}
	if err := cgroup.Apply(resource.HostLimits(r, k.size, k.overheadMiB)); err != nil {
		return err
	}
	return cgroup.Apply(quota)
}
