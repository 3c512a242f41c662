package sandbox

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/storage"
)

// EnterFiles makes what the container has of the host's files all that the calling thread sees: see storage.View. A
// container that joins a mount namespace of the host sees that one's.
func EnterFiles(id string, bundle *oci.Bundle) error {
	if path := oci.JoinedPath(bundle.Spec, specs.MountNamespace); path != "" {
		return oci.EnterMounts(path)
	}
	root, err := bundle.Root()
	if err != nil {
		return err
	}
	return storage.View{
		CID: id, Bundle: bundle.Path, Root: root, ReadOnly: bundle.Spec.Root.Readonly, Mounts: bundle.Spec.Mounts,
	}.Enter()
}
