package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// Main is the guest's PID 1. It says on the console why it ends, and ends the guest with itself.
func Main() {
	say(serveGuest().Error())
	// A restart ends QEMU at once, for it runs with -no-reboot, and needs no driver, unlike a power-off.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// say prints one line on the kernel's console, which the kernel gives PID 1 as its 0, 1 and 2.
func say(line string) {
	_, _ = os.Stderr.WriteString("hyper-agent: " + oneLine(line) + "\n")
}

func serveGuest() error {
	config := DefaultConfig()
	if err := boot(config); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	port, err := openPort(protocol.Port)
	if err != nil {
		return err
	}
	agent, err := New(config)
	if err != nil {
		return err
	}
	if rehearsing() {
		// A template without it only makes slower clones.
		if err := agent.rehearse(&protocol.Share{Type: "9p", Tag: protocol.ShareTag, Options: protocol.ShareOptions}); err != nil {
			say("rehearsal: " + err.Error())
		}
	}
	say("ready")
	if err := AwaitSession(awaited{port}); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	return agent.Serve(port)
}

// boot makes a system of the initramfs.
func boot(config Config) error {
	if err := loadModules("/modules"); err != nil {
		return err
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/etc"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink(config.MachineID, "/etc/machine-id"); err != nil {
		return err
	}
	if err := settleRuntime(config.Runtime); err != nil {
		return err
	}
	if err := leaveInitramfs(); err != nil {
		return err
	}
	for _, m := range systemMounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.target, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := prepareCgroups(config.Cgroups); err != nil {
		return err
	}
	// Enough that no pid comes again soon; the reaper counts on it. It is also what systemd sets.
	if err := writeControl("/proc/sys/kernel/pid_max", "4194304"); err != nil {
		return fmt.Errorf("raise pid_max: %w", err)
	}
	return nil
}

// systemMounts are made in this order.
var systemMounts = []struct {
	target, kind string
	flags        uintptr
	options      string
}{
	{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
	{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,ptmxmode=666"},
	{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
}

// loadModules loads the modules that dir/order lists, one file name a line, and frees the memory that their files take.
func loadModules(dir string) error {
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read module list: %w", err)
	}
	for name := range strings.FieldsSeq(string(order)) {
		path := filepath.Join(dir, name)
		file, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open module %s: %w", name, err)
		}
		err = unix.FinitModule(file, "", 0)
		unix.Close(file)
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return os.RemoveAll(dir)
}

// settleRuntime moves the runtime's binary to a read-only ramfs, mounted over its directory. crun re-executes a copy of
// itself at every call, for containers must not write to it, unless its file system is read-only; and it does not look
// at that when the file could have seals, as on the tmpfs that an initramfs usually is (is_self_cloned in
// src/libcrun/cloned_binary.c). A copy costs 70 ms under TCG, each time.
func settleRuntime(path string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := os.Remove(path); err != nil { // its memory is free when from is closed
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	dir := filepath.Dir(path)
	if err := unix.Mount("runtime", dir, "ramfs", flags, "mode=755"); err != nil {
		return fmt.Errorf("mount ramfs: %w", err)
	}
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("copy runtime: %w", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("make runtime read-only: %w", err)
	}
	return nil
}

// leaveInitramfs makes a bind mount of the initramfs, without copying a byte, and moves into it. The initramfs itself
// has no parent mount, so crun could not pivot_root(2) away from it. Nothing writes to the new root any more.
func leaveInitramfs() error {
	const place = "/run" // any empty directory
	if err := unix.Mount("/", place, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind initramfs: %w", err)
	}
	if err := os.Chdir(place); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make root read-only: %w", err)
	}
	return nil
}
