package storage

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// fit plans mounts for the bundle in dir, and fits them to its root file system.
func fit(dir string, mounts ...specs.Mount) (*Plan, error) {
	plan, err := NewPlan("c1", dir, filepath.Join(dir, "rootfs"), mounts, Inspect)
	if err != nil {
		return nil, err
	}
	return plan, plan.Fit()
}

func TestFitModeOfTmpfs(t *testing.T) {
	dir := bundle(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, mode := range map[string]fs.FileMode{"rootfs/all": 0o777 | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky, "rootfs/few": 0o710, "secret": 0o700} {
		must(t, os.Mkdir(at(name), 0o755))
		must(t, os.Chmod(at(name), mode))
	}
	must(t, os.Symlink("/few", at("rootfs/link")))
	must(t, os.Symlink(at("secret"), at("rootfs/out")))
	tests := []struct {
		in   specs.Mount
		want string
	}{
		{mnt("tmpfs", "/all", "tmpfs", "nosuid"), "nosuid,mode=7777"},
		{mnt("tmpfs", "/few/", "tmpfs"), "mode=0710"},
		{mnt("tmpfs", "/few", "tmpfs", "mode=0444"), "mode=0444"},
		{mnt("tmpfs", "/link", "tmpfs"), "mode=0710"},
		{mnt("tmpfs", "/out", "tmpfs"), ""},
		{mnt("tmpfs", "/not/there", "tmpfs"), ""},
		{mnt("tmpfs", "/etc/os", "tmpfs"), ""}, // no directory
		{mnt("ramfs", "/few", "ramfs"), ""},
	}
	for _, test := range tests {
		plan, err := fit(dir, test.in)
		must(t, err)
		if got := strings.Join(plan.Mounts[0].Options, ","); got != test.want {
			t.Errorf("%+v: options %s, want %s", test.in, got, test.want)
		}
	}
	plan, err := fit(dir, mnt("tmpfs", "/few", "tmpfs", "mode=0700"), mnt("tmpfs", "/few/../few", "tmpfs"))
	must(t, err)
	if options := plan.Mounts[1].Options; len(options) != 0 {
		t.Errorf("over another mount: options %q, want none", options)
	}
}

func TestFitOrdinaryDirectory(t *testing.T) {
	for _, kind := range []string{"proc", "sysfs"} {
		dir := bundle(t)
		at := func(name string) string { return filepath.Join(dir, name) }
		must(t, os.Symlink("/etc", at("rootfs/link")))
		must(t, os.Symlink("/gone", at("rootfs/dangling")))
		must(t, os.Symlink("/", at("rootfs/up")))
		for _, place := range []string{"/link", "/dangling/", "/etc/os", "/up/link"} {
			_, err := fit(dir, mnt(kind, place, kind))
			want := "mount " + place + ": filesystem \"" + kind + "\" must be mounted on ordinary directory"
			if err == nil || err.Error() != want {
				t.Errorf("%s: got %v, want %s", place, err, want)
			}
		}
		for _, place := range []string{"/proc", "/made/for/it", "/up/proc"} {
			_, err := fit(dir, mnt(kind, place, kind))
			must(t, err)
		}
		_, err := fit(dir, mnt("data", "/link", "bind")) // the image may link what is no view of the kernel
		must(t, err)
	}
}

func TestFitMakesDirectories(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := bundle(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(at("rootfs/shared"), 0o755))
	must(t, os.Chmod(at("rootfs/shared"), 0o755|fs.ModeSetgid))
	must(t, os.Mkdir(at("rootfs/inside"), 0o700))
	must(t, os.Mkdir(at("outside"), 0o700))
	for link, target := range map[string]string{
		"in": "/inside", "out": at("outside"), "up": "../../../../../../../../../.." + at("outside"), "dangling": "/nothing",
	} {
		must(t, os.Symlink(target, at("rootfs/"+link)))
	}
	_, err := fit(dir,
		mnt("tmpfs", "/a/b/./c/../d", "tmpfs"),
		mnt("data", "/bound", "bind"),
		mnt("hosts", "/file/hosts", "bind"), // the guest makes files
		mnt("tmpfs", "/shared/x/y", "tmpfs"),
		mnt("tmpfs", "/in/made", "tmpfs"),
		mnt("tmpfs", "/out/made", "tmpfs"),
		mnt("tmpfs", "/up/made", "tmpfs"),
		mnt("tmpfs", "/dangling/made", "tmpfs"),
		mnt("tmpfs", "/etc/os/made", "tmpfs"),
		mnt("tmpfs", "/../../../../../../.."+at("escaped"), "tmpfs"),
		mnt("tmpfs", "/bound/below", "tmpfs"), // lies in another mount
	)
	must(t, err)
	var got []string
	must(t, filepath.WalkDir(at("rootfs"), func(path string, d fs.DirEntry, err error) error {
		if info, err := d.Info(); err == nil && d.IsDir() {
			got = append(got, strings.TrimPrefix(path, at("rootfs"))+" "+info.Mode().String())
		}
		return err
	}))
	for _, want := range []string{
		"/a drwxr-xr-x", "/a/b drwxr-xr-x", "/a/b/d drwxr-xr-x", "/bound drwxr-xr-x", "/inside drwx------", "/inside/made drwxr-xr-x",
		"/shared/x dgrwxr-xr-x", "/shared/x/y dgrwxr-xr-x", at("escaped") + " drwxr-xr-x",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("there is no %s", want)
		}
	}
	for _, name := range []string{"rootfs/bound/below", "rootfs/file", "rootfs/nothing", "data/below", "outside/made", "escaped"} {
		if _, err := os.Lstat(at(name)); !os.IsNotExist(err) {
			t.Errorf("%s was made: %v", name, err)
		}
	}
}

// Containers that have one root file system in common are made at the same time.
func TestFitTogether(t *testing.T) {
	dir := bundle(t)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			_, err := fit(dir, mnt("data", "/a/b/c/d/e/f", "bind"))
			must(t, err)
			if _, err := os.Stat(filepath.Join(dir, "rootfs/a/b/c/d/e/f")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
