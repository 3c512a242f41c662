package sandbox

import (
	"context"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// maxStatsWait bounds how long Stats waits: a wait that was given up goes on in the guest.
const maxStatsWait = time.Minute

// Stats are the container's figures: the files of its cgroup by name, in the guest's words. It answers after wait, or
// after a minute, or as soon as there were more than oomKills OOM kills or the container has exited. Then these are the
// last figures; there are none if the guest is gone.
func (c *Container) Stats(ctx context.Context, wait time.Duration, oomKills uint64) (files map[string][]byte, exited bool, err error) {
	if c.init == nil {
		return nil, false, ErrNotRunning
	}
	wait = min(wait, maxStatsWait)
	ctx, cancel := context.WithTimeout(ctx, callTimeout+wait)
	defer cancel()
	answer, err := c.sandbox.agent.Stats(ctx, &protocol.StatsRequest{
		ContainerId: c.id, WaitMilliseconds: uint32(wait.Milliseconds()), OomKills: oomKills,
	})
	if err == nil {
		return answer.Files, answer.Exited, nil
	}
	if c.sandbox.agent.Err() != nil || c.Status() == specs.StateStopped {
		return nil, true, nil
	}
	return nil, false, err
}

// AwaitOOM returns how many processes of the container were killed in the guest because there was no memory, as soon as
// these are more than are known. When the container's process has exited it returns what it finds.
func (c *Container) AwaitOOM(ctx context.Context, known uint64) (kills uint64, err error) {
	if c.init == nil {
		return 0, ErrNotRunning
	}
	answer, err := c.sandbox.agent.AwaitOOM(ctx, &protocol.AwaitOOMRequest{ContainerId: c.id, Known: known})
	return answer.GetOomKills(), err
}

// OOMKills is how many processes of the container were killed in the guest because there was no memory. It is known of
// a container's init after Exited; else, and if the VM was killed, it is 0.
func (p *Process) OOMKills() uint64 { return p.oomKills }

// LimitsMemory tells whether the container was created with a limit of its own.
func (c *Container) LimitsMemory() bool { return c.limitsMemory }

// limitsMemory reads that in a container's configuration.
func limitsMemory(spec *specs.Spec) bool {
	r := spec.Linux.Resources
	return r != nil && r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0
}
