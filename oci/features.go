package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features tells engines what hyper and the guest's runtime can (runtime-spec, features.md). What Check refuses is off.
func Features() *features.Features {
	on, off := true, false
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  mountOptions,
		Linux: &features.Linux{
			Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "user", "uts"},
			Capabilities: capabilities,
			Cgroup:       &features.Cgroup{V1: &on, V2: &on, Systemd: &on, SystemdUser: &off, Rdma: &off},
			Seccomp: &features.Seccomp{
				Enabled: &on,
				Actions: []string{
					"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
					"SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
				},
				Operators: []string{
					"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
				},
				Archs: []string{"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"},
			},
			Apparmor:        &features.Apparmor{Enabled: &off},
			Selinux:         &features.Selinux{Enabled: &off},
			IntelRdt:        &features.IntelRdt{Enabled: &off},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &off}},
			NetDevices:      &features.NetDevices{Enabled: &off},
		},
	}
}

// mountOptions are those that the guest's crun takes as flags (crun, src/libcrun/mount_flags.perf), without idmap.
var mountOptions = []string{
	"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "mand", "noatime", "nodev", "nodiratime",
	"noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "private", "ratime", "rbind", "rdev", "rdiratime",
	"relatime", "remount", "rexec", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime",
	"rnosuid", "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "runbindable",
	"rw", "shared", "slave", "strictatime", "suid", "sync", "tmpcopyup", "unbindable",
}
