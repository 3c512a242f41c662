package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// bind mounts from onto to until the test's end, whatever is left of it then.
func bind(t *testing.T, from, to string) {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(to, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
}

// TestRemoveStaysInside is attack 7: neither links nor mounts lead Remove out.
func TestRemoveStaysInside(t *testing.T) {
	s := open(t)
	d := create(t, s, "c")
	host := t.TempDir()
	canary := filepath.Join(host, "canary", "file")
	share := d.Path(Share)
	if err := errors.Join(
		os.Mkdir(filepath.Dir(canary), 0o700),
		os.WriteFile(canary, []byte("sings"), 0o600),
		os.MkdirAll(filepath.Join(share, "c", "rootfs"), 0o700),
		os.MkdirAll(filepath.Join(share, "full", "of", "things"), 0o700),
		os.WriteFile(filepath.Join(share, "c", "1"), nil, 0o600),
		os.WriteFile(filepath.Join(share, "full", "of", "it"), nil, 0o000),
		os.Symlink(host, filepath.Join(share, "c", "link")),
		os.Symlink(host, filepath.Join(share, "full", "link")),
		os.Symlink("..", filepath.Join(share, "full", "of", "up")),
		unix.Mkfifo(filepath.Join(share, "full", "fifo"), 0o600),
		os.Mkdir(filepath.Join(share, ".removed-1"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	bind(t, host, filepath.Join(share, "c", "rootfs"))
	bind(t, filepath.Dir(canary), filepath.Join(share, "c", "rootfs"))
	bind(t, canary, filepath.Join(share, "c", "1"))
	bind(t, host, filepath.Join(share, "full", "of", "things"))
	bind(t, host, filepath.Join(share, ".removed-1"))
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(d.Path("")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if text, err := os.ReadFile(canary); err != nil || string(text) != "sings" {
		t.Errorf("canary: %s, %v", text, err)
	}
	if err := s.Remove("c"); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestRemoveOfAMountedContainer(t *testing.T) {
	s := open(t)
	d := create(t, s, "c")
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "canary"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bind(t, host, d.Path(""))
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(host, "canary")); err != nil {
		t.Error(err)
	}
}

// TestRemoveOfADeepAndWideTree: a guest can nest directories as deep as it likes.
func TestRemoveOfADeepAndWideTree(t *testing.T) {
	d := create(t, open(t), "c")
	if err := os.MkdirAll(d.Path(Share), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		if err := os.WriteFile(d.Path(fmt.Sprintf("%s/%d", Share, i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// 2000 levels are more than a path and more than the usual limit of descriptors hold.
	at, err := unix.Open(d.Path(Share), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		if err := unix.Mkdirat(at, "deep", 0o700); err != nil {
			t.Fatal(err)
		}
		below, err := unix.Openat(at, "deep", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = below
	}
	unix.Close(at)
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(d.Path("")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}
