package resource

import (
	"strings"
	"testing"
)

const (
	mountsV1 = `23 1 0:1 / / rw - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,clone_children
35 31 0:32 /jail /sys/fs/cgroup/mem\040ory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 /jail /mnt/again rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	ownV1  = "5:name=systemd:/user.slice\n4:memory:/jail/in\n3:cpuset:/\n1:cpu,cpuacct:/a/b\n0::/x\n"
	initV1 = "5:name=systemd:/init.scope\n4:memory:/\n3:cpuset:/\n1:cpu,cpuacct:/init.scope\n0::/init.scope\n"

	mountsV2 = `23 1 0:1 / / rw - ext4 /dev/vda rw
30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
`
	// Found on v2 hosts where someone mounted a named hierarchy for an old container.
	mountsV2Stray = mountsV2 + "50 30 0:50 / /mnt/systemd rw - cgroup cgroup rw,name=systemd\n"
	ownV2         = "0::/user.slice/session-1.scope\n"
	initV2        = "0::/init.scope\n"
)

func TestPathsAreRuncs(t *testing.T) {
	v1 := parseHierarchies([]byte(mountsV1), []byte(ownV1), []byte(initV1))
	v2 := parseHierarchies([]byte(mountsV2), []byte(ownV2), []byte(initV2))
	stray := parseHierarchies([]byte(mountsV2Stray), []byte("1:name=systemd:/\n"+ownV2), []byte(initV2))
	top := parseHierarchies([]byte(mountsV2), []byte("0::/\n"), []byte(initV2))
	none := parseHierarchies(nil, []byte("0::/\n"), []byte("0::/\n"))
	outside := parseHierarchies([]byte(mountsV2), []byte("0::/../other\n"), []byte(initV2))
	for _, tt := range []struct {
		name    string
		h       hierarchies
		path    string
		systemd bool
		want    string // directories, separated by blanks; or, after "!", part of the error
	}{
		{"v1 absolute", v1, "/docker/x", false,
			"/sys/fs/cgroup/cpu,cpuacct/docker/x /sys/fs/cgroup/cpuset/docker/x /sys/fs/cgroup/mem_ory/docker/x /sys/fs/cgroup/systemd/docker/x"},
		{"v1 relative", v1, "pod/x", false,
			"/sys/fs/cgroup/cpu,cpuacct/a/b/pod/x /sys/fs/cgroup/cpuset/pod/x /sys/fs/cgroup/mem_ory/in/pod/x /sys/fs/cgroup/systemd/user.slice/pod/x"},
		{"v1 empty", v1, "", false,
			"/sys/fs/cgroup/cpu,cpuacct/a/b/id /sys/fs/cgroup/cpuset/id /sys/fs/cgroup/mem_ory/in/id /sys/fs/cgroup/systemd/user.slice/id"},
		{"v1 scope", v1, "", true,
			"/sys/fs/cgroup/cpu,cpuacct/system.slice/hyper-id.scope /sys/fs/cgroup/cpuset/system.slice/hyper-id.scope " +
				"/sys/fs/cgroup/mem_ory/system.slice/hyper-id.scope /sys/fs/cgroup/systemd/system.slice/hyper-id.scope"},
		{"v2 absolute", v2, "/docker/x", false, "/sys/fs/cgroup/docker/x"},
		{"v2 relative", v2, "x", false, "/sys/fs/cgroup/user.slice/x"},
		{"v2 empty", v2, "", false, "/sys/fs/cgroup/user.slice/id"},
		{"v2 empty at the top", top, "", false, "/sys/fs/cgroup/id"},
		{"v2 from another cgroup namespace", outside, "", false, "/sys/fs/cgroup/id"},
		{"v2 with a stray v1 mount", stray, "/x", false, "/sys/fs/cgroup/x"},
		{"no cgroups", none, "/x", false, ""},
		{"systemd's form without systemd", v2, "a.slice:b:c", false, "/sys/fs/cgroup/user.slice/a.slice:b:c"},
		{"out of the top", v2, "/../../etc", false, "/sys/fs/cgroup/etc"},
		{"out of the own", v2, "../../../etc", false, "/sys/fs/cgroup/user.slice/etc"},
		{"dots inside", v2, "/a/../b/./c", false, "/sys/fs/cgroup/b/c"},
		{"the root", v2, "/", false, "!names no cgroup"},
		{"the root by dots", v2, "/a/..", false, "!names no cgroup"},
		{"the own", v2, ".", false, "!names no cgroup"},
		{"scope", v2, "user.slice:docker:x", true, "/sys/fs/cgroup/user.slice/docker-x.scope"},
		{"scope without slice", v2, ":docker:x", true, "/sys/fs/cgroup/system.slice/docker-x.scope"},
		{"scope without prefix", v2, "a-b-c.slice::x", true, "/sys/fs/cgroup/a.slice/a-b.slice/a-b-c.slice/x.scope"},
		{"scope in the root slice", v2, "-.slice:p:x", true, "/sys/fs/cgroup/p-x.scope"},
		{"scope as a path", v2, "/docker/x", true, "!slice:prefix:name"},
		{"scope without name", v2, "a.slice:p:", true, "!names no systemd scope"},
		{"scope with a slash", v2, "a.slice:p:../x", true, "!names no systemd scope"},
		{"slice with a slash", v2, "../a.slice:p:x", true, "!not the name of a systemd slice"},
		{"slice with an empty part", v2, "a--b.slice:p:x", true, "!not the name of a systemd slice"},
		{"no slice", v2, "a:p:x", true, "!not the name of a systemd slice"},
	} {
		made := newCgroup
		if tt.systemd {
			made = newScope
		}
		c, err := made(tt.h, tt.path, "id")
		if want, isError := strings.CutPrefix(tt.want, "!"); isError {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %s", tt.name, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, d := range c.Directories {
			got = append(got, strings.ReplaceAll(d.Path, " ", "_"))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, strings.Join(got, " "), tt.want)
		}
	}
}

func TestControllersAreFound(t *testing.T) {
	h := parseHierarchies([]byte(mountsV1), []byte(ownV1), []byte(initV1))
	var got []string
	for _, hi := range h.all {
		got = append(got, strings.Join(hi.controllers, "+"))
	}
	if want := "cpu+cpuacct cpuset memory name=systemd"; h.v2 || strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
