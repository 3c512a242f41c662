package storage

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inMountNamespace runs f in a thread with a mount namespace of its own, which ends with it.
func inMountNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// must reports an unexpected error. It may be called in any goroutine, unlike t.Fatal.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func wantErrno(t *testing.T, err error, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func wantFile(t *testing.T, path, content string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Errorf("%s: got %q, %v, want %q", path, got, err, content)
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("%s: got %v, %v, want nothing", dir, entries, err)
	}
}

// bundle makes directories and files that a container could have, and returns their directory.
func bundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"share", "rootfs/etc", "rootfs/proc", "data/nested", "data/kernel"} {
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "rootfs/etc/os"), []byte("os"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "hosts"), []byte("hosts"), 0o644))
	return dir
}

func TestShare(t *testing.T) {
	dir, long := bundle(t), strings.Repeat("n", 255)
	at := func(name string) string { return filepath.Join(dir, name) }
	inMountNamespace(t, func() {
		must(t, unix.Mount("nested", at("data/nested"), "tmpfs", 0, ""))
		must(t, os.WriteFile(at("data/nested/deep"), []byte("deep"), 0o644))
		share, err := NewShare(at("share"))
		if err != nil {
			t.Error(err)
			return
		}
		must(t, attach(share, []Bind{
			{Source: at("rootfs"), Target: "c1/rootfs", Dir: true, Recursive: true},
			{Source: at("data"), Target: "c1/0/data", Dir: true, Recursive: true, ReadOnly: true},
			{Source: at("hosts"), Target: "c1/2/ho\nsts"},
			{Source: at("data"), Target: "c1/3/" + long, Dir: true},
		}))
		wantFile(t, at("share/c1/rootfs/etc/os"), "os")
		wantFile(t, at("share/c1/0/data/nested/deep"), "deep")
		wantFile(t, at("share/c1/2/ho\nsts"), "hosts")

		// What the guest may write goes to the host at once.
		must(t, os.WriteFile(at("share/c1/rootfs/new"), []byte("n"), 0o644))
		wantFile(t, at("rootfs/new"), "n")
		must(t, os.WriteFile(at("share/c1/2/ho\nsts"), []byte("changed"), 0o644))
		wantFile(t, at("hosts"), "changed")
		wantErrno(t, os.WriteFile(at("share/c1/0/data/x"), nil, 0o644), unix.EROFS)
		wantErrno(t, os.WriteFile(at("share/c1/0/data/nested/x"), nil, 0o644), unix.EROFS)
		wantEmpty(t, at("share/c1/3/"+long+"/nested")) // not recursive
		must(t, os.WriteFile(at("share/c1/3/"+long+"/x"), nil, 0o644))

		// The layout is not the guest's to change.
		wantErrno(t, os.WriteFile(at("share/x"), nil, 0o644), unix.EROFS)
		wantErrno(t, os.Mkdir(at("share/c1/x"), 0o755), unix.EROFS)
		wantErrno(t, os.Symlink("/etc", at("share/c2")), unix.EROFS)
		if err := os.Rename(at("share/c1"), at("share/c3")); err == nil {
			t.Error("a directory of the layout was renamed")
		}
		wantErrno(t, os.Chmod(at("share/c1"), 0o777), unix.EROFS)

		must(t, share.SetReadOnly("c1"))
		wantErrno(t, os.WriteFile(at("share/c1/rootfs/more"), nil, 0o644), unix.EROFS)
		must(t, os.WriteFile(at("rootfs/host"), nil, 0o644)) // the host still can

		must(t, share.Detach("c1"))
		wantEmpty(t, at("share"))
		wantFile(t, at("rootfs/etc/os"), "os")
		wantFile(t, at("data/nested/deep"), "deep")
		must(t, share.Detach("c1"))
		must(t, attach(share, []Bind{{Source: at("rootfs"), Target: "c1/rootfs", Dir: true, Recursive: true}}))
		wantFile(t, at("share/c1/rootfs/etc/os"), "os")
	})
	wantEmpty(t, at("share")) // all of it ended with the mount namespace
}

