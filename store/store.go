// Package store keeps the run directory: one directory for each container, named by its id, with the files that
// files.go lists. What it finds there it trusts only if it could have written it: right owner, right kind of file, right
// size. It never follows a link, opens a device or FIFO, or removes anything outside.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Store is the run directory of all containers.
type Store struct {
	path string   // absolute
	root *os.File // the directory
}

// Open opens the run directory, and makes it if it is not there, mode 0700 whatever the umask. One that is a link,
// belongs to someone else, or lets others make and move entries is refused: they could point us anywhere.
func Open(path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	mkdirErr := os.Mkdir(path, directoryMode)
	if mkdirErr != nil && !errors.Is(mkdirErr, fs.ErrExist) {
		return nil, fmt.Errorf("run directory: %w", mkdirErr)
	}
	root, err := openDirectory(path, path)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if mkdirErr == nil {
		err = root.Chmod(directoryMode)
	} else if info, statErr := root.Stat(); statErr != nil {
		err = statErr
	} else if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		err = fmt.Errorf("%s is writable by others", path)
	}
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("run directory: %w", err)
	}
	return &Store{path: path, root: root}, nil
}

// Close gives up the descriptor. It may be left out: the garbage collector does the same.
func (s *Store) Close() error { return s.root.Close() }

// openDirectory opens a directory of ours, which messages call name; a link is not followed.
func openDirectory(path, name string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if err := ours(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ours refuses a file of another user.
func ours(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return fmt.Errorf("%s %w: uid %d, not %d", f.Name(), errForeign, st.Uid, uid)
	}
	return nil
}

// at calls f with a path of name in dir that stays short, and means the same when dir is renamed or the caller is in
// another mount namespace: through the open descriptor, which is kept open until f returns. Errors show the real path.
func at(dir *os.File, name string, f func(path string) error) error {
	defer runtime.KeepAlive(dir)
	err := f(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
	var inFile *fs.PathError
	var inSocket *net.OpError
	switch {
	case errors.As(err, &inFile):
		inFile.Path = filepath.Join(dir.Name(), name)
	case errors.As(err, &inSocket):
		err = inSocket.Err
	}
	return err
}

// maxID is the longest name of a directory, in bytes: NAME_MAX. runc takes 1024 and then fails in mkdir.
const maxID = 255

// ValidID refuses ids that cannot name a container. The characters are runc's: letters, digits, "_", "+", "-", ".".
// Unlike runc's, an id does not begin with "-": it would be read as a flag wherever it is passed on.
func ValidID(id string) error {
	switch {
	case id == "":
		return errors.New("container id cannot be empty")
	case len(id) > maxID:
		return fmt.Errorf("%w: longer than %d bytes", ErrInvalidID, maxID)
	case id == "." || id == ".." || id[0] == '-' || strings.ContainsFunc(id, notInID):
		return ErrInvalidID
	}
	return nil
}

func notInID(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("_+-.", r)
}

// Create makes the directory of a new container, mode 0700, with a first state that says "creating". Of several
// creates of one id exactly one wins, the others get ErrExists.
func (s *Store) Create(id string) (*Dir, error) {
	if err := ValidID(id); err != nil {
		return nil, err
	}
	err := at(s.root, id, func(path string) error { return os.Mkdir(path, directoryMode) })
	if errors.Is(err, fs.ErrExist) {
		return nil, ErrExists
	}
	if err != nil {
		return nil, fmt.Errorf("make run directory of %s: %w", id, err)
	}
	d, err := s.Get(id)
	if err == nil {
		err = d.file.Chmod(directoryMode)
	}
	if err == nil {
		err = d.SaveState(State{ID: id, Status: statusCreating, Created: time.Now().UTC()})
	}
	if err != nil {
		if undo := s.Remove(id); undo != nil {
			return nil, fmt.Errorf("%w; undo: %w", err, undo)
		}
		return nil, err
	}
	return d, nil
}

// Get opens the directory of a container. ErrNotExist: there is none. ErrDamaged: what has that name is not a
// directory of ours; Remove takes it away.
func (s *Store) Get(id string) (*Dir, error) {
	if err := ValidID(id); err != nil {
		return nil, err
	}
	var file *os.File
	err := at(s.root, id, func(path string) (err error) {
		file, err = openDirectory(path, filepath.Join(s.path, id))
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNotExist
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: %s is not a directory", ErrDamaged, filepath.Join(s.path, id))
	case errors.Is(err, errForeign):
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return nil, fmt.Errorf("open run directory of %s: %w", id, err)
	}
	return &Dir{ID: id, store: s, file: file}, nil
}

// Entry is what List found under one id.
type Entry struct {
	ID    string
	State State
	Err   error // mostly ErrDamaged; then State holds nothing
}

// List returns all containers, sorted by id. One that is damaged is in the list and hides no other; one that is
// removed meanwhile is not. Names that are no ids cannot be containers and are left out.
func (s *Store) List() ([]Entry, error) {
	var names []string
	err := at(s.root, "", func(path string) error {
		list, err := os.ReadDir(path)
		for _, e := range list {
			names = append(names, e.Name())
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list run directory: %w", err)
	}
	slices.Sort(names)
	var entries []Entry
	for _, id := range names {
		if ValidID(id) != nil {
			continue
		}
		e := Entry{ID: id}
		d, err := s.Get(id)
		if err == nil {
			e.State, err = d.LoadState()
			d.Close()
		}
		if errors.Is(err, ErrNotExist) {
			continue
		}
		e.Err = err
		entries = append(entries, e)
	}
	return entries, nil
}
