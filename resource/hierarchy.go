package resource

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// hierarchy is one mounted cgroup file system.
type hierarchy struct {
	mount       string   // where it is mounted
	root        string   // the cgroup that is visible at mount
	controllers []string // v1 only; a named hierarchy has one entry "name=..."
}

// hierarchies is how the host has cgroups mounted, and where in them two processes are.
type hierarchies struct {
	v2    bool // all has one entry, the unified hierarchy
	all   []hierarchy
	own   map[string]string // this process's cgroup by controller; "" is the unified hierarchy
	init1 map[string]string // the same of process 1
}

// readHierarchies looks at /proc (cgroups(7), proc_pid_mountinfo(5)).
func readHierarchies() (hierarchies, error) {
	var files [3][]byte
	for i, name := range []string{"/proc/self/mountinfo", "/proc/self/cgroup", "/proc/1/cgroup"} {
		var err error
		if files[i], err = os.ReadFile(name); err != nil {
			return hierarchies{}, fmt.Errorf("find the host's cgroups: %w", err)
		}
	}
	return parseHierarchies(files[0], files[1], files[2]), nil
}

// parseHierarchies decides which of the mounted hierarchies count: the unified one where it is mounted at
// /sys/fs/cgroup or is the only kind there is; else every v1 hierarchy, and the unified one beside them is left alone,
// as runc does: no controller is there that we use. A host without any gets none.
func parseHierarchies(mountinfo, own, init1 []byte) hierarchies {
	h := hierarchies{own: parseProcCgroup(own), init1: parseProcCgroup(init1)}
	var unified *hierarchy
	seen := make(map[string]bool)
	for line := range bytes.Lines(mountinfo) {
		mount, fstype, options := parseMount(string(line))
		switch fstype {
		case "cgroup2":
			if unified == nil || mount.mount == "/sys/fs/cgroup" {
				unified = &mount
			}
		case "cgroup":
			for _, o := range strings.Split(options, ",") {
				if _, isController := h.own[o]; isController && o != "" {
					mount.controllers = append(mount.controllers, o)
				}
			}
			// A hierarchy can be mounted more than once; one place is enough to reach it.
			if key := strings.Join(mount.controllers, ","); key != "" && !seen[key] {
				seen[key] = true
				h.all = append(h.all, mount)
			}
		}
	}
	if unified != nil && (len(h.all) == 0 || unified.mount == "/sys/fs/cgroup") {
		h.v2, h.all = true, []hierarchy{*unified}
	}
	return h
}

// parseMount takes one line of mountinfo apart: "36 35 98:0 /root /mount/point options [optional...] - type source options".
func parseMount(line string) (m hierarchy, fstype, options string) {
	before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if len(left) < 6 || len(right) < 3 {
		return hierarchy{}, "", ""
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	return hierarchy{mount: unescape.Replace(left[4]), root: unescape.Replace(left[3])}, right[0], right[2]
}

// parseProcCgroup reads lines "hierarchy-id:controllers:path" into path by controller.
func parseProcCgroup(text []byte) map[string]string {
	paths := make(map[string]string)
	for line := range bytes.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, controller := range strings.Split(parts[1], ",") {
			paths[controller] = parts[2]
		}
	}
	return paths
}

// below returns the directory of the cgroup that a process has in this hierarchy. A cgroup outside what is mounted
// (another cgroup namespace) counts as the mount itself.
func (h hierarchy) below(process map[string]string) string {
	controller := ""
	if len(h.controllers) > 0 {
		controller = h.controllers[0]
	}
	path, err := filepath.Rel(h.root, process[controller])
	if err != nil || path == ".." || strings.HasPrefix(path, "../") || strings.HasPrefix(process[controller], "/..") {
		return h.mount
	}
	return filepath.Join(h.mount, path)
}

// has tells whether this is the directory of a v1 controller.
func (d Directory) has(controller string) bool { return slices.Contains(d.Controllers, controller) }
