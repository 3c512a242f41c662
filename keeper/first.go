package keeper

import (
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/sandbox"
)

// firstThread is the way to the process's first thread, on which the main goroutine waits. To others the process has that
// thread's root directory and mounts (/proc/PID/root, /proc/PID/ns/mnt); all other threads have their own.
type firstThread chan func()

// await runs what others want run on the first thread until the container is created; false means that the verb has
// left before. After true the thread may see the container's files only.
func (f firstThread) await(created, left <-chan struct{}) bool {
	for {
		select {
		case run := <-f:
			run()
		case <-created:
			return true
		case <-left:
			select {
			case <-created:
				return true
			default:
				return false
			}
		}
	}
}

// showFiles makes the process look as if it ran in the container's file system: engines enter its mount namespace to
// copy files and to list processes (podman cp, podman top).
func (f firstThread) showFiles(id string, bundle *oci.Bundle) error {
	done := make(chan error, 1)
	f <- func() { done <- sandbox.EnterFiles(id, bundle) }
	return <-done
}
