package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// options prints the mount options of a mount point, without those that differ between kernels.
const options = `options() { awk -v p="$1" '$5 == p { print $6 }' /proc/self/mountinfo; }
`

func TestBindMounts(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	for name, text := range map[string]string{
		"dir/file": "of dir", "ro/file": "of ro", "ro/sub/file": "below ro", "single": "of single", "single-ro": "of single-ro",
		"odd ,=\"'\\ü\n:name/file": "of odd", "tree/file": "of tree",
	} {
		h.WriteFile("src/"+name, text, 0o644)
	}
	source := func(name string) string { return h.Path("src/" + name) }
	sub := source("tree/sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", sub, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(sub, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(filepath.Join(sub, "file"), []byte("of sub"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := h.Bundle()
	b.Bind(source("dir"), "/mnt/made/for/it", "rw")
	b.Bind(source("ro"), "/mnt/ro", "ro")
	b.Bind(source("single"), "/mnt/single")
	b.Bind(source("single-ro"), "/etc/passwd", "ro")
	b.Bind(source("odd ,=\"'\\ü\n:name"), "/mnt/odd ,=\"'\\name", "rbind", "nosuid", "nodev", "noexec")
	b.Bind(source("tree"), "/mnt/tree", "rbind", "rprivate")
	b.AddMount(specs.Mount{Destination: "/mnt/ro/sub", Type: "tmpfs", Source: "tmpfs"}) // over a part of a bind mount
	b.Bind(source("dir"), "/mnt/../mnt/./dots/", "ro")
	ask(t, h, b, []probe{
		{"directory", "cat /mnt/made/for/it/file; echo from inside >/mnt/made/for/it/new", "of dir"},
		{"read-only directory", "cat /mnt/ro/file; touch /mnt/ro/x; rm /mnt/ro/file", "of rotouch: /mnt/ro/x: Read-only file system\nrm: can't remove '/mnt/ro/file': Read-only file system"},
		{"read-only remounted", "mount -o remount,rw /mnt/ro 2>/dev/null; touch /mnt/ro/x 2>/dev/null; ls /mnt/ro", "file\nsub"},
		{"single file", "cat /mnt/single; echo from inside >/mnt/single", "of single"},
		{"single read-only file", "cat /etc/passwd; echo >/etc/passwd", "of single-rosh: can't create /etc/passwd: Read-only file system"},
		{"odd name", "cat '/mnt/odd ,=\"'\\''\\name/file'", "of odd"},
		{"options", options + "options '/mnt/odd\\\\040,=\"'\\''\\\\134name'", "rw,nosuid,nodev,noexec,relatime"},
		{"tree with a mount in it", "cat /mnt/tree/file /mnt/tree/sub/file", "of treeof sub"},
		{"tmpfs over a bind mount", "ls /mnt/ro/sub; touch /mnt/ro/sub/x && echo written", "written"},
		{"dots in the destination", "cat /mnt/dots/file", "of dir"},
	})
	for name, want := range map[string]string{"dir/new": "from inside\n", "single": "from inside\n", "ro/file": "of ro", "single-ro": "of single-ro"} {
		if got := h.ReadFile(source(name)); got != want {
			t.Errorf("%s on the host: %q, want %q", name, got, want)
		}
	}
}

// Both sides see at once what the other writes.
func TestBindMountIsLive(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	file := h.WriteFile("src/file", "first", 0o644)
	b := h.Sleeper()
	b.Bind(h.Path("src"), "/mnt")
	c := h.StartNew(b)
	c.Stdout.Expect(t, "ready")
	if out := c.Sh("cat /mnt/file"); out != "first" {
		t.Errorf("first read: %q", out)
	}
	h.WriteFile("src/file", "second, longer", 0o644)
	h.WriteFile("src/new", "new", 0o644)
	if out := c.Sh("cat /mnt/file /mnt/new; echo third >/mnt/file; rm /mnt/new"); out != "second, longernew" {
		t.Errorf("second read: %q", out)
	}
	if got := h.ReadFile(file); got != "third\n" {
		t.Errorf("on the host: %q", got)
	}
	if _, err := os.Stat(h.Path("src/new")); !os.IsNotExist(err) {
		t.Errorf("a file removed inside is still there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(b.Rootfs, "tmp/copied-in"), []byte("docker cp"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := c.Sh("cat /tmp/copied-in; echo out >/tmp/copied-out"); out != "docker cp" {
		t.Errorf("file put into the rootfs: %q", out)
	}
	if got := h.ReadFile(filepath.Join(b.Rootfs, "tmp/copied-out")); got != "out\n" {
		t.Errorf("file taken out of the rootfs: %q", got)
	}
}

var cgroupMount = specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}}

func TestKernelMounts(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle()
	b.AddMount(specs.Mount{Destination: "/mnt/small", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "size=1m", "mode=1750"}})
	b.AddMount(specs.Mount{Destination: "/mnt/ro", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro"}})
	b.AddMount(cgroupMount)
	b.AddMount(specs.Mount{Destination: "/mnt/slave", Type: "tmpfs", Source: "tmpfs", Options: []string{"private"}})
	ask(t, h, b, []probe{
		{"types", "for p in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys; do awk -v p=$p '$2 == p { printf \"%s \", $3 }' /proc/mounts; done",
			"proc tmpfs devpts tmpfs mqueue sysfs"},
		{"options of /proc and /sys", options + "options /proc; options /sys", "rw,nosuid,nodev,noexec,relatime\nro,nosuid,nodev,noexec,relatime"},
		{"tmpfs mode and options", options + "stat -c %a /mnt/small; options /mnt/small", "1750\nrw,nosuid,noexec,relatime"},
		{"tmpfs size", "dd if=/dev/zero of=/mnt/small/x bs=64k count=32 2>/dev/null; stat -c %s /mnt/small/x", "1048576"},
		{"tmpfs noexec", "rm -f /mnt/small/x; echo '#!/bin/sh' >/mnt/small/x; chmod +x /mnt/small/x; /mnt/small/x", "sh: /mnt/small/x: Permission denied"},
		{"read-only tmpfs", "touch /mnt/ro/x", "touch: /mnt/ro/x: Read-only file system"},
		{"size of /dev/shm", "df -k /dev/shm | awk 'NR == 2 { print $2 }'; stat -c %a /dev/shm", "65536\n1777"},
		{"a terminal can be made", "test -c /dev/pts/ptmx && script=1; ls -l /dev/ptmx | sed 's/.*-> //'", "pts/ptmx"},
		{"cgroup", "test -e /sys/fs/cgroup/cgroup.procs -o -e /sys/fs/cgroup/pids/cgroup.procs && echo there; awk '$3 ~ /^cgroup/ && $4 !~ /^ro,/' /proc/mounts", "there"},
		{"propagation", "awk '$5 == \"/mnt/slave\" { print $5, ($7 ~ /^shared/) }' /proc/self/mountinfo", "/mnt/slave 0"},
	})
}

// What of a mount is the business of the root file system, and shows there or in the container.
func TestMountPoints(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle()
	for name, mode := range map[string]os.FileMode{"few": 0o710, "all": 0o777 | os.ModeSetuid | os.ModeSetgid | os.ModeSticky, "shared": 0o755 | os.ModeSetgid} {
		dir := filepath.Join(b.Rootfs, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("n", 255)
	for _, dir := range []string{"src/base", "src/" + long, "src/deep/x"} {
		h.WriteFile(dir+"/file", dir, 0o644)
	}
	tmpfs := func(place string, options ...string) {
		b.AddMount(specs.Mount{Destination: place, Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	tmpfs("/few")
	tmpfs("/all", "nosuid")
	tmpfs("/made/for/it")
	tmpfs("/shared/x/y")
	b.Bind(h.Path("src/base"), "/bound/dir")
	b.Bind(h.Path("src/base/file"), "/bound-file")
	b.Bind(h.Path("src/"+long), "/long")
	b.Bind(h.Path("src/deep"), "/deep")
	b.Bind(filepath.Join(b.Rootfs, "deep/x"), filepath.Join(b.Rootfs, "again"), "rbind") // what the mount before has made
	b.AddLinuxResourcesDevice(false, "c", nil, nil, "rwa")
	for _, dir := range []string{"again", "deep"} {
		if err := os.Mkdir(filepath.Join(b.Rootfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const base = `base() { awk -v p="$1" '$5 == p { sub(".*/", "", $4); print $4 }' /proc/self/mountinfo; }
`
	ask(t, h, b, []probe{
		{"tmpfs takes the mode below it", "stat -c %a /few /all", "710\n7777"},
		{"tmpfs on nothing", "stat -c %a /made/for/it", "1777"},
		{"root of a directory", base + "base /bound/dir", "base"},
		{"root of a file", base + "base /bound-file", "file"},
		{"root of a long name", base + "base /long; cat /long/file", long + "\nsrc/" + long},
		{"source in the root file system", "cat /again/file", "src/deep/x"},
	})
	for name, want := range map[string]os.FileMode{
		"made": 0o755, "made/for": 0o755, "made/for/it": 0o755, "bound": 0o755, "bound/dir": 0o755,
		"shared/x": 0o755 | os.ModeSetgid, "shared/x/y": 0o755 | os.ModeSetgid,
	} {
		info, err := os.Stat(filepath.Join(b.Rootfs, name))
		if err != nil {
			t.Error(err)
		} else if got := info.Mode(); got != want|os.ModeDir {
			t.Errorf("mode of the mount point %s: %v, want %v", name, got, want)
		}
	}
}

func TestProcOnLink(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	for _, dir := range []string{"proc", "sys"} {
		b := h.Bundle("true")
		if err := os.Remove(filepath.Join(b.Rootfs, dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/tmp", filepath.Join(b.Rootfs, dir)); err != nil {
			t.Fatal(err)
		}
		b.Write()
		if r := h.Run("run", "--bundle", b.Dir, h.ID()); r.Code == 0 || !strings.Contains(r.Stderr, "must be mounted on ordinary directory") {
			t.Errorf("/%s is a link: %v", dir, r)
		}
	}
}

// Links in the rootfs lead nowhere outside of it.
func TestLinksInRootfs(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	canary := h.Path("canary")
	h.WriteFile("canary/file", "untouched", 0o644)
	h.WriteFile("src/file", "source", 0o644)
	b := h.Bundle()
	for link, target := range map[string]string{
		"abs": canary, "rel": "../../../../../../../../../.." + canary, "var/lib/loop": "../../../../../../../../.." + canary,
	} {
		if err := os.Symlink(target, filepath.Join(b.Rootfs, link)); err != nil {
			t.Fatal(err)
		}
	}
	// The links' targets exist inside too: the guest's crun makes nothing below a link that leads nowhere.
	if err := os.MkdirAll(filepath.Join(b.Rootfs, canary), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"sys", "proc"} { // mount points are made
		if err := os.Remove(filepath.Join(b.Rootfs, dir)); err != nil {
			t.Fatal(err)
		}
	}
	b.Bind(h.Path("src"), "/abs/made")
	b.Bind(h.Path("src/file"), "/rel/file-made")
	b.AddMount(specs.Mount{Destination: "/var/lib/loop/tmpfs", Type: "tmpfs", Source: "tmpfs"})
	b.Bind(h.Path("src"), "/../../../../../.."+canary+"-2")
	ask(t, h, b, []probe{
		{"the mounts are inside", "cat /abs/made/file /rel/file-made " + canary + "-2/file", "sourcesourcesource"},
		{"the working directory", "pwd", "/"},
	})
	wantUntouched(t, h, canary)
	if _, err := os.Lstat(canary + "-2"); err == nil {
		t.Error("a mount point was made on the host")
	}
}

// Nor do they where the runtime itself works in the rootfs. A container may be refused, but nothing outside is touched.
func TestOursSystemDirectoryIsLink(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"dev", "proc", "sys", "etc", "tmp"} {
		t.Run(dir, func(t *testing.T) {
			h := harness.New(t)
			h.WriteFile("canary/file", "untouched", 0o644)
			b := h.Bundle("true")
			if err := os.RemoveAll(filepath.Join(b.Rootfs, dir)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(h.Path("canary"), filepath.Join(b.Rootfs, dir)); err != nil {
				t.Fatal(err)
			}
			b.SetProcessCwd("/tmp/made/for/it")
			b.Write()
			r := h.Run("run", "--bundle", b.Dir, h.ID())
			t.Log(r)
			wantUntouched(t, h, h.Path("canary"))
		})
	}
}

// wantUntouched checks a directory that holds one file.
func wantUntouched(t *testing.T, h *harness.Host, canary string) {
	t.Helper()
	entries, err := os.ReadDir(canary)
	if err != nil || len(entries) != 1 || h.ReadFile(filepath.Join(canary, "file")) != "untouched" {
		t.Errorf("the canary: %v, %v", entries, err)
	}
}
