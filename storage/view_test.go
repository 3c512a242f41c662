package storage

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A thread that has entered a view sees the root file system as /, and the mounts in their places whatever links the
// guest has put on the way.
func TestView(t *testing.T) {
	dir := bundle(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("rootfs/real/inner"), 0o755))
	must(t, os.Symlink("/real", at("rootfs/link")))
	must(t, os.Symlink(at("data"), at("rootfs/out")))
	must(t, os.WriteFile(at("rootfs/etc/hosts"), nil, 0o644))
	must(t, os.WriteFile(at("data/file"), []byte("data"), 0o644))
	inMountNamespace(t, func() {
		view := View{CID: "c1", Bundle: dir, Root: at("rootfs"), Mounts: []specs.Mount{
			mnt("proc", "/proc", "proc"),
			mnt("data", "/link/inner", "bind", "rbind"),
			mnt(at("hosts"), "/etc/hosts", "bind", "bind", "ro"),
			mnt(at("data"), "/out", "bind", "bind"),        // leads out of the root
			mnt(at("data"), "/not/there", "bind", "bind"),  // has no place
			mnt(at("hosts"), "/etc", "bind", "bind", "ro"), // is no directory
		}}
		must(t, view.Enter())
		wantFile(t, "/etc/os", "os")
		wantFile(t, "/real/inner/file", "data")
		wantFile(t, "/etc/hosts", "hosts")
		wantErrno(t, os.WriteFile("/etc/hosts", nil, 0o644), unix.EROFS)
		must(t, os.WriteFile("/real/inner/new", []byte("n"), 0o644))
		wantErrno(t, os.Mkdir("/../../x/y", 0o755), unix.ENOENT)
		if _, err := os.Stat("/proc/self/status"); err != nil {
			t.Error(err)
		}
	})
	wantFile(t, at("data/new"), "n")
	wantErrno(t, os.Remove(at("data/c1")), unix.ENOENT)
}

func TestViewReadOnly(t *testing.T) {
	dir := bundle(t)
	inMountNamespace(t, func() {
		must(t, View{CID: "c1", Bundle: dir, Root: filepath.Join(dir, "rootfs"), ReadOnly: true}.Enter())
		wantErrno(t, os.WriteFile("/x", nil, 0o644), unix.EROFS)
	})
}
