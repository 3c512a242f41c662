package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// probe is a question that a container's process answers about itself: a shell script and its output.
type probe struct{ name, script, want string }

// ask runs all probes in one container of the bundle, and compares. The words follow the script in argv.
func ask(t *testing.T, h *harness.Host, b *harness.Bundle, probes []probe, words ...string) {
	t.Helper()
	const mark = "\x01"
	var script strings.Builder
	for _, p := range probes {
		fmt.Fprintf(&script, "(\n%s\n) 2>&1; printf '%s'\n", p.script, mark)
	}
	b.SetProcessArgs(append([]string{"sh", "-c", script.String(), "sh"}, words...))
	b.Write()
	r := h.Run("run", "--bundle", b.Dir, h.ID())
	answers := strings.Split(r.Stdout, mark)
	if r.Code != 0 || len(answers) != len(probes)+1 {
		t.Fatalf("run: %v", r)
	}
	for i, p := range probes {
		if got := shellLine.ReplaceAllString(strings.TrimSpace(answers[i]), "sh: "); got != p.want {
			t.Errorf("%s: %q, want %q", p.name, got, p.want)
		}
	}
}

// shellLine is the place in the script that busybox's shell names in its errors.
var shellLine = regexp.MustCompile(`sh: line \d+: `)

// capBits prints the lower half of each capability set, see linux/capability.h.
const capBits = "for set in Inh Prm Eff Bnd Amb; do printf '%s ' $(sed -n \"s/^Cap$set:.//p\" /proc/self/status | tail -c 9); done"

