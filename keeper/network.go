package keeper

import (
	"context"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/network"
)

// RefreshNetwork makes the guest's network the same as that of the container's network namespace.
func (c *Container) RefreshNetwork(ctx context.Context) error {
	return c.ask(func(k *call) error {
		_, err := k.RefreshNetwork(ctx, &api.RefreshNetworkRequest{})
		return err
	})
}

func (s *session) RefreshNetwork(ctx context.Context, _ *api.RefreshNetworkRequest) (*api.RefreshNetworkResponse, error) {
	return &api.RefreshNetworkResponse{}, s.sandbox.SyncNetwork(ctx)
}

// networkPath is the path of the network namespace that a container joins; empty when it has one of its own.
func networkPath(spec *specs.Spec) string {
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path
		}
	}
	return ""
}

// cleanNetwork takes off what a killed keeper has left in a network namespace that was not its own.
func cleanNetwork(spec *specs.Spec) error {
	if path := networkPath(spec); path != "" {
		return network.Clean(path)
	}
	return nil
}
