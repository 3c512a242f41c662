package sandbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/oci"
)

// FuzzTranslate: what the guest gets for a config.json can be written, and has in it nothing that is the host's.
func FuzzTranslate(f *testing.F) {
	for _, change := range []string{
		`{}`,
		`{"mounts":[{"destination":"/a/../b","type":"bind","source":"../x","options":["rbind","ro","rshared"]},{"destination":"/c","type":"tmpfs"}]}`,
		`{"mounts":[{"destination":"/dev/shm","type":"bind","source":"/x/shm"},{"destination":"/n","source":"/dev/null","options":["bind"]}]}`,
		`{"linux":{"devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229},{"path":"/dev/x","type":"p"}],"cgroupsPath":"/../.."}}`,
		`{"linux":{"namespaces":[{"type":"network","path":"/n"},{"type":"pid","path":"/var/p"},{"type":"cgroup"},{"type":"uts"}],"sysctl":{"net.a":"1"}}}`,
		`{"linux":{"resources":{"memory":{"limit":1,"swap":-1},"cpu":{"burst":0,"idle":1},"pids":{"limit":0},"devices":[{"allow":true}],"unified":{"io.max":"1"}}}}`,
		`{"annotations":{"run.oci.handler":"x","a":"b"},"hooks":{"startContainer":[{"path":"/a"}],"prestart":[{"path":"/b"}]},"root":{"readonly":true}}`,
		`{"process":{"apparmorProfile":"x","selinuxLabel":"y","args":["a"],"cwd":"/"},"linux":{"mountLabel":"z","hugepageLimits":[]}}`,
	} {
		f.Add([]byte(change))
	}
	good, err := os.ReadFile("testdata/translate/minimal.json")
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, change []byte) {
		bundle, err := oci.Decode(dir, good)
		if err != nil {
			t.Fatal(err)
		}
		if json.Unmarshal(change, bundle.Spec) != nil || oci.Check(bundle.Spec) != nil {
			return
		}
		bundle.Spec.Root.Path = "rootfs"
		container, err := testHost("ext4").translate("c1", bundle, nil)
		if err != nil {
			return
		}
		guest := container.spec
		if _, err := json.Marshal(guest); err != nil {
			t.Fatal(err)
		}
		if guest.Root.Path != "/run/share/c1/rootfs" || guest.Linux.CgroupsPath != "/hyper/c1" {
			t.Errorf("root %q, cgroup %q", guest.Root.Path, guest.Linux.CgroupsPath)
		}
		for _, ns := range guest.Linux.Namespaces {
			if ns.Path != "" && (ns.Type != specs.NetworkNamespace || ns.Path != protocol.NetworkNamespace) {
				t.Errorf("namespace %+v", ns)
			}
		}
		for name := range guest.Annotations {
			if strings.HasPrefix(name, "run.oci.") || strings.HasPrefix(name, "module.wasm.") {
				t.Errorf("annotation %q", name)
			}
		}
		for _, bind := range container.binds {
			if bind.Target != filepath.Clean(bind.Target) || !strings.HasPrefix(bind.Target, "c1/") {
				t.Errorf("bind %+v", bind)
			}
		}
	})
}