func TestProcessAsRoot(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle()
	b.SetHostname("a-host.name")
	b.AddProcessEnv("PLAIN", "1")
	b.AddProcessEnv("ODD", "a=b c\"d'e\\f\tü$HOME,x")
	b.AddProcessEnv("EMPTY", "")
	b.AddLinuxSysctl("net.ipv4.ip_unprivileged_port_start", "77")
	b.AddLinuxSysctl("kernel.msgmax", "7777")
	b.AddLinuxMaskedPaths("/proc/keys")
	b.AddLinuxMaskedPaths("/masked-dir")
	b.AddLinuxMaskedPaths("/masked-file")
	b.AddLinuxMaskedPaths("/not-there")
	b.AddLinuxReadonlyPaths("/proc/sys")
	b.AddLinuxReadonlyPaths("/readonly-dir")
	b.AddDevice(specs.LinuxDevice{Path: "/dev/extra", Type: "c", Major: 1, Minor: 3, FileMode: mode(0o640), UID: id(1000), GID: id(2000)})
	for _, dir := range []string{"masked-dir", "readonly-dir"} {
		if err := os.Mkdir(filepath.Join(b.Rootfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"masked-dir/secret", "masked-file", "readonly-dir/file"} {
		if err := os.WriteFile(filepath.Join(b.Rootfs, file), []byte("secret"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ask(t, h, b, []probe{
		{"arguments", `printf '[%s]' "$@"`, "[a b][][line\nline][\"'\\,=ü][-x]"},
		{"environment", `echo "$PLAIN|$ODD|${EMPTY-unset}|${HOME-unset}"`, "1|a=b c\"d'e\\f\tü$HOME,x||/root"},
		{"pid", "echo $PPID; cat /proc/1/comm", "0\nsh"},
		{"working directory", "pwd", "/"},
		{"user", "id -u; id -g", "0\n0"},
		{"umask", "umask", "0022"},
		{"host name", "hostname; cat /proc/sys/kernel/hostname", "a-host.name\na-host.name"},
		{"sysctl", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax", "77\n7777"},
		{"masked directory", "ls /masked-dir; touch /masked-dir/x", "touch: /masked-dir/x: Read-only file system"},
		{"masked file", "cat /masked-file /proc/keys", ""},
		{"read-only directory", "cat /readonly-dir/file; touch /readonly-dir/x", "secrettouch: /readonly-dir/x: Read-only file system"},
		{"read-only /proc/sys", "echo 1 >/proc/sys/kernel/msgmax", "sh: can't create /proc/sys/kernel/msgmax: Read-only file system"},
		{"default devices", "cd /dev && ls -d null zero full random urandom tty ptmx fd stdin stdout stderr | wc -l", "11"},
		{"devices work", "echo x >/dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x >/dev/full", "4\n4\nsh: write error: No space left on device"},
		{"a device of the spec", "stat -c '%A %u %g %t %T' /dev/extra; echo x >/dev/extra", "crw-r----- 1000 2000 1 3"},
		{"a forbidden device", "mknod /dev/kmsg2 c 1 11 && head -c 1 /dev/kmsg2", "head: /dev/kmsg2: Operation not permitted"},
		{"capabilities", capBits, "a80425fb a80425fb a80425fb a80425fb a80425fb"},
		{"open descriptors", "ls /proc/self/fd | wc -l", "4"}, // 0, 1, 2 and the directory that ls reads
		{"controlling terminal", "cat </dev/tty", "sh: can't open /dev/tty: No such device or address"},
		{"init has no siblings", "set -- /proc/[0-9]*; echo $#", "2"}, // and this subshell
		{"only lo, and up", "ls /sys/class/net", "lo"},
	}, "a b", "", "line\nline", "\"'\\,=ü", "-x")
}

func TestProcessAsUser(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle()
	home := filepath.Join(b.Rootfs, "home/user")
	if err := os.MkdirAll(home, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	b.SetProcessUID(1000)
	b.SetProcessGID(1000)
	b.AddProcessAdditionalGid(5)
	b.AddProcessAdditionalGid(2000)
	umask := uint32(0o027)
	b.Config.Process.User.Umask = &umask
	b.SetProcessCwd("/home/user")
	b.SetProcessNoNewPrivileges(true)
	b.SetProcessOOMScoreAdj(500)
	b.ClearProcessCapabilities()
	b.ClearProcessRlimits()
	b.AddProcessRlimits("RLIMIT_NOFILE", 512, 256)
	b.AddProcessRlimits("RLIMIT_CORE", 0, 0)
	b.AddProcessRlimits("RLIMIT_FSIZE", 1<<20, 1<<20)
	b.Config.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: errno(17)}}}
	ask(t, h, b, []probe{
		{"user and groups", "id -u; id -g; id -G", "1000\n1000\n1000 5 2000"},
		{"home", "echo $HOME", "/home/user"},
		{"working directory", "pwd", "/home/user"},
		{"umask", "umask; touch file; stat -c %a file", "0027\n640"},
		{"no new privileges, filter", "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status", "NoNewPrivs:\t1\nSeccomp:\t2"},
		{"no capabilities", capBits, "00000000 00000000 00000000 00000000 00000000"},
		{"oom score", "cat /proc/self/oom_score_adj", "500"},
		{"open files", "ulimit -Sn; ulimit -Hn", "256\n512"},
		{"core size", "ulimit -Sc; ulimit -Hc", "0\n0"},
		{"file size", "dd if=/dev/zero of=big bs=1M count=2 2>/dev/null || stat -c %s big", "1048576"},
		{"filtered call", "mkdir dir", "mkdir: can't create directory 'dir': File exists"},
		{"no right to others' files", "echo >/etc/passwd", "sh: can't create /etc/passwd: Permission denied"},
	})
	if info, err := os.Stat(filepath.Join(home, "file")); err != nil {
		t.Error(err)
	} else if owner := fmt.Sprint(info.Sys()); !strings.Contains(owner, "1000") {
		t.Errorf("owner of the file on the host: %s", owner)
	}
}

func TestReadonlyRootfs(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle()
	b.SetRootReadonly(true)
	b.AddMount(specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
	ask(t, h, b, []probe{
		{"root", "touch /x; touch /etc/passwd", "touch: /x: Read-only file system\ntouch: /etc/passwd: Read-only file system"},
		{"tmpfs", "echo text >/tmp/x && cat /tmp/x", "text"},
	})
	if _, err := os.Stat(filepath.Join(b.Rootfs, "x")); err == nil {
		t.Error("a file was made in the read-only rootfs")
	}
}

// What runc 1.1 does not know or gets wrong.
func TestOursView(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle()
	b.Config.Domainname = "a.domain"
	if err := b.SetLinuxRootPropagation("shared"); err != nil {
		t.Fatal(err)
	}
	ask(t, h, b, []probe{
		{"domain name", "cat /proc/sys/kernel/domainname", "a.domain"},
		{"propagation", "awk '$5 == \"/\" { print ($7 ~ /^shared:/) }' /proc/self/mountinfo", "1"},
	})
}

func mode(m os.FileMode) *os.FileMode { return &m }
func id(n uint32) *uint32             { return &n }
func errno(n uint) *uint              { return &n }

// TestMountNamespaces: to engines the container's process is in a mount namespace that shows the container's files, or in
// the one that the configuration names.
func TestMountNamespaces(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.Create(h.Sleeper())
	if got := h.ReadFile(fmt.Sprintf("/proc/%d/root/etc/group", c.Pid)); !strings.Contains(got, "extra:") {
		t.Errorf("the process's root has %q", got)
	}
	r, w := h.Pipe()
	holder := exec.Command("unshare", "--mount", "sh", "-c", "echo up && read wait")
	holder.Stdin = r
	p := h.Spawn(holder)
	r.Close()
	p.Stdout.Expect(t, "up")
	b := h.Sleeper()
	path := fmt.Sprintf("/proc/%d/ns/mnt", p.Pid)
	b.AddOrReplaceLinuxNamespace("mount", path)
	joined := h.Create(b)
	want, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", joined.Pid)); err != nil || got != want {
		t.Errorf("the process is in %s, %v, want %s", got, err, want)
	}
	w.Close()
	p.WaitExit()
}
