package oci

import (
	"maps"
	"math"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	crioKind, crioID     = "io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"
	criKind, criID       = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
	dockerKind, dockerID = "io.kubernetes.docker.type", "io.kubernetes.sandbox.id"
)

func TestSandboxID(t *testing.T) {
	tests := []struct {
		name        string
		annotations map[string]string
		want, fails string
	}{
		{"nothing", nil, "", ""},
		{"others", map[string]string{"org.example": "container", crioID: "a"}, "", ""},
		{"CRI-O's sandbox", map[string]string{crioKind: "sandbox", crioID: "a"}, "", ""},
		{"CRI-O's container", map[string]string{crioKind: "container", crioID: "a"}, "a", ""},
		{"containerd's sandbox", map[string]string{criKind: "sandbox", criID: "b"}, "", ""},
		{"containerd's container", map[string]string{criKind: "container", criID: "b"}, "b", ""},
		{"Docker's sandbox", map[string]string{dockerKind: "podsandbox", dockerID: "c"}, "", ""},
		{"Docker's container", map[string]string{dockerKind: "container", dockerID: "c"}, "c", ""},
		{"not an id", map[string]string{criKind: "container", criID: "../b"}, "../b", ""},
		{"no id", map[string]string{criKind: "container"}, "", "annotation " + criID + " has the id of no sandbox"},
		{"another engine's id", map[string]string{criKind: "container", crioID: "a"}, "", "has the id of no sandbox"},
		{"another engine's word", map[string]string{criKind: "podsandbox"}, "",
			"annotation " + criKind + ` is neither sandbox nor container: "podsandbox"`},
		{"a long word", map[string]string{crioKind: strings.Repeat("x", 1<<20)}, "", strings.Repeat("x", 40) + `"`},
	}
	for _, test := range tests {
		got, err := SandboxID(test.annotations)
		switch {
		case test.fails != "" && (err == nil || !strings.HasSuffix(err.Error(), test.fails)):
			t.Errorf("%s: error %v, want %q", test.name, err, test.fails)
		case test.fails == "" && (err != nil || got != test.want):
			t.Errorf("%s: %q, %v, want %q", test.name, got, err, test.want)
		}
	}
}

func TestSandboxResources(t *testing.T) {
	const crio, newer = "io.kubernetes.cri-o.PodLinuxResources", "pod-linux-resources.crio.io"
	tests := []struct {
		name          string
		annotations   map[string]string
		quota, memory int64
		period        uint64
		fails         string
	}{
		{"nothing", nil, 1, 2, 3, ""},
		{"containerd", map[string]string{podQuota: "150000", podPeriod: "100000", podMemory: "268435456"}, 150000, 256 << 20, 100000, ""},
		{"containerd, no limits", map[string]string{podQuota: "0", podPeriod: "100000", podMemory: "0"}, 1, 2, 3, ""},
		{"containerd, only memory", map[string]string{podMemory: "7"}, 1, 7, 3, ""},
		{"containerd, only quota", map[string]string{podQuota: "5"}, 5, 2, 0, ""},
		{"unlimited", map[string]string{podQuota: "-1", podMemory: "-1"}, 1, 2, 3, ""},
		{"most", map[string]string{podMemory: "9223372036854775807"}, 1, math.MaxInt64, 3, ""},
		{"too much", map[string]string{podMemory: "9223372036854775808"}, 0, 0, 0, podMemory + ` is no number: "9223372036854775808"`},
		{"no number", map[string]string{podQuota: "1e6"}, 0, 0, 0, podQuota + ` is no number: "1e6"`},
		{"empty", map[string]string{podQuota: ""}, 1, 2, 3, ""},
		{"CRI-O", map[string]string{crio: `{"cpu_period":100000,"cpu_quota":200000,"memory_limit_in_bytes":1024,"unified":{}}`}, 200000, 1024, 100000, ""},
		{"CRI-O, nothing", map[string]string{crio: `{}`}, 1, 2, 3, ""},
		{"CRI-O, newer", map[string]string{crio: `{"cpu_quota":9}`, newer: `{"cpu_quota":8}`}, 8, 2, 0, ""},
		{"CRI-O, damaged", map[string]string{crio: `{"cpu_quota":"9"}`}, 0, 0, 0, "of type int64"},
	}
	for _, test := range tests {
		quota, memory, period := int64(1), int64(2), uint64(3)
		own := &specs.LinuxResources{
			CPU: &specs.LinuxCPU{Quota: &quota, Period: &period, Cpus: "0"}, Memory: &specs.LinuxMemory{Limit: &memory},
		}
		got, err := SandboxResources(&specs.Spec{Annotations: test.annotations, Linux: &specs.Linux{Resources: own}})
		if test.fails != "" {
			if err == nil || !strings.HasSuffix(err.Error(), test.fails) {
				t.Errorf("%s: error %v, want %q", test.name, err, test.fails)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if *got.CPU.Quota != test.quota || *got.CPU.Period != test.period || *got.Memory.Limit != test.memory || got.CPU.Cpus != "0" {
			t.Errorf("%s: quota %d, period %d, memory %d, CPUs %q", test.name, *got.CPU.Quota, *got.CPU.Period, *got.Memory.Limit, got.CPU.Cpus)
		}
		if quota != 1 || memory != 2 || period != 3 {
			t.Errorf("%s: the spec's own values were changed", test.name)
		}
	}
	got, err := SandboxResources(&specs.Spec{Annotations: map[string]string{podMemory: "5"}, Linux: &specs.Linux{}})
	if err != nil || got.CPU != nil || *got.Memory.Limit != 5 {
		t.Errorf("without resources: %+v, %v", got, err)
	}
}

// Whatever strangers write: no panic, the container's own resources stay, and a size that comes out is more than zero.
func FuzzAnnotations(f *testing.F) {
	f.Add("container", "a", "100000", "200000", "1048576", "{}")
	f.Add("sandbox", "../..", "-1", "x", "99999999999999999999", `{"cpu_quota":-9223372036854775808,"memory_limit_in_bytes":1}`)
	f.Fuzz(func(t *testing.T, kind, id, period, quota, memory, crio string) {
		for i, engine := range engines {
			annotations := map[string]string{engine.kind: kind, engine.sandboxID: id, podPeriod: period, podQuota: quota, podMemory: memory}
			if i == 0 {
				annotations[podResources[1]] = crio
			}
			before := maps.Clone(annotations)
			got, err := SandboxID(annotations)
			if got != "" && (got != id || kind != "container" || err != nil) {
				t.Errorf("%q, %v from %q", got, err, annotations)
			}
			r, err := SandboxResources(&specs.Spec{Annotations: annotations, Linux: &specs.Linux{}})
			if r != nil && (err != nil || r.Memory != nil && *r.Memory.Limit <= 0 || r.CPU != nil && *r.CPU.Quota <= 0) {
				t.Errorf("%+v, %v from %q", r, err, annotations)
			}
			if !maps.Equal(before, annotations) {
				t.Errorf("%q became %q", before, annotations)
			}
		}
	})
}
