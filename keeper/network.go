package keeper

import (
	"context"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/network"
	"github.com/hyper-runtime/hyper/oci"
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

// cleanNetwork takes off what a killed keeper has left in a network namespace that was not its own.
func cleanNetwork(spec *specs.Spec) error {
	if path := oci.JoinedPath(spec, specs.NetworkNamespace); path != "" {
		return network.Clean(path)
	}
	return nil
}
