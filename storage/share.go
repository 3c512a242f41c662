package storage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Share is a host directory that a guest sees. Below it each container has a directory, and in that its root file system
// and its bind mounts.
//
// The directories themselves are a tmpfs that is mounted twice: for the guest read-only, so that no guest can make,
// rename or link anything where the host mounts and unmounts; and writable under it, where only we reach it by an open
// directory. All of it exists only in our mount namespace and ends with that. Needs Linux 5.12 (mount_setattr).
type Share struct {
	dir    string
	layout *os.File // root of the writable mount: shareName and stageName are in it
	guest  *os.File // root of the read-only mount of shareName, at dir
	mu     sync.Mutex
}

const (
	shareName = "share"
	stageName = "stage"
)

// NewShare turns the empty directory dir into a share. The calling process must have a mount namespace of its own, from
// which nothing spreads to the host's. Open dir for the guest only afterwards.
func NewShare(dir string) (*Share, error) {
	if err := unix.Mount("share", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=1m"); err != nil {
		return nil, fmt.Errorf("mount share %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make share %s private: %w", dir, err)
	}
	layout, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s := &Share{dir: dir, layout: layout}
	for _, name := range []string{shareName, stageName} {
		if err := s.mkdir(name); err != nil {
			return nil, err
		}
	}
	tree, err := openTree(layout, shareName, 0)
	if err != nil {
		return nil, fmt.Errorf("share %s: %w", dir, err)
	}
	if err := setAttributes(tree, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC); err != nil {
		return nil, fmt.Errorf("share %s: %w", dir, err)
	}
	if err := moveMount(tree, layout, ""); err != nil {
		return nil, fmt.Errorf("share %s: %w", dir, err)
	}
	s.guest = tree
	return s, nil
}

// openBind is a bind whose source is found: a copy of its mounts that is mounted nowhere yet.
type openBind struct {
	Bind
	tree *os.File
}

// Sources are the open sources of binds. They are for Share.Attach, once.
type Sources []openBind

// OpenSources finds the sources of the binds in the caller's mount namespace, which need not be the share's.
func OpenSources(binds []Bind) (Sources, error) {
	var sources Sources
	for _, b := range binds {
		tree, err := b.open()
		if err != nil {
			sources.Close()
			return nil, fmt.Errorf("share %s: %w", b.Source, err)
		}
		sources = append(sources, openBind{b, tree})
	}
	return sources, nil
}

// Close gives the sources up, if they were not attached.
func (s Sources) Close() {
	for _, b := range s {
		b.tree.Close()
	}
}

