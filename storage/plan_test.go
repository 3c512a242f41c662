package storage

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// host is what inspect finds in the tests of NewPlan.
var host = map[string]Source{
	"/data":              {Kind: unix.S_IFDIR, FSType: "ext4"},
	"/etc/hosts":         {Kind: unix.S_IFREG, FSType: "ext4"},
	"/run/docker.sock":   {Kind: unix.S_IFSOCK, FSType: "tmpfs"},
	"/b/relative":        {Kind: unix.S_IFDIR},
	"/b/rootfs2":         {Kind: unix.S_IFDIR},
	"/":                  {Kind: unix.S_IFDIR, FSType: "ext4"},
	odd:                  {Kind: unix.S_IFDIR},
	"/dev/null":          {Kind: unix.S_IFCHR, Rdev: unix.Mkdev(1, 3), FSType: "devtmpfs"},
	"/dev/sda":           {Kind: unix.S_IFBLK, Rdev: unix.Mkdev(8, 0), FSType: "devtmpfs"},
	"/dev/mem":           {Kind: unix.S_IFCHR, Rdev: unix.Mkdev(1, 1), FSType: "devtmpfs"},
	"/dev":               {Kind: unix.S_IFDIR, FSType: "devtmpfs"},
	"/proc":              {Kind: unix.S_IFDIR, FSType: "proc"},
	"/proc/sysrq":        {Kind: unix.S_IFREG, FSType: "proc"},
	"/sys":               {Kind: unix.S_IFDIR, FSType: "sysfs"},
	"/sys/fs/cgroup":     {Kind: unix.S_IFDIR, FSType: "tmpfs"},
	"/sys/fs/cgroup/cpu": {Kind: unix.S_IFDIR, FSType: "cgroup"},
	"/dev/mqueue":        {Kind: unix.S_IFDIR, FSType: "mqueue"},
	"/var/shm":           {Kind: unix.S_IFDIR, FSType: "tmpfs", Size: 64 << 20},
	"/run/secrets":       {Kind: unix.S_IFDIR, FSType: "tmpfs", Size: 1 << 20},
}

// odd is a name as long as one can be, of odd characters.
var odd = "/o/" + strings.Repeat("\n ,=", 63) + "..."

