package sandbox

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/storage"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testHost answers as a host where every path is a directory, but those whose nature matters to the fixtures.
func testHost(fixed string) facts {
	return facts{
		inspect: func(path string) (storage.Source, error) {
			switch {
			case path == "/sys":
				return storage.Source{Kind: unix.S_IFDIR, FSType: "sysfs"}, nil
			case path == "/dev/null":
				return storage.Source{Kind: unix.S_IFCHR, Rdev: unix.Mkdev(1, 3), FSType: "devtmpfs"}, nil
			case strings.HasSuffix(path, "/shm"):
				return storage.Source{Kind: unix.S_IFDIR, FSType: "tmpfs", Size: 64 << 20}, nil
			case strings.HasPrefix(path, "/var/lib/docker/") || strings.HasSuffix(path, ".containerenv"):
				return storage.Source{Kind: unix.S_IFREG, FSType: fixed}, nil
			}
			return storage.Source{Kind: unix.S_IFDIR, FSType: fixed}, nil
		},
		onHost: func(d specs.LinuxDevice) bool { return d.Minor != 666 },
	}
}

// golden is what a fixture becomes: the guest's configuration and what the host does for it.
type golden struct {
	Spec  guestSpec
	Binds []storage.Bind
	Shm   any
}

func TestTranslateGolden(t *testing.T) {
	fixtures, err := filepath.Glob("testdata/translate/*.json")
	if err != nil || len(fixtures) == 0 {
		t.Fatalf("fixtures: %v, %v", fixtures, err)
	}
	for _, fixture := range fixtures {
		t.Run(filepath.Base(fixture), func(t *testing.T) {
			bundle := load(t, fixture)
			if err := oci.Check(bundle.Spec); err != nil {
				t.Fatal(err)
			}
			container, err := testHost("ext4").translate("3f2a", bundle, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := range container.binds {
				container.binds[i].Source = strings.Replace(container.binds[i].Source, bundle.Path, "/bundle", 1)
			}
			got, err := json.MarshalIndent(golden{container.spec, container.binds, container.shm}, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := strings.TrimSuffix(fixture, ".json") + ".golden"
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs, see -update:\n%s", file, got)
			}
			if before := load(t, fixture); !reflect.DeepEqual(bundle.Spec, before.Spec) {
				t.Error("the host's configuration was changed")
			}
		})
	}
}

// load makes a bundle of a fixture, with a root file system.
func load(t *testing.T, fixture string) *oci.Bundle {
	t.Helper()
	raw, err := os.ReadFile(fixture)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	bundle, err := oci.Decode(dir, raw)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func TestTranslateRefuses(t *testing.T) {
	join := func(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	shm := func(s *specs.Spec) {
		s.Mounts = []specs.Mount{{Destination: "/dev/shm", Source: "/other/shm", Type: "bind"}}
	}
	tests := []struct {
		name   string
		change []func(*specs.Spec)
		want   string // empty: taken
	}{
		{"pid of a container", []func(*specs.Spec){join(specs.PIDNamespace, "/proc/12/ns/pid")},
			"the pid namespace of a process that is not in the same VM cannot be shared: /proc/12/ns/pid"},
		{"pid kept for later", []func(*specs.Spec){join(specs.PIDNamespace, "/proc/12/ns/pid_for_children")}, ""},
		{"ipc of a container", []func(*specs.Spec){join(specs.IPCNamespace, "/proc/12/ns/ipc"), shm},
			"the ipc namespace of a process that is not in the same VM cannot be shared: /proc/12/ns/ipc"},
		{"ipc of a pod", []func(*specs.Spec){join(specs.IPCNamespace, "/run/ipcns/x"), shm}, ""},
		{"ipc without shared memory", []func(*specs.Spec){join(specs.IPCNamespace, "/proc/12/ns/ipc")}, ""},
		{"device", []func(*specs.Spec){func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 8}}
		}}, "device /dev/sda (b 8:0) of the host is not supported"},
		{"mount type", []func(*specs.Spec){func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Type: "nfs", Source: "server:/x"}}
		}}, `file system type "nfs" is not supported`},
		{"root", []func(*specs.Spec){func(s *specs.Spec) { s.Root.Path = "gone" }}, "invalid rootfs: stat "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bundle := load(t, "testdata/translate/minimal.json")
			for _, change := range test.change {
				change(bundle.Spec)
			}
			_, err := testHost("ext4").translate("c1", bundle, nil)
			if test.want == "" && err != nil {
				t.Error(err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// What is one namespace on the host is one in the guest, and whatever else has a path there is a new one.
func TestTranslateJoined(t *testing.T) {
	bundle := load(t, "testdata/translate/minimal.json")
	bundle.Spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.NetworkNamespace, Path: "/run/netns/x"}, {Type: specs.MountNamespace},
		{Type: specs.PIDNamespace, Path: "/proc/12/ns/pid"}, {Type: specs.IPCNamespace, Path: "/run/ipcns/x"},
		{Type: specs.UTSNamespace, Path: "/proc/12/ns/uts"},
	}
	joined := map[specs.LinuxNamespaceType]string{specs.PIDNamespace: "/proc/7/ns/pid", specs.IPCNamespace: "/proc/7/ns/ipc"}
	container, err := testHost("ext4").translate("c1", bundle, joined)
	if err != nil {
		t.Fatal(err)
	}
	got := map[specs.LinuxNamespaceType]string{}
	for _, ns := range container.spec.Linux.Namespaces {
		got[ns.Type] = ns.Path
	}
	for kind, want := range map[specs.LinuxNamespaceType]string{
		specs.PIDNamespace: "/proc/7/ns/pid", specs.IPCNamespace: "/proc/7/ns/ipc", specs.UTSNamespace: "", specs.MountNamespace: "",
	} {
		if path, ok := got[kind]; !ok || path != want {
			t.Errorf("%s namespace: %q, %v, want %q", kind, path, ok, want)
		}
	}
}

// crun takes the letters r, w and m only, and masks a path as often as it is given.
func TestTranslateForCrun(t *testing.T) {
	bundle := load(t, "testdata/translate/minimal.json")
	bundle.Spec.Linux.MaskedPaths = []string{"/b", "/a", "/b", "/a/b", "/a"}
	bundle.Spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Access: "rwm"}, {Access: "rwa", Type: "c"}, {Access: "a", Allow: true}, {Access: "", Type: "b", Allow: true},
	}}
	if err := oci.Check(bundle.Spec); err != nil {
		t.Fatal(err)
	}
	container, err := testHost("ext4").translate("c1", bundle, nil)
	if err != nil {
		t.Fatal(err)
	}
	linux := container.spec.Linux
	if want := []string{"/b", "/a", "/a/b"}; !reflect.DeepEqual(linux.MaskedPaths, want) {
		t.Errorf("masked paths %q, want %q", linux.MaskedPaths, want)
	}
	if want := []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Access: "rw", Type: "c"}, {Access: "rwm", Type: "b", Allow: true}}; !reflect.DeepEqual(linux.Resources.Devices, want) {
		t.Errorf("rules %+v, want %+v", linux.Resources.Devices, want)
	}
}

