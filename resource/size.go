// Package resource turns a container's limits into the size of its VM and into limits for the VM's processes on the
// host, and keeps the host cgroup that those processes live in. Sizes are pure; only Cgroup and ReadHost touch the host.
package resource

import (
	"fmt"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// defaultPeriod is the CFS period in microseconds that a quota without a period refers to
	// (kernel Documentation/scheduler/sched-bwc.rst).
	defaultPeriod = 100_000

	// minVMMiB is the smallest VM that boots at all: the tuned guest kernel touches about 50 MiB.
	minVMMiB = 64

	mib = 1 << 20
)

// Defaults is what the admin's config says about sizes.
type Defaults struct {
	VCPUs        int // without a CPU quota
	MaxVCPUs     int // 0: the host's CPUs
	MemoryMiB    int // for a container without a memory limit
	MaxMemoryMiB int // for any container; 0: the host's memory
	OverheadMiB  int // the guest's own need, added to what the container gets
}

// Host is the size of the machine that we run on.
type Host struct {
	CPUs      int
	MemoryMiB int
}

// ReadHost returns the CPUs that this process may run on and the host's memory (sysinfo(2)).
func ReadHost() (Host, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Host{}, fmt.Errorf("read the host's memory size: %w", err)
	}
	return Host{CPUs: runtime.NumCPU(), MemoryMiB: int(uint64(info.Totalram) * uint64(info.Unit) / mib)}, nil
}

// VM is the size of a VM.
type VM struct {
	VCPUs     int
	MemoryMiB int
}

// Size returns the VM for a container with the resources r, which may be nil. There is no value of r that fails:
// what the runtime spec calls unlimited (zero or negative) gets the default, what is too much gets the most there is,
// what is too little still boots. The container's exact limits are the guest cgroup's work.
//
//	vCPUs  = quota / period, rounded up
//	memory = limit, rounded up to MiB, + 1/64 of it + the guest's own need
//
// The 64th is what the guest kernel keeps to describe that memory (struct page: 64 bytes for each page of 4096).
func Size(r *specs.LinuxResources, d Defaults, h Host) VM {
	memory := min(containerMiB(r, d), atMost(d.MaxMemoryMiB, h.MemoryMiB))
	total := memory + (memory+63)/64 + d.OverheadMiB
	return VM{
		VCPUs: max(1, min(vcpus(r, d), atMost(d.MaxVCPUs, h.CPUs))),
		// QEMU cannot map more than the host has: the kernel refuses such an overcommit.
		MemoryMiB: max(minVMMiB, min(total, h.MemoryMiB)),
	}
}

// atMost is the bound that the admin set (0: none) and the host has.
func atMost(set, host int) int {
	if set == 0 {
		return host
	}
	return min(set, host)
}

func vcpus(r *specs.LinuxResources, d Defaults) int {
	if r == nil || r.CPU == nil || r.CPU.Quota == nil || *r.CPU.Quota <= 0 {
		return d.VCPUs
	}
	quota, period := uint64(*r.CPU.Quota), uint64(defaultPeriod)
	if r.CPU.Period != nil && *r.CPU.Period != 0 {
		period = *r.CPU.Period
	}
	n := quota / period
	if quota%period != 0 {
		n++
	}
	return int(n) // at most 1<<63 - 1, as the quota is
}

func containerMiB(r *specs.LinuxResources, d Defaults) int {
	limit, ok := memoryLimit(r)
	if !ok || limit <= 0 {
		return d.MemoryMiB
	}
	n := limit / mib
	if limit%mib != 0 {
		n++
	}
	return int(n)
}

// memoryLimit is the limit in bytes, and whether r says anything about it: 0 is as good as absent, negative is "none"
// (runtime-spec config-linux.md, Memory).
func memoryLimit(r *specs.LinuxResources) (int64, bool) {
	if r == nil || r.Memory == nil || r.Memory.Limit == nil || *r.Memory.Limit == 0 {
		return 0, false
	}
	return *r.Memory.Limit, true
}

// Limits is what the sandbox's cgroup on the host is held to. The zero value of a field leaves that knob alone.
type Limits struct {
	MemoryBytes int64  // negative: no limit
	CPUShares   uint64 // in cgroup v1's measure: 1024 is the normal share
	CPUIdle     *int64 // 1: only CPU time that nobody else wants; 0: not so. nil leaves the knob alone
	CPUs        string // list of host CPUs, "0-3,7"
	Mems        string // list of host memory nodes
	CPUQuota    int64  // microseconds of CPU time in each period; negative: no limit
	CPUPeriod   uint64 // microseconds
}

// HostLimits returns the host's limits for a container with the resources r (may be nil), whose VM has the size vm.
//
// Memory: with a limit, the whole VM and vmmOverheadMiB beside it. The exact limit holds inside the guest; here it
// is a fence around the VMM, wide enough that it never kills one that behaves. Without a limit there is none here.
//
// CPU: shares, idleness and cpusets compare containers with each other, which only the host can do, so they are passed
// on. The quota is left to HostQuota: it would make the start of a small container crawl.
func HostLimits(r *specs.LinuxResources, vm VM, vmmOverheadMiB int) Limits {
	var l Limits
	if limit, ok := memoryLimit(r); ok {
		l.MemoryBytes = -1
		if limit > 0 {
			l.MemoryBytes = int64(vm.MemoryMiB+vmmOverheadMiB) * mib
		}
	}
	if r != nil && r.CPU != nil {
		l.CPUs, l.Mems, l.CPUIdle = r.CPU.Cpus, r.CPU.Mems, r.CPU.Idle
		if r.CPU.Shares != nil {
			l.CPUShares = *r.CPU.Shares
		}
	}
	return l
}

// HostQuota returns the limit of CPU time for a container with the resources r (may be nil), to be applied when it is
// created. It is the container's own: a guest that breaks its bounds gets no more, and the VMM's work for it is part of
// it.
func HostQuota(r *specs.LinuxResources) Limits {
	var l Limits
	if r == nil || r.CPU == nil {
		return l
	}
	if r.CPU.Quota != nil {
		l.CPUQuota = *r.CPU.Quota
	}
	if r.CPU.Period != nil {
		l.CPUPeriod = *r.CPU.Period
	}
	return l
}
