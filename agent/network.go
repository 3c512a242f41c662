package agent

import (
	"context"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// SetNetwork implements protocol.AgentService. See package network.
func (a *Agent) SetNetwork(ctx context.Context, r *protocol.SetNetworkRequest) (*protocol.SetNetworkResponse, error) {
	return &protocol.SetNetworkResponse{}, a.network.Set(ctx, r)
}
