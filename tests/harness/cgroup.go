package harness

import (
	"os"
	"path/filepath"
)

// RemoveCgroups removes the cgroup of this path in every hierarchy: engines leave those that they make for containers.
// One that is not empty still has a container's in it, which fails the test.
func (h *Host) RemoveCgroups(path string) {
	h.T.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/*" + path, "/sys/fs/cgroup" + path} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			h.T.Error(err)
		}
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil {
				h.T.Error(err)
			}
		}
	}
}
