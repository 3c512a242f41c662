package resource

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is the host cgroup of a sandbox: one directory in the unified hierarchy (cgroup v2), or one in each
// mounted v1 hierarchy, or a systemd scope, which is the same with systemd as the one who makes it. It is saved as
// JSON with the container's state, so that another command can remove it.
type Cgroup struct {
	V2          bool        `json:"v2,omitempty"`
	Directories []Directory `json:"directories,omitempty"`
	Scope       *Scope      `json:"scope,omitempty"` // nil: we make the directories ourselves
}

// Directory is the cgroup in one hierarchy.
type Directory struct {
	Path        string   `json:"path"`
	Mount       string   `json:"mount"`                 // Path is strictly below
	Controllers []string `json:"controllers,omitempty"` // v1 only
}

// New works out which cgroup a container gets; it makes nothing. path is the spec's cgroupsPath and means what it
// means to runc:
//
//   - absolute: below the mount point of each hierarchy;
//   - relative: below the cgroup of this process (v2: beside it, because a v2 cgroup with processes has no children);
//   - empty: as the relative path id;
//   - with systemd: "slice:prefix:name", the scope prefix-name.scope in that slice; empty is "system.slice:hyper:id".
//
// ".." never leads above the start. On a host without cgroups the result has no directories, and all else is a no-op.
func New(path, id string, systemd bool) (*Cgroup, error) {
	h, err := readHierarchies()
	if err != nil {
		return nil, err
	}
	if systemd {
		return newScope(h, path, id)
	}
	return newCgroup(h, path, id)
}

func newCgroup(h hierarchies, path, id string) (*Cgroup, error) {
	if path == "" {
		path = id
	}
	clean := filepath.Clean("/" + path)
	if clean == "/" {
		return nil, fmt.Errorf("cgroupsPath %q names no cgroup below the one it starts from", path)
	}
	c := &Cgroup{V2: h.v2}
	for _, hi := range h.all {
		start := hi.mount
		if !filepath.IsAbs(path) {
			start = hi.below(h.own)
			if h.v2 && start != hi.mount {
				start = filepath.Dir(start)
			}
		}
		c.Directories = append(c.Directories, Directory{Path: filepath.Join(start, clean), Mount: hi.mount, Controllers: hi.controllers})
	}
	return c, nil
}

// Create makes the cgroup, with parents as needed. On an error what it made is removed again. A cgroup that is there
// already is taken only when it has no process: limits and removal would hit strangers. With systemd nothing is made
// before the first Add, because a scope cannot be without a process; Create then only finds out whether systemd is there.
func (c *Cgroup) Create() error {
	if c.Scope != nil {
		return c.Scope.check()
	}
	for _, d := range c.Directories {
		if pids := d.processes(); pids != "" {
			return fmt.Errorf("create cgroup %s: it has processes already: %s", d.Path, pids)
		}
	}
	if err := c.makeDirectories(); err != nil {
		if undo := c.Remove(); undo != nil {
			return fmt.Errorf("%w; undo: %w", err, undo)
		}
		return err
	}
	return nil
}

func (c *Cgroup) makeDirectories() error {
	for _, d := range c.Directories {
		if err := d.create(c.V2); err != nil {
			return fmt.Errorf("create cgroup %s: %w", d.Path, err)
		}
	}
	return nil
}

