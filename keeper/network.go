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

// isWiredLate says whether the engine may wire the network namespace between create and start, as docker from 26 on
// does. Others do before, and give its path, or in hooks that create runs.
func isWiredLate(spec *specs.Spec) bool {
	//lint:ignore SA1019 deprecated in the specification, and what docker 20.10 uses
	hooks := spec.Hooks != nil && len(spec.Hooks.Prestart)+len(spec.Hooks.CreateRuntime) > 0
	return oci.JoinedPath(spec, specs.NetworkNamespace) == "" && !hooks
}

// cleanNetwork takes off what a killed keeper has left in a network namespace that was not its own.
func cleanNetwork(spec *specs.Spec) error {
	if path := oci.JoinedPath(spec, specs.NetworkNamespace); path != "" {
		return network.Clean(path)
	}
	return nil
}
