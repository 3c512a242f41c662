package sandbox

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/device"
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/storage"
)

const (
	// guestVersion is the version of the specification that the guest's crun is told: 1.8 refuses all but 1.0.
	guestVersion = "1.0.2"
	// guestCgroup is the parent of the containers' cgroups in the guest.
	guestCgroup = "/hyper"
)

// guestContainer is a container as the guest gets it, and what the host shares for it.
type guestContainer struct {
	spec  guestSpec
	binds []storage.Bind
	shm   *protocol.Tmpfs // nil: none
}

// guestSpec is the configuration that the guest's crun runs. crun refuses one without mounts, even none at all.
type guestSpec struct {
	specs.Spec
	Mounts []specs.Mount `json:"mounts"`
}

// facts are what translation asks of the host.
type facts struct {
	inspect func(path string) (storage.Source, error)
	onHost  func(specs.LinuxDevice) bool
}

// translate turns a checked bundle into what the guest shall run, in the namespaces of the guest that joined names by
// their types. docs/compatibility.md tells the rules field by field.
func translate(id string, bundle *oci.Bundle, joined map[specs.LinuxNamespaceType]string) (*guestContainer, error) {
	return facts{storage.Inspect, device.OnHost}.translate(id, bundle, joined)
}

func (f facts) translate(id string, bundle *oci.Bundle, joined map[specs.LinuxNamespaceType]string) (*guestContainer, error) {
	root, err := bundle.Root()
	if err != nil {
		return nil, err
	}
	spec := bundle.Spec
	plan, err := storage.NewPlan(id, bundle.Path, root, spec.Mounts, f.inspect)
	if err != nil {
		return nil, err
	}
	if err := plan.Fit(); err != nil {
		return nil, err
	}
	var rules []specs.LinuxDeviceCgroup
	if spec.Linux.Resources != nil {
		rules = spec.Linux.Resources.Devices
	}
	devices, err := device.Guest(spec.Linux.Devices, rules, f.onHost)
	if err != nil {
		return nil, err
	}
	guest, err := newGuestSpec(id, spec, plan, devices, joined)
	if err != nil {
		return nil, err
	}
	container := &guestContainer{spec: guest, binds: plan.Binds}
	if plan.Shm != nil {
		container.shm = &protocol.Tmpfs{Path: plan.Shm.Path, Size: plan.Shm.Size}
	}
	return container, nil
}

// enter puts the container into another of the guest's network namespaces.
func (g *guestContainer) enter(network string) {
	for i, ns := range g.spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			g.spec.Linux.Namespaces[i].Path = network
		}
	}
}

// newGuestSpec is the pure part of translate. It leaves host as it is.
func newGuestSpec(id string, host *specs.Spec, plan *storage.Plan, devices []specs.LinuxDevice, joined map[specs.LinuxNamespaceType]string) (guestSpec, error) {
	namespaces, err := guestNamespaces(host.Linux, plan, joined)
	if err != nil {
		return guestSpec{}, err
	}
	linux := *host.Linux
	linux.CgroupsPath = path.Join(guestCgroup, id)
	linux.Namespaces = namespaces
	linux.Devices = devices
	linux.Resources = guestLimits(host.Linux.Resources)
	linux.MountLabel = ""
	linux.MaskedPaths = unique(host.Linux.MaskedPaths)

	guest := guestSpec{Spec: *host, Mounts: append([]specs.Mount{}, plan.Mounts...)}
	guest.Spec.Mounts = nil
	guest.Version = guestVersion
	guest.Root = &specs.Root{Path: storage.RootPath(id), Readonly: host.Root.Readonly}
	guest.Process = guestProcess(host.Process)
	guest.Annotations = guestAnnotations(host.Annotations)
	guest.Linux = &linux
	guest.Hooks = nil
	if host.Hooks != nil && len(host.Hooks.StartContainer) > 0 {
		// The only ones that run in the container; those of the host run there.
		guest.Hooks = &specs.Hooks{StartContainer: host.Hooks.StartContainer}
	}
	return guest, nil
}

// unique is the list with every entry once: crun masks a path as often as it stands there.
func unique(list []string) []string {
	var once []string
	for _, entry := range list {
		if !slices.Contains(once, entry) {
			once = append(once, entry)
		}
	}
	return once
}

// guestProcess is a process as the guest runs it. Labels of security modules are the host's: the guest has none.
func guestProcess(host *specs.Process) *specs.Process {
	if host == nil {
		return nil
	}
	guest := *host
	guest.ApparmorProfile, guest.SelinuxLabel = "", ""
	return &guest
}