// Rules that allow nothing but crun's default devices become the ones that the guest has a program for.
func TestGuestLimitsUsualRules(t *testing.T) {
	deny := specs.LinuxDeviceCgroup{Access: "rwm"}
	allow := func(kind string, number ...int64) specs.LinuxDeviceCgroup {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: "rwm"}
		for i := range number {
			*[]**int64{&rule.Major, &rule.Minor}[i] = &number[i]
		}
		return rule
	}
	for name, test := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		usual bool
	}{
		"none":           {nil, true},
		"default":        {[]specs.LinuxDeviceCgroup{deny, allow("c", 1, 3), allow("c", 5, 1)}, true},
		"denied":         {[]specs.LinuxDeviceCgroup{deny, allow("c", 1, 3), {Type: "c", Access: "rwm"}}, true},
		"other device":   {[]specs.LinuxDeviceCgroup{deny, allow("c", 1, 11)}, false},
		"other kind":     {[]specs.LinuxDeviceCgroup{deny, allow("b", 1, 3)}, false},
		"any minor":      {[]specs.LinuxDeviceCgroup{deny, allow("c", 1)}, false},
		"any of a kind":  {[]specs.LinuxDeviceCgroup{deny, allow("c")}, false},
		"all":            {[]specs.LinuxDeviceCgroup{allow("")}, false},
		"wildcard minor": {[]specs.LinuxDeviceCgroup{deny, allow("c", 1, -1)}, false},
	} {
		limits := guestLimits(&specs.LinuxResources{Devices: test.rules})
		if usual := reflect.DeepEqual(limits.Devices, []specs.LinuxDeviceCgroup{deny}); usual != test.usual {
			t.Errorf("%s: %+v", name, limits.Devices)
		}
		text, err := json.Marshal(limits)
		if usual := strings.Contains(string(text), protocol.UsualDevices); err != nil || usual != test.usual {
			t.Errorf("%s: encoded as %s, %v", name, text, err)
		}
	}
}

func TestGuestResourcesUnset(t *testing.T) {
	if guestResources(nil) != nil {
		t.Error("nothing became something")
	}
	// What docker update sends: zeros mean "leave as it is", and would stop everything in a cgroup.
	raw := `{"memory":{"limit":50000000,"reservation":0,"swap":0,"kernel":0},"cpu":{"shares":0,"quota":100000,"period":100000},
		"pids":{"limit":50},"blockIO":{"weight":0}}`
	var host specs.LinuxResources
	if err := json.Unmarshal([]byte(raw), &host); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(guestResources(&host))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"memory":{"limit":50000000},"cpu":{"quota":100000,"period":100000},"pids":{"limit":50}}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
