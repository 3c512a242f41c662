package storage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Fit does what of the mounts depends on the root file system, as runc does it (libcontainer/rootfs_linux.go): proc and
// sysfs are refused where anything but a directory is; a tmpfs without a mode gets that of the directory below it;
// directories that are missing as mount points are made, with mode 0755. Links stay within the root file system. A
// mount over another one is left to the guest, which alone sees that.
func (p *Plan) Fit() error {
	fd, err := unix.Open(p.Binds[0].Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: p.Binds[0].Source, Err: err}
	}
	root := os.NewFile(uintptr(fd), p.Binds[0].Source)
	defer root.Close()
	for n := range p.Mounts {
		m := &p.Mounts[n]
		if covered(m.Destination, p.Mounts[:n]) {
			continue
		}
		if m.Type == "proc" || m.Type == "sysfs" {
			if err := checkOrdinary(root, *m); err != nil {
				return err
			}
		}
		if m.Type == "tmpfs" {
			inheritMode(root, m)
		}
		if p.onDirectory(*m) {
			makeDirs(root, m.Destination)
		}
	}
	return nil
}

// covered says whether a place lies at or below that of a mount.
func covered(place string, mounts []specs.Mount) bool {
	place = path.Clean("/" + place)
	return slices.ContainsFunc(mounts, func(m specs.Mount) bool {
		over := path.Clean("/" + m.Destination)
		return place == over || over == "/" || strings.HasPrefix(place, over+"/")
	})
}

// onDirectory says whether a mount is known to need a directory as its mount point.
func (p *Plan) onDirectory(m specs.Mount) bool {
	return m.Type != "bind" || slices.ContainsFunc(p.Binds, func(b Bind) bool { return b.Dir && b.guestPath() == m.Source })
}

// checkOrdinary refuses a link, or whatever else the image has where a view of the kernel belongs.
func checkOrdinary(root *os.File, m specs.Mount) error {
	dir, name := path.Split(path.Clean("/" + m.Destination))
	parent, err := openIn(root, dir)
	if errors.Is(err, unix.ENOENT) || name == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Destination, err)
	}
	defer parent.Close()
	var st unix.Stat_t
	err = unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("mount %s: filesystem %q must be mounted on ordinary directory", m.Destination, m.Type)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount %s: %w", m.Destination, err)
	}
	return nil
}

// inheritMode adds the mode of the directory at a mount's place to its options, if they have none and it is there.
func inheritMode(root *os.File, m *specs.Mount) {
	if slices.ContainsFunc(m.Options, func(option string) bool { return strings.HasPrefix(option, "mode=") }) {
		return
	}
	dir, err := openIn(root, m.Destination)
	if err != nil {
		return
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		m.Options = append(slices.Clip(m.Options), fmt.Sprintf("mode=%04o", st.Mode&0o7777))
	}
}

// makeDirs makes the directories on the way to a place that are missing. What cannot be made here is left to the guest,
// which says why it cannot either.
func makeDirs(root *os.File, place string) {
	dir := "/"
	for name := range strings.SplitSeq(strings.Trim(path.Clean("/"+place), "/"), "/") {
		parent := dir
		dir = path.Join(dir, name)
		made, err := openIn(root, dir)
		if err == nil {
			made.Close()
			continue
		}
		if !errors.Is(err, unix.ENOENT) || makeDir(root, parent, name) != nil {
			return
		}
	}
}

// makeDir makes one directory, whatever the umask. One that is there by now, because another container has the same
// root file system, is no error.
func makeDir(root *os.File, parent, name string) error {
	above, err := openIn(root, parent)
	if err != nil {
		return err
	}
	defer above.Close()
	err = unix.Mkdirat(int(above.Fd()), name, 0o755)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(int(above.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return unix.Fchmod(fd, st.Mode&0o7000|0o755) // the group bit is the parent's gift
}

// openIn finds a place in a root file system, O_PATH. Links on the way, which may be the guest's, stay within the root.
func openIn(root *os.File, place string) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), place, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: place, Err: err}
	}
	return os.NewFile(uintptr(fd), place), nil
}
