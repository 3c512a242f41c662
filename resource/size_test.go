package resource

import (
	"math"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func cpu(quota int64, period uint64) *specs.LinuxResources {
	return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}
}

func memory(limit int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
}

func TestSizeVCPUs(t *testing.T) {
	quota := int64(250_000)
	for _, tt := range []struct {
		name string
		r    *specs.LinuxResources
		max  int
		want int
	}{
		{"no resources", nil, 0, 2},
		{"no cpu", &specs.LinuxResources{}, 0, 2},
		{"no quota", &specs.LinuxResources{CPU: &specs.LinuxCPU{}}, 0, 2},
		{"zero quota", cpu(0, 100_000), 0, 2},
		{"unlimited", cpu(-1, 100_000), 0, 2},
		{"negative", cpu(math.MinInt64, 100_000), 0, 2},
		{"a tenth", cpu(10_000, 100_000), 0, 1},
		{"one", cpu(100_000, 100_000), 0, 1},
		{"one and a bit", cpu(100_001, 100_000), 0, 2},
		{"other period", cpu(1_000_000, 500_000), 0, 2},
		{"no period", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota}}, 0, 3},
		{"zero period", cpu(250_000, 0), 0, 3},
		{"the host's", cpu(800_000, 100_000), 0, 8},
		{"more than the host's", cpu(801_000, 100_000), 0, 8},
		{"more than allowed", cpu(500_000, 100_000), 4, 4},
		{"allowed more than the host has", cpu(5_000_000, 100_000), 100, 8},
		{"largest", cpu(math.MaxInt64, 1), 0, 8},
		{"largest period", cpu(math.MaxInt64, math.MaxUint64), 0, 1},
	} {
		got := Size(tt.r, Defaults{VCPUs: 2, MaxVCPUs: tt.max, MemoryMiB: 512}, Host{CPUs: 8, MemoryMiB: 16384})
		if got.VCPUs != tt.want {
			t.Errorf("%s: %d vCPUs, want %d", tt.name, got.VCPUs, tt.want)
		}
	}
}

func TestSizeMemory(t *testing.T) {
	const host = 16384
	for _, tt := range []struct {
		name string
		r    *specs.LinuxResources
		max  int
		want int // all with 128 MiB overhead
	}{
		{"no resources", nil, 0, 512 + 8 + 128},
		{"no memory", &specs.LinuxResources{}, 0, 512 + 8 + 128},
		{"no limit", &specs.LinuxResources{Memory: &specs.LinuxMemory{}}, 0, 512 + 8 + 128},
		{"zero", memory(0), 0, 512 + 8 + 128},
		{"unlimited", memory(-1), 0, 512 + 8 + 128},
		{"most negative", memory(math.MinInt64), 0, 512 + 8 + 128},
		{"one byte", memory(1), 0, 1 + 1 + 128},
		{"docker's least", memory(6 * mib), 0, 6 + 1 + 128},
		{"whole MiB", memory(384 * mib), 0, 384 + 6 + 128},
		{"a byte more", memory(384*mib + 1), 0, 385 + 7 + 128},
		{"large", memory(8192 * mib), 0, 8192 + 128 + 128},
		{"above the admin's most", memory(8192 * mib), 1024, 1024 + 16 + 128},
		{"default above the admin's most", nil, 64, 64 + 1 + 128},
		{"the host's", memory(host * mib), 0, host},
		{"docker's unlimited", memory(math.MaxInt64 &^ 4095), 0, host},
		{"largest", memory(math.MaxInt64), 0, host},
	} {
		got := Size(tt.r, Defaults{VCPUs: 1, MemoryMiB: 512, MaxMemoryMiB: tt.max, OverheadMiB: 128}, Host{CPUs: 2, MemoryMiB: host})
		if got.MemoryMiB != tt.want {
			t.Errorf("%s: %d MiB, want %d", tt.name, got.MemoryMiB, tt.want)
		}
	}
	if got := Size(memory(1), Defaults{}, Host{}); got != (VM{VCPUs: 1, MemoryMiB: minVMMiB}) {
		t.Errorf("the least of all is %+v", got)
	}
}

func TestReadHost(t *testing.T) {
	h, err := ReadHost()
	if err != nil || h.CPUs < 1 || h.MemoryMiB < 128 {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestHostLimits(t *testing.T) {
	shares := uint64(512)
	quota := int64(50_000)
	for _, tt := range []struct {
		name string
		r    *specs.LinuxResources
		want Limits
	}{
		{"none", nil, Limits{}},
		{"empty", &specs.LinuxResources{}, Limits{}},
		{"room for the VM and the VMM", memory(64 * mib), Limits{MemoryBytes: (200 + 256) * mib}},
		{"no limit any more", memory(-1), Limits{MemoryBytes: -1}},
		{"leave the limit", memory(0), Limits{}},
		{"cpu", &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Cpus: "0-1", Mems: "0"}},
			Limits{CPUShares: 512, CPUs: "0-1", Mems: "0"}},
	} {
		if got := HostLimits(tt.r, VM{VCPUs: 1, MemoryMiB: 200}, 256); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestHostQuota(t *testing.T) {
	quota, period := int64(50_000), uint64(20_000)
	for _, tt := range []struct {
		r    *specs.LinuxResources
		want Limits
	}{
		{nil, Limits{}},
		{&specs.LinuxResources{}, Limits{}},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota}}, Limits{CPUQuota: 50_000}},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}, Limits{CPUQuota: 50_000, CPUPeriod: 20_000}},
	} {
		if got := HostQuota(tt.r); got != tt.want {
			t.Errorf("got %+v, want %+v", got, tt.want)
		}
	}
}
