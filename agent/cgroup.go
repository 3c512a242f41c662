package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// containersCgroup is the parent of every container's cgroup. The agent itself and the runtime stay in the root.
const containersCgroup = "hyper"

// prepareCgroups makes the cgroup for containers, with every controller that the kernel has.
func prepareCgroups(root string) error {
	text, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	controllers := strings.Fields(string(text))
	parent := filepath.Join(root, containersCgroup)
	if err := os.Mkdir(parent, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	all := "+" + strings.Join(controllers, " +")
	for _, dir := range []string{root, parent} {
		if err := writeControl(filepath.Join(dir, "cgroup.subtree_control"), all); err != nil {
			return fmt.Errorf("enable controllers: %w", err)
		}
	}
	return nil
}

// writeControl writes a value to a control file that exists.
func writeControl(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

// cgroupPIDs lists the processes of a cgroup and of all below it. A cgroup that is gone has none.
func cgroupPIDs(path string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(path, func(dir string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		// A threaded cgroup has no list: its processes are in that of the cgroup above.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}
