package resource

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Update returns what an update sets in the container's cgroup (v2), where now are its figures. It means what it means
// to runc (its update.go, and cgroups/fs2): what is not given stays, also where the kernel or the guest's runtime know
// two values only together. Zero is "not given", but for the number of processes, of which it leaves one. What runc's
// update never touches is left out: devices, huge pages, network, rdma. The limits that it says nothing of are nil.
func Update(r *specs.LinuxResources, now Stats) (*specs.LinuxResources, error) {
	u := &specs.LinuxResources{CPU: updateCPU(r.CPU, now), Unified: r.Unified}
	var err error
	if u.Memory, err = updateMemory(r.Memory, now.Memory); err != nil {
		return nil, err
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		limit := max(*r.Pids.Limit, -1)
		if limit == 0 {
			limit = 1
		}
		u.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return u, nil
}

// updateMemory completes limits: swap counts memory and swap together in the specification, in cgroup v2 swap alone.
func updateMemory(m *specs.LinuxMemory, now MemoryStats) (*specs.LinuxMemory, error) {
	if m == nil {
		return nil, nil
	}
	limit, swap := max(given(m.Limit), -1), max(given(m.Swap), -1) // less than zero is "no limit"
	if m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate {
		if swap > 0 && uint64(swap) <= now.Usage.Usage {
			return nil, fmt.Errorf("rejecting memory+swap limit %d <= usage %d", swap, now.Usage.Usage)
		}
		if limit > 0 && uint64(limit) <= now.Usage.Usage {
			return nil, fmt.Errorf("rejecting memory limit %d <= usage %d", limit, now.Usage.Usage)
		}
	}
	switch {
	case limit < 0 && swap == 0: // no limit for the one is none for both
		swap = -1
	case swap > 0 && limit == 0 && now.Usage.Limit <= 1<<63-1:
		limit = int64(now.Usage.Limit)
	}
	if swap > 0 && limit <= 0 {
		return nil, errors.New("unable to set swap limit without memory limit")
	}
	if swap > 0 && swap < limit {
		return nil, errors.New("memory+swap limit should be >= memory limit")
	}
	return &specs.LinuxMemory{Limit: pointer(limit), Swap: pointer(swap), Reservation: m.Reservation}, nil
}

// updateCPU completes quota and period, which are one file.
func updateCPU(c *specs.LinuxCPU, now Stats) *specs.LinuxCPU {
	if c == nil {
		return nil
	}
	u := *c
	if c.Idle != nil && *c.Idle != 0 {
		u.Shares = nil // an idle cgroup takes none (kernel/sched/fair.c, sched_group_set_shares)
	}
	switch {
	case given(c.Quota) == 0 && given(c.Period) != 0 && now.CPUQuota != 0:
		u.Quota = &now.CPUQuota
	case given(c.Quota) != 0 && given(c.Period) == 0 && now.CPUPeriod != 0:
		u.Period = &now.CPUPeriod
	}
	return &u
}

// given is the value, 0 when there is none.
func given[T int64 | uint64](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}

// pointer is nil for a limit that is not given.
func pointer(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}