// open copies the mounts at the bind's source.
func (b Bind) open() (*os.File, error) {
	source, err := os.OpenFile(b.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	info, err := inspect(source)
	if err != nil {
		return nil, err
	}
	// The plan was made from a look at the same path, which may be another file by now.
	if err := info.shareable(); err != nil {
		return nil, err
	}
	if info.IsDir() != b.Dir {
		return nil, errors.New("has changed while the container was made")
	}
	var flags uint
	if b.Recursive {
		flags = unix.AT_RECURSIVE
	}
	tree, err := openTree(source, "", flags)
	if err != nil {
		return nil, err
	}
	// What lies in the share comes from strangers: whatever QEMU opens there, it is not a device.
	attributes := uint64(unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID)
	if b.ReadOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	if err := setAttributes(tree, attributes); err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// Attach makes the sources appear in the share, and closes them. On error none of them is left.
func (s *Share) Attach(sources Sources) error {
	defer sources.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, b := range sources {
		if err := s.attach(b); err != nil {
			err = fmt.Errorf("share %s: %w", b.Source, err)
			for _, made := range slices.Backward(sources[:i]) {
				err = errors.Join(err, s.detach(made.Target))
			}
			return err
		}
	}
	return nil
}

func (s *Share) attach(b openBind) error {
	if b.Recursive && b.Dir {
		if err := s.strip(b.tree); err != nil {
			return err
		}
	}
	if err := s.place(b.Bind); err != nil {
		return err
	}
	if err := moveMount(b.tree, s.guest, b.Target); err != nil {
		return errors.Join(err, s.detach(b.Target))
	}
	return nil
}

// strip takes the host's kernel file systems off a tree of mounts. That needs the tree to be mounted, so it is, where
// no guest looks.
func (s *Share) strip(tree *os.File) error {
	if err := moveMount(tree, s.layout, stageName); err != nil {
		return err
	}
	mounts, err := readMounts()
	if err != nil {
		return errors.Join(err, unstage(tree))
	}
	id, err := mountID(tree)
	if err != nil {
		return errors.Join(err, unstage(tree))
	}
	top, _ := findMount(mounts, id)
	// Backwards: of two mounts at one place the later hides the earlier.
	for _, m := range slices.Backward(below(mounts, id)) {
		if _, ok := kernelFS[m.fsType]; !ok {
			continue
		}
		if err := takeOff(tree, strings.TrimPrefix(m.point, top.point+"/"), m.id); err != nil {
			return errors.Join(fmt.Errorf("take off %s at %s: %w", m.fsType, m.point, err), unstage(tree))
		}
	}
	return nil
}

// takeOff unmounts the mount with that id at a path in the tree. What is hidden by another mount stays so.
func takeOff(tree *os.File, relative string, id int) error {
	fd, err := unix.Openat2(int(tree.Fd()), relative, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	point := os.NewFile(uintptr(fd), relative)
	defer point.Close()
	if found, err := mountID(point); err != nil || found != id {
		return err
	}
	return unix.Unmount(descriptorPath(point), unix.MNT_DETACH)
}

func unstage(tree *os.File) error {
	return unix.Unmount(descriptorPath(tree), unix.MNT_DETACH)
}

// place makes the directory or the empty file that the bind will be mounted on.
func (s *Share) place(b Bind) error {
	parent := shareName
	for name := range strings.SplitSeq(path.Dir(b.Target), "/") {
		parent = path.Join(parent, name)
		if err := s.mkdir(parent); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	name := path.Join(shareName, b.Target)
	if b.Dir {
		return s.mkdir(name)
	}
	fd, err := unix.Openat(int(s.layout.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "create", Path: b.Target, Err: err}
	}
	return unix.Close(fd)
}

// mkdir makes a directory in the layout that everybody may pass through, whatever the umask.
func (s *Share) mkdir(name string) error {
	fd := int(s.layout.Fd())
	if err := unix.Mkdirat(fd, name, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	if err := unix.Fchmodat(fd, name, 0o755, 0); err != nil {
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	return nil
}

// SetReadOnly makes the root file system of a container read-only for good. It fails while a file in it is open for
// writing. Call it when the guest's runtime has made the mount points that the root file system lacked.
func (s *Share) SetReadOnly(cid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	target := path.Join(cid, rootfs)
	fd, err := unix.Openat(int(s.guest.Fd()), target, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: target, Err: err}
	}
	file := os.NewFile(uintptr(fd), target)
	defer file.Close()
	if err := setAttributes(file, unix.MOUNT_ATTR_RDONLY); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	return nil
}

// Detach takes all that belongs to a container out of the share. A container that the share does not know is no error.
func (s *Share) Detach(cid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.detachBelow(cid)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// detachBelow takes a directory of the layout out of the share. One that holds nothing is what a bind is mounted on, or
// is left from a bind that failed.
func (s *Share) detachBelow(target string) error {
	names, err := s.list(target)
	if errors.Is(err, unix.ENOTDIR) || err == nil && len(names) == 0 {
		return s.detach(target)
	}
	for _, name := range names {
		err = errors.Join(err, s.detachBelow(path.Join(target, name)))
	}
	return err
}

// list names what is in a directory of the layout. The writable mount has nothing mounted on it: it is all ours, not
// the guest's.
func (s *Share) list(target string) ([]string, error) {
	fd, err := unix.Openat(int(s.layout.Fd()), path.Join(shareName, target), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: target, Err: err}
	}
	dir := os.NewFile(uintptr(fd), target)
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// detach unmounts a target and removes what it was mounted on, and the directories above it when that was the last.
func (s *Share) detach(target string) error {
	err := unix.Unmount(filepath.Join(s.dir, target), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: nothing is mounted there
		return &os.PathError{Op: "umount", Path: target, Err: err}
	}
	fd, name := int(s.layout.Fd()), path.Join(shareName, target)
	err = unix.Unlinkat(fd, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: target, Err: err}
	}
	for name = path.Dir(name); name != shareName; name = path.Dir(name) {
		err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
		if errors.Is(err, unix.ENOTEMPTY) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "remove", Path: name, Err: err}
		}
	}
	return nil
}

// openTree copies the mount at name in dir, or dir's own when name is empty, open_tree(2). The copy is mounted nowhere.
func openTree(dir *os.File, name string, flags uint) (*os.File, error) {
	fd, err := unix.OpenTree(int(dir.Fd()), name, flags|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	return os.NewFile(uintptr(fd), path.Join(dir.Name(), name)), nil
}

// setAttributes adds attributes to all mounts of a tree, and cuts it off from mounts made elsewhere, mount_setattr(2).
func setAttributes(tree *os.File, attributes uint64) error {
	err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{
		Attr_set: attributes, Propagation: unix.MS_PRIVATE,
	})
	if err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

// moveMount mounts a tree at name in dir, or over dir itself when name is empty, move_mount(2). It follows no link at
// the end of name.
func moveMount(tree, dir *os.File, name string) error {
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH
	if name == "" {
		flags |= unix.MOVE_MOUNT_T_EMPTY_PATH
	}
	if err := unix.MoveMount(int(tree.Fd()), "", int(dir.Fd()), name, flags); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// descriptorPath names an open file for calls that take only a path.
func descriptorPath(file *os.File) string {
	return fmt.Sprintf("/proc/self/fd/%d", file.Fd())
}