// create makes the directory level by level from the mount point down, because the levels need what only the level
// above can give: cgroup v2 its controllers, cpuset its CPUs.
func (d Directory) create(v2 bool) error {
	relative, err := filepath.Rel(d.Mount, d.Path)
	if err != nil {
		return err
	}
	level := d.Mount
	for _, name := range strings.Split(relative, "/") {
		if v2 {
			delegate(level)
		}
		parent := level
		level = filepath.Join(level, name)
		if err := os.Mkdir(level, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if d.has("cpuset") {
			if err := inheritCPUs(parent, level); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate hands the controllers that Apply uses, and those that engines read figures from, to the children of a v2
// cgroup. It fails where the parent did not get them or has processes of its own (kernel cgroup-v2.rst, "No Internal
// Process Constraint"). Then the children go without, and the guest's own cgroup is the only one that limits.
func delegate(path string) {
	for _, controller := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
		_ = writeFile(path, "cgroup.subtree_control", "+"+controller)
	}
}

// inheritCPUs copies CPUs and memory nodes into a v1 cpuset that has none: it takes no process until it has both
// (kernel cgroup-v1/cpusets.rst).
func inheritCPUs(parent, child string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		has, err := os.ReadFile(filepath.Join(child, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(has)) != "" {
			continue
		}
		give, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := writeFile(child, file, strings.TrimSpace(string(give))); err != nil {
			return err
		}
	}
	return nil
}

// Add moves a process with all its threads into the cgroup; children that it starts later are born there. On v1 that is
// one write for each hierarchy, of which the first waits for an RCU grace period (5 to 15 ms); it can run beside
// other work. With systemd the first Add starts the scope.
func (c *Cgroup) Add(pid int) error {
	if c.Scope != nil {
		if err := c.startScope(pid); err != nil {
			return err
		}
	}
	for _, d := range c.Directories {
		if err := writeFile(d.Path, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("add process %d to cgroup: %w", pid, err)
		}
	}
	return nil
}

// Apply sets the limits, after the first Add (before it a systemd scope does not exist). A controller that the host does not have is left out: the guest's cgroup enforces the
// container's exact limits in any case.
func (c *Cgroup) Apply(l Limits) error {
	if c.Scope != nil {
		if err := c.Scope.apply(l, c.V2); err != nil {
			return err
		}
	}
	for _, d := range c.Directories {
		knobs := d.knobs(l, c.V2)
		for i := 0; i < len(knobs); i++ {
			k := knobs[i]
			err := writeFile(d.Path, k.file, k.value)
			if k.file == periodFile && errors.Is(err, unix.EINVAL) && l.CPUQuota != 0 && i+1 < len(knobs) {
				// The old quota is too much for the new period, as a parent sees it: the new quota goes first.
				knobs = append(knobs, k)
				continue
			}
			if err != nil && !(c.V2 && errors.Is(err, fs.ErrNotExist)) {
				return fmt.Errorf("limit cgroup: %w", err)
			}
		}
	}
	return nil
}

const periodFile = "cpu.cfs_period_us"

// knob is a file of a cgroup and what to write into it.
type knob struct{ file, value string }

// knobs translates l into the files of this directory (kernel cgroup-v2.rst and cgroup-v1/).
func (d Directory) knobs(l Limits, v2 bool) []knob {
	var ks []knob
	set := func(controller, file, value string, wanted bool) {
		if wanted && (v2 || d.has(controller)) {
			ks = append(ks, knob{file, value})
		}
	}
	set("cpuset", "cpuset.cpus", l.CPUs, l.CPUs != "")
	set("cpuset", "cpuset.mems", l.Mems, l.Mems != "")
	shares := l.CPUShares
	if l.CPUIdle != nil {
		set("cpu", "cpu.idle", strconv.FormatInt(*l.CPUIdle, 10), true)
		if *l.CPUIdle != 0 {
			shares = 0 // an idle cgroup takes none (kernel/sched/fair.c, sched_group_set_shares)
		}
	}
	if v2 {
		memory := "max"
		if l.MemoryBytes > 0 {
			memory = strconv.FormatInt(l.MemoryBytes, 10)
		}
		set("memory", "memory.max", memory, l.MemoryBytes != 0)
		set("cpu", "cpu.weight", strconv.FormatUint(weight(shares), 10), shares != 0)
		quota := "max"
		if l.CPUQuota > 0 {
			quota = strconv.FormatInt(l.CPUQuota, 10)
		}
		set("cpu", "cpu.max", fmt.Sprintf("%s %d", quota, cmp.Or(l.CPUPeriod, defaultPeriod)), l.CPUQuota != 0 || l.CPUPeriod != 0)
	} else {
		set("memory", "memory.limit_in_bytes", strconv.FormatInt(max(l.MemoryBytes, -1), 10), l.MemoryBytes != 0)
		set("cpu", "cpu.shares", strconv.FormatUint(shares, 10), shares != 0)
		set("cpu", periodFile, strconv.FormatUint(l.CPUPeriod, 10), l.CPUPeriod != 0)
		set("cpu", "cpu.cfs_quota_us", strconv.FormatInt(max(l.CPUQuota, -1), 10), l.CPUQuota != 0)
	}
	return ks
}

// weight maps v1's shares, 2 to 262144, onto v2's weights, 1 to 10000, on a straight line: the rule that runc, crun
// and Kubernetes share.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

// Remove removes the cgroup and the ones below it. It may be called again, and for a cgroup that was never made.
// Parents stay, as with runc. With systemd the scope is stopped first, which kills what is left in it. Otherwise no
// process is touched, and a cgroup that still has one is an error that names it.
func (c *Cgroup) Remove() error {
	var errs []error
	if c.Scope != nil {
		errs = append(errs, c.stopScope())
	}
	giveUp := time.Now().Add(removePatience)
	for _, d := range c.Directories {
		if err := d.remove(giveUp); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", d.Path, err))
		}
	}
	// One cause shows in every hierarchy: the first tells it all.
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// remove refuses what is no cgroup, because the path may come from a state file.
func (d Directory) remove(giveUp time.Time) error {
	var f unix.Statfs_t
	err := unix.Statfs(d.Path, &f)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if f.Type != unix.CGROUP_SUPER_MAGIC && f.Type != unix.CGROUP2_SUPER_MAGIC {
		return errors.New("not a cgroup")
	}
	if err := removeTree(d.Path, giveUp); err != nil {
		if pids := d.processes(); pids != "" {
			return fmt.Errorf("still has processes: %s", pids)
		}
		return err
	}
	return nil
}

// removePatience is how long Remove as a whole tries again. The kernel says EBUSY for a moment after the last process
// has gone (its exit and the emptying of its cgroup are two steps), and cgroup v1 has no event for the second.
const removePatience = time.Second

// removeTree removes the cgroups below path, then path, and tries again on EBUSY until giveUp.
func removeTree(path string, giveUp time.Time) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := unix.Rmdir(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		children, readErr := os.ReadDir(path)
		if errors.Is(readErr, fs.ErrNotExist) {
			return nil
		}
		below := false
		for _, child := range children {
			if child.IsDir() {
				below = true
				if err := removeTree(filepath.Join(path, child.Name()), giveUp); err != nil {
					return err
				}
			}
		}
		switch {
		case !errors.Is(err, unix.EBUSY) || time.Now().After(giveUp):
			return err
		case !below: // else try again at once
			time.Sleep(pause)
		}
	}
}

// processes lists the pids in this very directory, for a message; "" when there are none or it is gone.
func (d Directory) processes() string {
	text, err := os.ReadFile(filepath.Join(d.Path, "cgroup.procs"))
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

// writeFile writes a value to a file that the kernel made: it never creates one.
func writeFile(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