func TestShareStripsKernelFS(t *testing.T) {
	dir := bundle(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	inMountNamespace(t, func() {
		must(t, unix.Mount("proc", at("rootfs/proc"), "proc", 0, ""))
		must(t, unix.Mount("nested", at("data/nested"), "tmpfs", 0, ""))
		must(t, os.MkdirAll(at("data/nested/a b/sys"), 0o755))
		must(t, unix.Mount("sysfs", at("data/nested/a b/sys"), "sysfs", 0, ""))
		must(t, unix.Mount("proc", at("data/kernel"), "proc", 0, ""))
		must(t, unix.Mount("proc", at("data/kernel"), "proc", 0, ""))
		share, err := NewShare(at("share"))
		if err != nil {
			t.Error(err)
			return
		}
		must(t, attach(share, []Bind{
			{Source: at("rootfs"), Target: "c1/rootfs", Dir: true, Recursive: true},
			{Source: at("data"), Target: "c1/0/data", Dir: true, Recursive: true},
		}))
		wantEmpty(t, at("share/c1/rootfs/proc"))
		wantEmpty(t, at("share/c1/0/data/kernel"))
		wantEmpty(t, at("share/c1/0/data/nested/a b/sys"))
		if _, err := os.Stat(at("data/kernel/self")); err != nil {
			t.Errorf("the host's own mount is gone: %v", err)
		}
		must(t, share.Detach("c1"))
	})
}

func TestShareDevicesCannotBeOpened(t *testing.T) {
	dir := bundle(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, unix.Mknod(at("rootfs/node"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	inMountNamespace(t, func() {
		share, err := NewShare(at("share"))
		if err != nil {
			t.Error(err)
			return
		}
		must(t, attach(share, []Bind{{Source: at("rootfs"), Target: "c1/rootfs", Dir: true, Recursive: true}}))
		_, err = os.Open(at("share/c1/rootfs/node"))
		wantErrno(t, err, unix.EACCES)
		must(t, unix.Mknod(at("share/c1/rootfs/made"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	})
}

func attach(share *Share, binds []Bind) error {
	sources, err := OpenSources(binds)
	if err != nil {
		return err
	}
	return share.Attach(sources)
}

func TestShareAttachFails(t *testing.T) {
	dir := bundle(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	root := Bind{Source: at("rootfs"), Target: "c1/rootfs", Dir: true, Recursive: true}
	tests := []struct {
		name string
		bind Bind
		want string
	}{
		{"gone", Bind{Source: at("gone"), Target: "c1/0/x", Dir: true}, "no such file or directory"},
		{"became a file", Bind{Source: at("hosts"), Target: "c1/0/x", Dir: true}, "has changed"},
		{"became a directory", Bind{Source: at("data"), Target: "c1/0/x"}, "has changed"},
		{"became a device", Bind{Source: "/dev/zero", Target: "c1/0/x"}, "device 1:5"},
		{"became proc", Bind{Source: "/proc", Target: "c1/0/x", Dir: true}, "proc file system"},
		{"target twice", root, "file exists"},
	}
	inMountNamespace(t, func() {
		share, err := NewShare(at("share"))
		if err != nil {
			t.Error(err)
			return
		}
		for _, test := range tests {
			err := attach(share, []Bind{root, test.bind})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: got %v, want %s", test.name, err, test.want)
			}
			wantEmpty(t, at("share"))
		}
	})
}

func TestShareFollowsNoLink(t *testing.T) {
	dir := bundle(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Symlink(at("data"), at("link")))
	inMountNamespace(t, func() {
		share, err := NewShare(at("share"))
		if err != nil {
			t.Error(err)
			return
		}
		// A link as a source is the engine's wish: it is followed when the bind is made, and never again.
		must(t, attach(share, []Bind{
			{Source: at("rootfs"), Target: "c1/rootfs", Dir: true, Recursive: true},
			{Source: at("link"), Target: "c1/0/x", Dir: true},
		}))
		must(t, os.Remove(at("link")))
		must(t, os.Symlink("/etc", at("link")))
		must(t, os.WriteFile(at("share/c1/0/x/here"), []byte("x"), 0o644))
		wantFile(t, at("data/here"), "x")

		// The guest replaces all that it can by links before the host unmounts.
		must(t, os.RemoveAll(at("share/c1/rootfs/etc")))
		must(t, os.Symlink(at("data"), at("share/c1/rootfs/etc")))
		must(t, share.Detach("c1"))
		wantFile(t, at("data/here"), "x")
		wantEmpty(t, at("share"))
	})
}
