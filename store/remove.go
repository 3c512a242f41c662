package store

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Remove removes whatever has that name in the run directory: a container's directory with all that is in it, damaged or
// not, or a stray file or link. Nothing there is no error. The guest may have written into the share, so nothing
// found is trusted: links are removed, not followed; what is mounted on an entry is detached, not entered; and a tree
// of any depth costs the same few descriptors.
func (s *Store) Remove(id string) error {
	if err := ValidID(id); err != nil {
		return err
	}
	if err := remove(s.root, id); err != nil {
		return fmt.Errorf("remove run directory of %s: %w", id, err)
	}
	return nil
}

// remove removes the entry name of parent. Directories that are full and lie in the entry are first moved up into it,
// until none is deeper than one level: so there is no recursion.
func remove(parent *os.File, name string) error {
	full, err := unlink(parent, name)
	if err != nil || !full {
		return err
	}
	top, err := enter(parent, name)
	if err != nil {
		return err
	}
	defer top.Close()
	moved := 0
	err = eachEntry(top, func(child string) error {
		full, err := unlink(top, child)
		if err != nil || !full {
			return err
		}
		return flatten(top, child, &moved)
	})
	if err != nil {
		return err
	}
	if full, err = unlink(parent, name); err == nil && full {
		err = fmt.Errorf("%s: %w: something was added meanwhile", name, unix.ENOTEMPTY)
	}
	return err
}

// flatten removes the full directory name of top; what is full below it becomes an entry of top.
func flatten(top *os.File, name string, moved *int) error {
	dir, err := enter(top, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = eachEntry(dir, func(child string) error {
		full, err := unlink(dir, child)
		if err != nil || !full {
			return err
		}
		for {
			*moved++
			to := fmt.Sprintf(".removed-%d", *moved)
			err := unix.Renameat2(int(dir.Fd()), child, int(top.Fd()), to, unix.RENAME_NOREPLACE)
			if !errors.Is(err, unix.EEXIST) {
				return named("move", child, err)
			}
		}
	})
	if err != nil {
		return err
	}
	_, err = unlink(top, name)
	return err
}

// unlink removes an entry that is not a directory with entries; for such a one it returns full. What is mounted on
// the entry in our own mount namespace is detached before.
func unlink(dir *os.File, name string) (full bool, err error) {
	for {
		err = unix.Unlinkat(int(dir.Fd()), name, 0)
		if errors.Is(err, unix.EISDIR) {
			err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
		}
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return false, nil
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
			return true, nil
		case !errors.Is(err, unix.EBUSY) || detach(dir, name) != nil:
			return false, named("remove", name, err)
		}
	}
}

// enter opens a directory, and only if that is what the name stands for, in this file system and this mount.
func enter(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, named("open", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// detach takes the uppermost mount off an entry. It fails where nothing is mounted.
func detach(dir *os.File, name string) error {
	return at(dir, name, func(path string) error {
		return unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	})
}

// eachEntry calls f for the entries of dir until there are none: f removes or moves every one it is given. It begins
// anew after each batch, because reading on in a directory that has changed may skip entries.
func eachEntry(dir *os.File, f func(name string) error) error {
	for {
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := dir.Readdirnames(1024)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := f(name); err != nil {
				return err
			}
		}
	}
}

func named(act, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", act, name, err)
}
