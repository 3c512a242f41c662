package oci

import (
	"math"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// minimal is the least that passes Check.
func minimal() *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Cwd: "/", Args: []string{"true"}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}},
	}
}

func TestCheckGood(t *testing.T) {
	if err := Check(minimal()); err != nil {
		t.Error(err)
	}
	withoutProcess := minimal()
	withoutProcess.Process = nil
	if err := Check(withoutProcess); err != nil {
		t.Error(err)
	}
	labels := minimal()
	labels.Process.ApparmorProfile, labels.Process.SelinuxLabel, labels.Linux.MountLabel = "docker-default", "system_u", "system_u"
	if err := Check(labels); err != nil {
		t.Error(err)
	}
}

func TestMajorVersion(t *testing.T) {
	for version, want := range map[string]string{
		"1.0.2": "1", "0.10.0": "0", "12.0.0": "12", "1.0.2-dev": "1", "1.3.0-rc.1+build-5": "1", "1.0.0+a": "1",
		"": "", "1": "", "1.0": "", "1.0.0.0": "", "01.0.0": "", "1.00.0": "", "1..0": "", "v1.0.0": "", "1.0.x": "", "-1.0.0": "",
		"1.0.0-": "", "1.0.0+": "", "1.0.0-a+": "", "1.0.0+a+b": "", "1.0.0-ü": "", "1.0.0\n": "",
	} {
		if got, ok := majorVersion(version); ok != (want != "") || ok && got != want {
			t.Errorf("%q: got %q, %t, want %q", version, got, ok, want)
		}
	}
}

func TestCheck(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	tests := []struct {
		want  string
		spoil func(*specs.Spec)
	}{
		{`ociVersion "" is not a semantic version`, func(s *specs.Spec) { s.Version = "" }},
		{`ociVersion "invalid" is not a semantic version`, func(s *specs.Spec) { s.Version = "invalid" }},
		{"ociVersion 2.0.0 is not supported", func(s *specs.Spec) { s.Version = "2.0.0" }},
		{"the windows section is not supported", func(s *specs.Spec) { s.Windows = &specs.Windows{} }},
		{"the vm section is not supported", func(s *specs.Spec) { s.VM = &specs.VM{} }},
		{"root.path must not be empty", func(s *specs.Spec) { s.Root = nil }},
		{"cwd must be an absolute path", func(s *specs.Spec) { s.Process.Cwd = "tmp" }},
		{"cwd property must not be empty", func(s *specs.Spec) { s.Process.Cwd = "" }},
		{"args must not be empty", func(s *specs.Spec) { s.Process.Args = nil }},
		{"contains a NUL byte", func(s *specs.Spec) { s.Process.Env = []string{"A=\x00"} }},
		{"uid 4294967295 is out of range", func(s *specs.Spec) { s.Process.User.UID = math.MaxUint32 }},
		{"gid 4294967295 is out of range", func(s *specs.Spec) { s.Process.User.GID = math.MaxUint32 }},
		{"gid 4294967295 is out of range", func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{math.MaxUint32} }},
		{`unknown rlimit "RLIMIT_TEST"`, rlimit("RLIMIT_TEST", 1, 1)},
		{"rlimit RLIMIT_CPU is given twice", func(s *specs.Spec) { rlimit("RLIMIT_CPU", 1, 1)(s); rlimit("RLIMIT_CPU", 1, 1)(s) }},
		{"soft limit 2 exceeds hard limit 1", rlimit("RLIMIT_CPU", 2, 1)},
		{`unknown capability "TEST_CAP"`, func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "TEST_CAP"}}
		}},
		{"oomScoreAdj 1001", func(s *specs.Spec) { n := 1001; s.Process.OOMScoreAdj = &n }},
		{"process.scheduler is not supported", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} }},
		{"process.ioPriority is not supported", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} }},
		{"process.execCPUAffinity is not supported", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{} }},
		{"has no destination", func(s *specs.Spec) { s.Mounts = []specs.Mount{{Source: "/x"}} }},
		{"mount /x: id-mapped mounts are not supported", func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Options: []string{"rbind", "idmap=uids=0-1-10"}}}
		}},
		{"hostname and domainname must not have more than 64 bytes", func(s *specs.Spec) { s.Hostname = strings.Repeat("x", 65) }},
		{`hook path "true" is not absolute`, func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "true"}}} }},
		{"timeout 0 is not greater than zero", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x", Timeout: new(int)}}}
		}},
		{"host network is not supported", func(s *specs.Spec) { s.Linux = nil }},
		{"host network is not supported", func(s *specs.Spec) { s.Linux.Namespaces = nil }},
		{`unknown namespace type "moon"`, namespace("moon", "")},
		{"namespace network is given twice", namespace(specs.NetworkNamespace, "")},
		{"is not absolute", namespace(specs.IPCNamespace, "x")},
		{"joining a user namespace is not supported: /x", namespace(specs.UserNamespace, "/x")},
		{"a user namespace needs linux.uidMappings", namespace(specs.UserNamespace, "")},
		{"need a user namespace", func(s *specs.Spec) { s.Linux.UIDMappings = make([]specs.LinuxIDMapping, 1) }},
		{"unable to set hostname without a private UTS namespace", func(s *specs.Spec) { s.Hostname = "x" }},
		{"linux.timeOffsets needs a time namespace", func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}}
		}},
		{"a time namespace is not supported", namespace(specs.TimeNamespace, "")},
		{"linux.intelRdt is not supported", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }},
		{"linux.memoryPolicy is not supported", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }},
		{"linux.netDevices is not supported", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}}
		}},
		{"listenerPath is not supported", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: "/x"} }},
		{"unknown linux.personality.domain", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "BSD"} }},
		{`path "relative" is not absolute`, func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"relative"} }},
		{"unknown linux.rootfsPropagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "wide" }},
		{"device path \"null\" is not absolute", func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "null", Type: "c"}} }},
		{"unknown type \"x\"", func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "x"}} }},
		{"unable to set swap limit without memory limit", memory(nil, number(5))},
		{"memory+swap limit 5 is less than memory limit 6", memory(number(6), number(5))},
		{"a limit must be -1, 0 or more", memory(number(-2), nil)},
		{"cpu quota 10 is less than 1000", func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: number(10)}}
		}},
		{"unknown device access", func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rx"}}}
		}},
	}
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			spec := minimal()
			test.spoil(spec)
			wantError(t, Check(spec), test.want)
		})
	}
}

func TestCheckResourcesUnset(t *testing.T) {
	// What docker update sends: zeros mean "leave as it is".
	zero := func() *int64 { return new(int64) }
	err := CheckResources(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: zero(), Swap: zero(), Reservation: zero()},
		CPU:    &specs.LinuxCPU{Quota: zero(), Period: new(uint64), Shares: new(uint64)},
	})
	if err != nil {
		t.Error(err)
	}
}

func rlimit(kind string, soft, hard uint64) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: kind, Soft: soft, Hard: hard})
	}
}

func namespace(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
}

func memory(limit, swap *int64) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: limit, Swap: swap}}
	}
}

func TestFeatures(t *testing.T) {
	f := Features()
	if f.OCIVersionMin == "" || f.OCIVersionMax != specs.Version {
		t.Errorf("versions %q to %q", f.OCIVersionMin, f.OCIVersionMax)
	}
	if !slices.IsSorted(f.MountOptions) || !slices.Contains(f.MountOptions, "rro") {
		t.Errorf("mount options %q", f.MountOptions)
	}
}
