package harness

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-tools/generate"
	"github.com/opencontainers/runtime-tools/validate"
)

// Bundle is an OCI bundle in the making: change Spec, then Write.
type Bundle struct {
	Dir    string
	Rootfs string
	*generate.Generator
	t testing.TB
}

// Bundle makes a bundle with a busybox rootfs, whose process runs args. Its spec is runtime-tools' default.
func (h *Host) Bundle(args ...string) *Bundle {
	h.T.Helper()
	dir, err := os.MkdirTemp(h.Dir, "bundle")
	if err != nil {
		h.T.Fatal(err)
	}
	g, err := generate.New("linux")
	if err != nil {
		h.T.Fatal(err)
	}
	b := &Bundle{Dir: dir, Rootfs: filepath.Join(dir, "rootfs"), Generator: &g, t: h.T}
	g.SetProcessArgs(args)
	g.SetLinuxCgroupsPath("/" + h.Token + "-" + filepath.Base(dir))
	Rootfs(h.T, b.Rootfs)
	return b
}

// Shell is a bundle whose process is a shell script.
func (h *Host) Shell(script string) *Bundle {
	h.T.Helper()
	return h.Bundle("sh", "-c", script)
}

// Sleeper is a bundle whose process does nothing until it is told to end, by TERM or worse.
func (h *Host) Sleeper() *Bundle {
	h.T.Helper()
	return h.Shell("trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
}

// Write checks the spec with runtime-tools' validator and writes config.json.
func (b *Bundle) Write() {
	b.t.Helper()
	v, err := validate.NewValidator(b.Config, b.Dir, true, "linux")
	if err != nil {
		b.t.Fatal(err)
	}
	// All its checks but the JSON schema's, which would be fetched from the network.
	for _, err := range []error{v.CheckPlatform(), v.CheckRoot(), v.CheckMandatoryFields(), v.CheckSemVer(), v.CheckMounts(),
		v.CheckProcess(), v.CheckAnnotations(), v.CheckHooks()} {
		if list, ok := err.(interface{ WrappedErrors() []error }); ok && len(list.WrappedErrors()) == 0 {
			continue // an empty list of errors is no error, though it is not nil
		}
		if err != nil {
			b.t.Fatalf("bundle: %v", err)
		}
	}
	b.WriteUnchecked()
}

// WriteUnchecked writes config.json for a spec that is wrong on purpose.
func (b *Bundle) WriteUnchecked() {
	b.t.Helper()
	if err := b.SaveToFile(b.ConfigPath(), generate.ExportOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// ConfigPath names the bundle's config.json.
func (b *Bundle) ConfigPath() string { return filepath.Join(b.Dir, "config.json") }

// Bind adds a bind mount of a host path.
func (b *Bundle) Bind(source, destination string, options ...string) {
	b.AddMount(specs.Mount{Source: source, Destination: destination, Type: "bind", Options: append([]string{"bind"}, options...)})
}

// applets are the commands of the busybox at hand, asked for once.
var applets = sync.OnceValues(func() ([]string, error) {
	out, err := exec.Command("/bin/busybox", "--list").Output()
	return strings.Fields(string(out)), err
})

// Rootfs makes a root file system of a static busybox in dir: applet links, users, the usual directories.
func Rootfs(t testing.TB, dir string) {
	t.Helper()
	for _, name := range []string{"bin", "dev", "etc", "proc", "root", "sys", "tmp", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n",
		"etc/group":  "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v: the tests need busybox-static", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	names, err := applets()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o1777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
}
