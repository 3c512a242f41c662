package storage

import (
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// View is what of a container's file system is the host's: its root file system and its bind mounts.
type View struct {
	CID      string
	Bundle   string // directory
	Root     string // the root file system, an absolute path
	ReadOnly bool   // the root file system is
	Mounts   []specs.Mount
}

// Enter makes the view all that the calling thread sees: the root file system is its /, with the bind mounts in their
// places. The thread has a mount namespace of its own then. It must be locked (runtime.LockOSThread) and never do for
// other goroutines again what names a file. /proc shows
// the thread's PID namespace. What only the guest has is missing: tmpfs, devices.
func (v View) Enter() error {
	if err := v.enter(); err != nil {
		return fmt.Errorf("show the container's files: %w", err)
	}
	return nil
}

func (v View) enter() error {
	plan, err := NewPlan(v.CID, v.Bundle, v.Root, v.Mounts, Inspect)
	if err != nil {
		return err
	}
	plan.Binds[0].ReadOnly = v.ReadOnly
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	sources, err := OpenSources(plan.Binds)
	if err != nil {
		return err
	}
	defer sources.Close()
	root := sources[0].tree
	if err := mountOver(root, v.Root); err != nil {
		return err
	}
	for _, b := range sources[1:] {
		if err := putIn(root, b.tree, b.Place, b.Dir); err != nil {
			return fmt.Errorf("mount %s: %w", b.Source, err)
		}
	}
	if err := v.putProc(root); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return err
	}
	// The old root comes to lie over the new one, and is taken away from there (pivot_root(2), "pivot_root(".", ".")").
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return unix.Chdir("/")
}

func mountOver(tree *os.File, path string) error {
	point, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer point.Close()
	return moveMount(tree, point, "")
}

// putProc mounts the process file system of the thread's own PID namespace where the container has one.
func (v View) putProc(root *os.File) error {
	for _, m := range v.Mounts {
		if m.Type != "proc" {
			continue
		}
		fd, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return err
		}
		proc := os.NewFile(uintptr(fd), "proc")
		defer proc.Close()
		if err := unix.FsconfigCreate(fd); err != nil {
			return err
		}
		if fd, err = unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
		tree := os.NewFile(uintptr(fd), "proc")
		defer tree.Close()
		if err := putIn(root, tree, m.Destination, true); err != nil {
			return err
		}
	}
	return nil
}

// putIn mounts a tree at its place in the root. Links on the way, which may be the guest's, stay within the root. A place
// that is not there, or not of the right kind, stays without.
func putIn(root, tree *os.File, place string, dir bool) error {
	point, err := openIn(root, place)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer point.Close()
	info, err := point.Stat()
	if err != nil || info.IsDir() != dir {
		return err
	}
	return moveMount(tree, point, "")
}
