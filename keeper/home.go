package keeper

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/store"
)

// homeOf finds the container whose sandbox a new one shall live in; nil: it gets a sandbox of its own. That is the one
// which the engine's annotations name, or else the one whose network namespace the new container joins: a network has
// one VM. An engine can name one that is no container of ours, where it runs none for the pod itself.
func homeOf(root string, spec *specs.Spec) (*Container, error) {
	home, err := namedHome(root, spec.Annotations)
	if err == nil && home == nil {
		home, err = homeByNetwork(root, spec.Linux.Namespaces)
	}
	if err != nil || home == nil {
		return nil, err
	}
	if status := home.Status(); status == specs.StateStopped || status == specs.StateCreating {
		return nil, fmt.Errorf("sandbox %s is not running: %s", home.state.ID, status)
	}
	return home, nil
}

func namedHome(root string, annotations map[string]string) (*Container, error) {
	id, err := oci.SandboxID(annotations)
	if err != nil || id == "" {
		return nil, err
	}
	home, err := Load(root, id)
	if err == nil && home.state.SandboxID != "" {
		home, err = Load(root, home.state.SandboxID)
	}
	if errors.Is(err, store.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox %.64q: %w", id, err)
	}
	return home, nil
}

func homeByNetwork(root string, namespaces []specs.LinuxNamespace) (home *Container, err error) {
	for _, ns := range namespaces {
		if ns.Type != specs.NetworkNamespace || ns.Path == "" {
			continue
		}
		network := oci.NamespacePath{Type: ns.Type, Path: ns.Path}
		err = eachContainer(root, func(c *Container) error {
			if c.state.SandboxID == "" && c.keeper().Alive() && network.Is(oci.ProcessNamespace(ns.Type, c.keeper().PID)) {
				home = c
			}
			return nil
		})
	}
	return home, err
}

// eachContainer calls f for all containers below root whose state can be read, until it fails.
func eachContainer(root string, f func(*Container) error) error {
	st, err := store.Open(root)
	if err != nil {
		return err
	}
	entries, err := st.List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Err == nil {
			if err := f(&Container{root: root, state: e.State}); err != nil {
				return err
			}
		}
	}
	return nil
}
