package oci

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// FuzzConfig: a config.json is refused with an error or is one that the rest of the program may rely on. Nobody but an
// engine writes it, yet what is in it may come from a stranger's image or pod.
func FuzzConfig(f *testing.F) {
	const good = `{"ociVersion":"1.0.2","root":{"path":"r"},"process":{"args":["a"],"cwd":"/"},"linux":{"namespaces":[{"type":"network"}]}}`
	for _, change := range []string{
		good,
		`{}`,
		`{"root":null,"mounts":[{}],"hooks":{"prestart":[{"path":"/a","timeout":1}]},"linux":{"resources":null}}`,
		`{"linux":{"namespaces":[{"type":"network"},{"type":"pid","path":"/p"},{"type":"user"}],"uidMappings":[{"size":1}]}}`,
		`{"process":{"user":{"uid":4294967295,"additionalGids":[1]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":1,"soft":1}],"args":null}}`,
		`{"process":{"capabilities":{"bounding":["CAP_KILL"]},"terminal":true,"cwd":"a"},"hostname":"h","domainname":"d"}`,
		`{"mounts":[{"destination":"/a","type":"bind","source":"b","options":["rbind","ro","idmap"]}],"vm":{},"windows":{}}`,
		`{"linux":{"devices":[{"path":"/d","type":"c","major":1,"minor":3}],"seccomp":{"listenerPath":"/x"},"sysctl":{"net.a":"1"}}}`,
	} {
		f.Add([]byte(change))
	}
	f.Fuzz(func(t *testing.T, change []byte) {
		bundle, err := Decode("/bundle", change)
		if err != nil {
			return
		}
		if Check(bundle.Spec) != nil { // what is missing may hide what is wrong
			if bundle, err = Decode("/bundle", []byte(good)); err != nil {
				t.Fatal(err)
			}
			if json.Unmarshal(change, bundle.Spec) != nil {
				return
			}
		}
		if err := Check(bundle.Spec); err != nil {
			return
		}
		spec := bundle.Spec
		if spec.Linux == nil || spec.Root == nil || !strings.HasPrefix(spec.Version, "1.") {
			t.Fatalf("%s came through", change)
		}
		if p := spec.Process; p != nil && (len(p.Args) == 0 || !filepath.IsAbs(p.Cwd)) {
			t.Errorf("process %+v came through", p)
		}
		seen := map[specs.LinuxNamespaceType]bool{}
		for _, ns := range spec.Linux.Namespaces {
			if seen[ns.Type] {
				t.Errorf("two namespaces of type %q came through", ns.Type)
			}
			seen[ns.Type] = true
		}
		if !seen[specs.NetworkNamespace] {
			t.Error("the host's network came through")
		}
		Namespaces(spec)
	})
}