func fakeInspect(path string) (Source, error) {
	s, ok := host[filepath.Clean(path)]
	if !ok {
		return s, &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	return s, nil
}

func mnt(source, destination, kind string, options ...string) specs.Mount {
	return specs.Mount{Source: source, Destination: destination, Type: kind, Options: options}
}

func TestPlanMount(t *testing.T) {
	dir := func(source string) *Bind {
		return &Bind{Source: source, Target: "c1/0/" + filepath.Base(source), Dir: true}
	}
	tests := []struct {
		name  string
		in    specs.Mount
		guest specs.Mount
		bind  *Bind
	}{
		{"directory", mnt("/data", "/d", "bind", "rbind", "rprivate"),
			mnt("/run/share/c1/0/data", "/d", "bind", "rbind", "rprivate"), &Bind{Source: "/data", Target: "c1/0/data", Dir: true, Recursive: true}},
		{"file read-only", mnt("/etc/hosts", "/etc/hosts", "bind", "bind", "ro"),
			mnt("/run/share/c1/0/hosts", "/etc/hosts", "bind", "bind", "ro"), &Bind{Source: "/etc/hosts", Target: "c1/0/hosts", ReadOnly: true}},
		{"recursive options", mnt("/data", "/d", "bind", "rbind", "rro", "rnosuid"),
			mnt("/run/share/c1/0/data", "/d", "bind", "rbind", "ro", "nosuid"), &Bind{Source: "/data", Target: "c1/0/data", Dir: true, Recursive: true, ReadOnly: true}},
		{"last of ro and rw wins", mnt("/data", "/d", "bind", "bind", "ro", "rw"),
			mnt("/run/share/c1/0/data", "/d", "bind", "bind", "ro", "rw"), dir("/data")},
		{"type without option", mnt("/data", "/d", "bind"), mnt("/run/share/c1/0/data", "/d", "bind", "bind"), dir("/data")},
		{"option without type", mnt("/data", "/d", "none", "bind"), mnt("/run/share/c1/0/data", "/d", "bind", "bind"), dir("/data")},
		{"relative source", mnt("relative", "/d", "bind", "bind"), mnt("/run/share/c1/0/relative", "/d", "bind", "bind"), dir("/b/relative")},
		{"SELinux label", mnt("/data", "/d", "bind", "bind", `context="system_u:object_r:x"`),
			mnt("/run/share/c1/0/data", "/d", "bind", "bind"), dir("/data")},
		{"socket", mnt("/run/docker.sock", "/s", "bind", "bind"),
			mnt("/run/share/c1/0/docker.sock", "/s", "bind", "bind"), &Bind{Source: "/run/docker.sock", Target: "c1/0/docker.sock"}},
		{"tmpfs directory", mnt("/run/secrets", "/secret", "bind", "bind"), mnt("/run/share/c1/0/secrets", "/secret", "bind", "bind"), dir("/run/secrets")},
		{"everything", mnt("/", "/host", "bind", "rbind"), mnt("/run/share/c1/0/root", "/host", "bind", "rbind"),
			&Bind{Source: "/", Target: "c1/0/root", Dir: true, Recursive: true}},
		{"odd name", mnt(odd, "/d", "bind", "bind"), mnt("/run/share/c1/0/"+odd[3:], "/d", "bind", "bind"), dir(odd)},
		{"dots in the source", mnt("/data/../data/.", "/d", "bind", "bind"),
			mnt("/run/share/c1/0/data", "/d", "bind", "bind"), &Bind{Source: "/data/../data/.", Target: "c1/0/data", Dir: true}},
		{"source in the root", mnt("/b/rootfs/x", "/d", "bind", "rbind", "rro"), mnt("/run/share/c1/rootfs/x", "/d", "bind", "rbind", "ro"), nil},
		{"source is the root", mnt("rootfs", "/d", "bind", "bind"), mnt("/run/share/c1/rootfs", "/d", "bind", "bind"), nil},
		{"source beside the root", mnt("/b/rootfs2", "/d", "bind", "bind"), mnt("/run/share/c1/0/rootfs2", "/d", "bind", "bind"), dir("/b/rootfs2")},
		{"source out of the root", mnt("/b/rootfs/../../data", "/d", "bind", "bind"), mnt("/run/share/c1/0/data", "/d", "bind", "bind"),
			&Bind{Source: "/b/rootfs/../../data", Target: "c1/0/data", Dir: true}},
		{"null device", mnt("/dev/null", "/x", "bind", "bind"), mnt("/dev/null", "/x", "bind", "bind"), nil},
		{"proc of the host", mnt("/proc", "/proc", "bind", "rbind", "nosuid"), mnt("proc", "/proc", "proc", "nosuid"), nil},
		{"sys of the host", mnt("/sys", "/sys/", "bind", "rbind", "rro"), mnt("sysfs", "/sys/", "sysfs", "ro"), nil},
		{"cgroup v1 of the host", mnt("/sys/fs/cgroup", "/sys/fs/cgroup", "bind", "rbind", "ro"), mnt("cgroup", "/sys/fs/cgroup", "cgroup", "ro"), nil},
		{"mqueue of the host", mnt("/dev/mqueue", "/dev/mqueue", "bind", "bind"), mnt("mqueue", "/dev/mqueue", "mqueue"), nil},
		{"proc", mnt("proc", "/proc", "proc"), mnt("proc", "/proc", "proc"), nil},
		{"tmpfs", mnt("tmpfs", "/t", "tmpfs", "size=1m", "tmpcopyup", "context=x"), mnt("tmpfs", "/t", "tmpfs", "size=1m", "tmpcopyup"), nil},
		{"cgroup", mnt("cgroup", "/sys/fs/cgroup", "cgroup", "ro"), mnt("cgroup", "/sys/fs/cgroup", "cgroup", "ro"), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			plan, err := NewPlan("c1", "/b", "/b/rootfs", []specs.Mount{test.in}, fakeInspect)
			if err != nil {
				t.Fatal(err)
			}
			if got := plan.Mounts[0]; !sameMount(got, test.guest) {
				t.Errorf("guest mounts %+v, want %+v", got, test.guest)
			}
			want := []Bind{{Source: "/b/rootfs", Target: "c1/rootfs", Place: "/", Dir: true, Recursive: true}}
			if test.bind != nil {
				test.bind.Place = test.in.Destination
				want = append(want, *test.bind)
			}
			if !reflect.DeepEqual(plan.Binds, want) {
				t.Errorf("binds %+v, want %+v", plan.Binds, want)
			}
		})
	}
}

func sameMount(a, b specs.Mount) bool {
	return a.Source == b.Source && a.Destination == b.Destination && a.Type == b.Type &&
		strings.Join(a.Options, ",") == strings.Join(b.Options, ",")
}

func TestPlanRefuses(t *testing.T) {
	tests := []struct {
		in   specs.Mount
		want string
	}{
		{mnt("/gone", "/d", "bind", "bind"), "mount /gone to /d: open /gone: no such file or directory"},
		{mnt("/dev/sda", "/d", "bind", "bind"), "mount /dev/sda to /d: device 8:0: a device of the host cannot be shared with a VM"},
		{mnt("/dev/mem", "/d", "bind", "bind"), "device 1:1"},
		{mnt("/dev", "/dev", "bind", "rbind"), "devtmpfs file system: this belongs to the host's kernel"},
		{mnt("/proc", "/host/proc", "bind", "rbind"), "proc file system: this belongs to the host's kernel"},
		{mnt("/proc/sysrq", "/x", "bind", "bind"), "proc file system"},
		{mnt("/sys/fs/cgroup/cpu", "/cpu", "bind", "bind"), "cgroup file system"},
		{mnt("/dev/sda1", "/d", "ext4"), `mount /d: file system type "ext4" is not supported`},
		{mnt("overlay", "/d", "overlay", "lowerdir=/x"), `file system type "overlay"`},
		{mnt("x", "/d", ""), "mount /d has no type"},
	}
	for _, test := range tests {
		_, err := NewPlan("c1", "/b", "/b/rootfs", []specs.Mount{test.in}, fakeInspect)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v, want %s", test.in, err, test.want)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "a\x00"} {
		if _, err := NewPlan(id, "/b", "/r", nil, fakeInspect); err == nil {
			t.Errorf("id %q was taken", id)
		}
	}
}