// guestNamespaces are the container's namespaces in the guest. One that is joined by path on the host is joined there
// too if it is that of a container in the same guest. Else it is a new one, unless that would separate containers
// which want to be together.
func guestNamespaces(host *specs.Linux, plan *storage.Plan, joined map[specs.LinuxNamespaceType]string) ([]specs.LinuxNamespace, error) {
	var guest []specs.LinuxNamespace
	for _, ns := range host.Namespaces {
		switch ns.Type {
		case specs.NetworkNamespace, specs.MountNamespace, specs.CgroupNamespace:
			continue // below
		case specs.PIDNamespace, specs.IPCNamespace:
			alone := ns.Type == specs.IPCNamespace && plan.Shm == nil // for its own shared memory
			// The namespace is named by a process in it, as engines do for "container:x".
			ofProcess, _ := path.Match("/proc/[0-9]*/ns/"+string(ns.Type), ns.Path)
			if joined[ns.Type] == "" && ofProcess && !alone {
				return nil, fmt.Errorf("the %s namespace of a process that is not in the same VM cannot be shared: %s", ns.Type, ns.Path)
			}
		}
		guest = append(guest, specs.LinuxNamespace{Type: ns.Type, Path: joined[ns.Type]})
	}
	// Always its own mounts, its own view of the cgroups, and the network that all containers of the sandbox share.
	return append(guest,
		specs.LinuxNamespace{Type: specs.MountNamespace}, specs.LinuxNamespace{Type: specs.CgroupNamespace},
		specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: protocol.NetworkNamespace}), nil
}

// guestAnnotations are the annotations without those by which crun is steered (crun(1), "run.oci."; handlers of
// WebAssembly): they come from strangers.
func guestAnnotations(host map[string]string) map[string]string {
	guest := maps.Clone(host)
	maps.DeleteFunc(guest, func(name, _ string) bool {
		return strings.HasPrefix(name, "run.oci.") || strings.HasPrefix(name, "module.wasm.")
	})
	return guest
}

// guestLimits are the resources of a new container in the guest. As with runc, one without device rules may use the
// default devices only: to crun it might use all, the agent's port among them. Rules that come to the same are worded
// in the one way for which the guest has a program ready.
func guestLimits(host *specs.LinuxResources) *specs.LinuxResources {
	guest := guestResources(host)
	if guest == nil {
		guest = &specs.LinuxResources{}
	}
	if !slices.ContainsFunc(guest.Devices, allowsMore) {
		guest.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	}
	return guest
}

// allowsMore says whether a rule allows what crun does not allow in any case: that comes before all rules, and what no
// rule is about is denied (crun, write_devices_resources_v2_internal in src/libcrun/cgroup-resources.c).
func allowsMore(rule specs.LinuxDeviceCgroup) bool {
	if !rule.Allow {
		return false
	}
	if rule.Type != "c" || rule.Major == nil || rule.Minor == nil {
		return true
	}
	switch [2]int64{*rule.Major, *rule.Minor} {
	case [2]int64{1, 3}, [2]int64{1, 5}, [2]int64{1, 7}, [2]int64{1, 8}, [2]int64{1, 9}, // null, zero, full, random, urandom
		[2]int64{5, 0}, [2]int64{5, 1}, [2]int64{5, 2}: // tty, console, ptmx
		return false
	}
	return true
}

// guestResources are those limits that mean something in the guest's cgroup v2, in values that crun takes. What names
// CPUs, memory nodes, disks or adapters of the host is left to the host's cgroup; what only cgroup v1 has is left out.
// Zero means "not set" in engines, but 0 to crun.
func guestResources(host *specs.LinuxResources) *specs.LinuxResources {
	if host == nil {
		return nil
	}
	guest := &specs.LinuxResources{Pids: host.Pids, Unified: guestUnified(host)}
	for _, rule := range host.Devices {
		if rule.Access == "" {
			rule.Access = "rwm" // crun reads it without asking whether it is there
		}
		// crun refuses letters that runc does not look at. A rule about nothing else says nothing.
		rule.Access = strings.Map(func(r rune) rune {
			if strings.ContainsRune("rwm", r) {
				return r
			}
			return -1
		}, rule.Access)
		if rule.Access != "" {
			guest.Devices = append(guest.Devices, rule)
		}
	}
	if m := host.Memory; m != nil {
		guest.Memory = &specs.LinuxMemory{Limit: set(m.Limit), Reservation: set(m.Reservation), Swap: set(m.Swap)}
	}
	if c := host.CPU; c != nil {
		guest.CPU = &specs.LinuxCPU{Shares: set(c.Shares), Quota: set(c.Quota), Period: set(c.Period), Idle: c.Idle}
	}
	for _, limit := range host.HugepageLimits {
		// Kubernetes sets 0 for every size that the host has. The guest may lack it, and has no such page to give anyway.
		if limit.Limit > 0 {
			guest.HugepageLimits = append(guest.HugepageLimits, limit)
		}
	}
	return guest
}

// guestUnified are the files of cgroup v2 that are set as they are. crun has no field for cpu.burst.
func guestUnified(host *specs.LinuxResources) map[string]string {
	guest := maps.Clone(host.Unified)
	maps.DeleteFunc(guest, func(file, _ string) bool {
		return strings.HasPrefix(file, "cpuset.") || strings.HasPrefix(file, "io.") || strings.HasPrefix(file, "rdma.")
	})
	if host.CPU == nil || host.CPU.Burst == nil {
		return guest
	}
	if guest == nil {
		guest = make(map[string]string)
	}
	guest["cpu.max.burst"] = strconv.FormatUint(*host.CPU.Burst, 10)
	return guest
}

// set is p, or nil when it points to zero.
func set[T int64 | uint64](p *T) *T {
	if p == nil || *p == 0 {
		return nil
	}
	return p
}
