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
