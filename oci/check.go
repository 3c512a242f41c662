package oci

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// rlimits are the names that setrlimit(2) knows.
var rlimits = []string{
	"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK",
	"RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
	"RLIMIT_SIGPENDING", "RLIMIT_STACK",
}

// Check says what is invalid in a configuration, or cannot mean anything in a VM, in one line. It looks at nothing but
// the configuration. docs/compatibility.md lists what happens to each field.
func Check(spec *specs.Spec) error {
	for _, check := range []func(*specs.Spec) error{
		checkVersion, checkPlatform, checkRoot, checkNames, checkMounts, checkHooks, checkNamespaces, checkLinux,
	} {
		if err := check(spec); err != nil {
			return err
		}
	}
	if spec.Process == nil {
		return nil // allowed until start (runtime-spec, config.md, Process)
	}
	return CheckProcess(spec.Process)
}

// CheckProcess says what is invalid in a process, be it a container's first or one that joins by exec.
func CheckProcess(p *specs.Process) error {
	switch {
	case p.Cwd == "":
		return errors.New("cwd property must not be empty")
	case !path.IsAbs(p.Cwd):
		return errors.New("cwd must be an absolute path")
	case len(p.Args) == 0:
		return errors.New("args must not be empty")
	case p.Scheduler != nil:
		return errors.New("process.scheduler is not supported")
	case p.IOPriority != nil:
		return errors.New("process.ioPriority is not supported: a guest has no disk of its own")
	case p.ExecCPUAffinity != nil:
		return errors.New("process.execCPUAffinity is not supported: it names CPUs of the host")
	case p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000):
		return fmt.Errorf("process.oomScoreAdj %d is not between -1000 and 1000", *p.OOMScoreAdj)
	}
	for _, s := range slices.Concat(p.Args, p.Env, []string{p.Cwd}) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("process: %q contains a NUL byte", s)
		}
	}
	if err := checkUser(p.User); err != nil {
		return err
	}
	if err := checkRlimits(p.Rlimits); err != nil {
		return err
	}
	return checkCapabilities(p.Capabilities)
}

func checkVersion(spec *specs.Spec) error {
	major, ok := majorVersion(spec.Version)
	if !ok {
		return fmt.Errorf("ociVersion %q is not a semantic version", spec.Version)
	}
	if major != "1" {
		return fmt.Errorf("ociVersion %s is not supported, only 1.x is", spec.Version)
	}
	return nil
}

// majorVersion is the first number of a semantic version, https://semver.org; ok says whether v is one.
func majorVersion(v string) (major string, ok bool) {
	const digits = "0123456789"
	const identifiers = digits + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.-"
	v, build, hasBuild := strings.Cut(v, "+")
	v, pre, hasPre := strings.Cut(v, "-")
	if hasBuild && build == "" || hasPre && pre == "" || strings.Trim(pre+build, identifiers) != "" {
		return "", false
	}
	numbers := strings.Split(v, ".")
	for _, n := range numbers {
		if n == "" || strings.Trim(n, digits) != "" || n[0] == '0' && n != "0" {
			return "", false
		}
	}
	return numbers[0], len(numbers) == 3
}

func checkPlatform(spec *specs.Spec) error {
	for _, section := range []struct {
		name string
		set  bool
	}{
		{"solaris", spec.Solaris != nil}, {"windows", spec.Windows != nil}, {"zos", spec.ZOS != nil},
		{"freebsd", spec.FreeBSD != nil},
	} {
		if section.set {
			return fmt.Errorf("the %s section is not supported: the guest is Linux", section.name)
		}
	}
	if spec.VM != nil {
		return errors.New("the vm section is not supported: hypervisor, kernel and image come from hyper's own configuration")
	}
	return nil
}

func checkRoot(spec *specs.Spec) error {
	if spec.Root == nil || spec.Root.Path == "" {
		return errors.New("root.path must not be empty")
	}
	return nil
}

func checkNames(spec *specs.Spec) error {
	// __NEW_UTS_LEN of linux/utsname.h: the kernel refuses longer names.
	const longest = 64
	if len(spec.Hostname) > longest || len(spec.Domainname) > longest {
		return fmt.Errorf("hostname and domainname must not have more than %d bytes", longest)
	}
	if strings.ContainsRune(spec.Hostname+spec.Domainname, 0) {
		return errors.New("hostname and domainname must not contain a NUL byte")
	}
	return nil
}

func checkMounts(spec *specs.Spec) error {
	for _, m := range spec.Mounts {
		switch {
		case m.Destination == "":
			return fmt.Errorf("mount of %q has no destination", m.Source)
		case strings.ContainsRune(m.Destination+m.Source, 0):
			return fmt.Errorf("mount %q contains a NUL byte", m.Destination)
		case len(m.UIDMappings)+len(m.GIDMappings) > 0, slices.ContainsFunc(m.Options, isIDMap):
			return fmt.Errorf("mount %s: id-mapped mounts are not supported", m.Destination)
		}
	}
	return nil
}

func isIDMap(option string) bool {
	name, _, _ := strings.Cut(option, "=")
	return name == "idmap" || name == "ridmap"
}

func checkHooks(spec *specs.Spec) error {
	if spec.Hooks == nil {
		return nil
	}
	h := spec.Hooks
	//lint:ignore SA1019 docker before 26 still uses prestart
	for _, hook := range slices.Concat(h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop) {
		if !path.IsAbs(hook.Path) {
			return fmt.Errorf("hook path %q is not absolute", hook.Path)
		}
		if hook.Timeout != nil && *hook.Timeout <= 0 {
			return fmt.Errorf("hook %s: timeout %d is not greater than zero", hook.Path, *hook.Timeout)
		}
	}
	return nil
}

// checkUser refuses the id that stands for "no change" in chown(2) and setresuid(2).
func checkUser(u specs.User) error {
	if u.UID == math.MaxUint32 {
		return fmt.Errorf("uid %d is out of range", u.UID)
	}
	for _, gid := range append([]uint32{u.GID}, u.AdditionalGids...) {
		if gid == math.MaxUint32 {
			return fmt.Errorf("gid %d is out of range", gid)
		}
	}
	if u.Umask != nil && *u.Umask > 0o777 {
		return fmt.Errorf("umask %#o is out of range", *u.Umask)
	}
	return nil
}

func checkRlimits(limits []specs.POSIXRlimit) error {
	seen := map[string]bool{}
	for _, l := range limits {
		switch {
		case !slices.Contains(rlimits, l.Type):
			return fmt.Errorf("unknown rlimit %q", l.Type)
		case seen[l.Type]:
			return fmt.Errorf("rlimit %s is given twice", l.Type)
		case l.Soft > l.Hard:
			return fmt.Errorf("rlimit %s: soft limit %d exceeds hard limit %d", l.Type, l.Soft, l.Hard)
		}
		seen[l.Type] = true
	}
	return nil
}

func checkCapabilities(c *specs.LinuxCapabilities) error {
	if c == nil {
		return nil
	}
	for _, name := range slices.Concat(c.Bounding, c.Effective, c.Inheritable, c.Permitted, c.Ambient) {
		if !slices.Contains(capabilities, name) {
			return fmt.Errorf("unknown capability %q", name)
		}
	}
	return nil
}
