package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dir is the run directory of one container. Its methods may be called by several goroutines.
type Dir struct {
	ID    string
	store *Store
	file  *os.File
}

// Close gives up the descriptor. It may be left out: the garbage collector does the same.
func (d *Dir) Close() error { return d.file.Close() }

// Path is the absolute path of a file in the directory, or of the directory itself for "".
func (d *Dir) Path(name string) string { return filepath.Join(d.store.path, d.ID, name) }

// Remove removes the directory with all that is in it. See Store.Remove.
func (d *Dir) Remove() error { return d.store.Remove(d.ID) }

// SaveConfig keeps the text of the config.json that create read.
func (d *Dir) SaveConfig(text []byte) error { return d.save(Config, text) }

// LoadConfig returns what SaveConfig kept, or ErrDamaged.
func (d *Dir) LoadConfig() ([]byte, error) { return d.load(Config) }

// SaveState writes the state whole or not at all. Version and BootID are filled in.
func (d *Dir) SaveState(st State) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	st.Version, st.BootID = stateVersion, boot
	text, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode state of %s: %w", d.ID, err)
	}
	return d.save(StateFile, text)
}

// LoadState returns what SaveState wrote. If the host was booted since, every pid in it is a stranger's: the state comes
// back without processes and as stopped. Whatever else is found in place of a state is ErrDamaged, at once: nothing is
// waited for, no link followed, no more read than a state can have. ErrNotExist: the container was removed meanwhile.
func (d *Dir) LoadState() (State, error) {
	text, err := d.load(StateFile)
	if err != nil {
		return State{}, err
	}
	st, err := decodeState(text)
	if err == nil && st.ID != d.ID {
		err = fmt.Errorf("state is that of %q", st.ID)
	}
	if err != nil {
		return State{}, fmt.Errorf("%w: %s: %w", ErrDamaged, d.Path(StateFile), err)
	}
	boot, err := bootID()
	if err != nil {
		return State{}, err
	}
	if st.BootID != boot {
		st.forgetProcesses()
	}
	return st, nil
}

func (d *Dir) save(name string, data []byte) error {
	if len(data) > maxFile {
		return fmt.Errorf("save %s of %s: %d bytes are too much", name, d.ID, len(data))
	}
	err := at(d.file, name, func(path string) error { return WriteFile(path, data, fileMode) })
	if err != nil {
		return fmt.Errorf("save %s of %s: %w", name, d.ID, err)
	}
	return nil
}

func (d *Dir) load(name string) (data []byte, err error) {
	err = at(d.file, name, func(path string) error {
		data, err = readFile(path)
		return err
	})
	switch {
	case err == nil:
		return data, nil
	case d.removed():
		return nil, ErrNotExist
	case errors.Is(err, errUnfit), errors.Is(err, errForeign), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, d.Path(name), err)
	}
	// No descriptors or no memory left: that says nothing about the container.
	return nil, fmt.Errorf("load %s of %s: %w", name, d.ID, err)
}

// removed tells whether the directory is gone, though we have it open.
func (d *Dir) removed() bool {
	var st unix.Stat_t
	return unix.Fstat(int(d.file.Fd()), &st) != nil || st.Nlink == 0
}

// readFile reads a regular file of ours of at most maxFile bytes. What the name stands for is looked at before it
// is opened for reading, through a descriptor that cannot be exchanged: opening a FIFO waits, opening a device acts.
func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err // the caller names the file
	}
	handle := os.NewFile(uintptr(fd), path)
	defer handle.Close()
	info, err := handle.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", errUnfit)
	}
	if err := ours(handle); err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%w: larger than %d bytes", errUnfit, maxFile)
	}
	return data, err
}

// WriteFile puts a file at path whole or not at all: readers see the old one or the new one. What was there before, a
// link or a FIFO too, is replaced, not written to. perm holds whatever the umask. Nothing is synced to disk: a state
// is about processes of this boot, and its run directory usually a tmpfs.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".hyper-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if chmodErr := f.Chmod(perm); err == nil {
		err = chmodErr
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name()) // what was to be said is said by err
	}
	return err
}

// Lock waits until no other process or goroutine holds the container's lock, and holds it until unlock is called or
// the process ends, however that comes. ErrNotExist: the container was removed meanwhile. Verbs that change a
// container hold it; never while waiting for the guest without a deadline.
func (d *Dir) Lock() (unlock func(), err error) {
	var file *os.File
	err = at(d.file, ".", func(path string) (err error) {
		file, err = os.Open(path)
		return err
	})
	if err == nil {
		err = lock(file)
	}
	if err == nil && d.removed() {
		err = ErrNotExist
	}
	if err == nil {
		return func() { file.Close() }, nil
	}
	if file != nil {
		file.Close()
	}
	return nil, fmt.Errorf("lock %s: %w", d.ID, err)
}

func lock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Listen makes the keeper's socket, mode 0600 whatever the umask. It works for ids and roots of any length, though a
// socket's address holds only 107 bytes: it is given through the directory's descriptor (unix(7)).
func (d *Dir) Listen() (*net.UnixListener, error) {
	var l *net.UnixListener
	err := at(d.file, Socket, func(path string) (err error) {
		if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
			return err
		}
		l.SetUnlinkOnClose(false) // by then the path may mean something else
		return os.Chmod(path, fileMode)
	})
	if err != nil {
		if l != nil {
			l.Close()
		}
		return nil, fmt.Errorf("listen for verbs on %s: %w", d.ID, err)
	}
	return l, nil
}

// Dial connects to the keeper's socket.
func (d *Dir) Dial() (*net.UnixConn, error) {
	var c *net.UnixConn
	err := at(d.file, Socket, func(path string) (err error) {
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to the keeper of %s: %w", d.ID, err)
	}
	return c, nil
}