func TestPlanShm(t *testing.T) {
	in := []specs.Mount{mnt("proc", "/proc", "proc"), mnt("/var/shm", "/dev/shm", "bind", "rprivate", "bind")}
	plan, err := NewPlan("c1", "/b", "/b/rootfs", in, fakeInspect)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Shm == nil || plan.Shm.Size != 64<<20 || filepath.Dir(plan.Shm.Path) != "/run/shm" {
		t.Fatalf("got %+v", plan.Shm)
	}
	if got := plan.Mounts[1]; !sameMount(got, mnt(plan.Shm.Path, "/dev/shm", "bind", "rprivate", "bind")) {
		t.Errorf("guest mounts %+v", got)
	}
	other, err := NewPlan("c2", "/b", "/b/rootfs", in[1:], fakeInspect)
	if err != nil {
		t.Fatal(err)
	}
	if *other.Shm != *plan.Shm {
		t.Errorf("a container with the same /dev/shm got %+v, want %+v", other.Shm, plan.Shm)
	}
}

func TestPlanTargets(t *testing.T) {
	plan, err := NewPlan("c1", "/b", "/b/rootfs", []specs.Mount{
		mnt("/data", "/1", "bind", "bind"), mnt("tmpfs", "/2", "tmpfs"), mnt("/data", "/3", "bind", "bind"),
	}, fakeInspect)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Binds) != 3 || plan.Binds[1].Target != "c1/0/data" || plan.Binds[2].Target != "c1/2/data" || plan.Mounts[2].Source != "/run/share/c1/2/data" {
		t.Errorf("got %+v", plan)
	}
	if got := RootPath("c1"); got != "/run/share/c1/rootfs" {
		t.Errorf("root path %s", got)
	}
}

// A destination that has the root's own path is inside, as with runc.
func TestPlanDestinationInRoot(t *testing.T) {
	for in, want := range map[string]string{
		"/b/rootfs/x/y": "/x/y", "/b/rootfs": "/", "/b/rootfs/": "/", "/b/rootfs2": "/b/rootfs2", "/x/b/rootfs": "/x/b/rootfs", "/a//b": "/a//b",
	} {
		plan, err := NewPlan("c1", "/b", "/b/rootfs", []specs.Mount{mnt("tmpfs", in, "tmpfs"), mnt("/data", in, "bind")}, fakeInspect)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Mounts[0].Destination != want || plan.Mounts[1].Destination != want || plan.Binds[1].Place != want {
			t.Errorf("%s: got %+v, want %s", in, plan, want)
		}
	}
	if place, ok := within("/", "/x"); ok {
		t.Errorf("of a root that is the host's: %s", place)
	}
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/status", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path, fsType string
		kind         uint32
	}{
		{dir, "", unix.S_IFDIR},
		{fifo, "", unix.S_IFIFO},
		{filepath.Join(dir, "link"), "proc", unix.S_IFREG},
		{"/proc", "proc", unix.S_IFDIR},
		{"/sys", "sysfs", unix.S_IFDIR},
		{"/dev/null", "", unix.S_IFCHR},
	}
	for _, test := range tests {
		got, err := Inspect(test.path)
		if err != nil {
			t.Error(err)
			continue
		}
		if got.Kind != test.kind || test.fsType != "" && got.FSType != test.fsType {
			t.Errorf("%s: got %+v", test.path, got)
		}
	}
	if null, err := Inspect("/dev/null"); err != nil || null.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("/dev/null: %+v, %v", null, err)
	}
}

func TestParseMounts(t *testing.T) {
	list, err := parseMounts("22 1 0:21 / / rw,relatime - ext4 /dev/vda rw\n" +
		"23 22 0:22 / /a\\040b\\134c rw,relatime shared:1 master:2 - fuse.lxcfs x rw\n" +
		"30 23 0:9 /sub /a\\040b\\134c/d ro - proc proc rw\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []mount{{22, 1, "/", "ext4"}, {23, 22, `/a b\c`, "fuse.lxcfs"}, {30, 23, `/a b\c/d`, "proc"}}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("got %+v, want %+v", list, want)
	}
	if got := below(list, 22); !reflect.DeepEqual(got, want[1:]) {
		t.Errorf("below 22: %+v", got)
	}
	if _, err := parseMounts("garbage\n"); err == nil {
		t.Error("garbage was taken")
	}
}
