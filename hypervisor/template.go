package hypervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A template is a boot that is kept: the guest's memory in a file, and the state of the machine's devices, taken when
// the agent was ready. A clone maps the memory copy-on-write, so that all clones share the pages that they leave alone.
//
// On disk a template is a directory named by its key. It comes and goes whole, by a rename. Directories are 0700 and
// files 0600, whatever the umask.
const (
	memoryFile  = "memory"
	stateFile   = "state"
	machineFile = "machine.json"
	hitsFile    = "hits" // one byte for each clone; its time is that of the last
	lockFile    = ".lock"
	makingName  = ".making-" // how directories begin that are no templates yet
	goneName    = ".gone-"   // or no longer
)

// Templates is the directory of all templates.
//
// It should be on a disk. Where the memory file has a hole, a clone's first touch of the page makes one in the page
// cache, beside the clone's own copy. A disk's are given back when memory is short. A tmpfs keeps them: they count for
// the clone's cgroup, until that is over its limit, and fill the tmpfs, until QEMU gets SIGBUS (both measured).
type Templates struct {
	Dir    string
	MaxMiB int // of memory files; beyond it the least recently used go
}

// Template is one template that is in use: it is not removed before Close, or the end of this process.
type Template struct {
	Key    string
	dir    string
	memory *os.File // holds the lock
}

// ErrNoTemplate means that there is none for the machine.
var ErrNoTemplate = errors.New("no such template")

// Use finds the template of a machine and counts a clone. ErrNoTemplate: there is none. One that is damaged is removed,
// and the error says what was wrong with it.
func (t Templates) Use(m Machine) (*Template, error) {
	key, err := m.Key()
	if err != nil {
		return nil, err
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	found, err := t.find(key, m)
	if err != nil && !errors.Is(err, ErrNoTemplate) {
		err = errors.Join(fmt.Errorf("template %s is damaged: %w", key, err), discard(filepath.Join(t.Dir, key)))
	}
	if err != nil {
		return nil, err
	}
	found.countHit()
	return found, nil
}

// check refuses a directory that others can write to: whoever makes a template decides what runs in its clones. The
// usual place is one where everybody can make directories. ErrNoTemplate: there is no directory.
func (t Templates) check() error {
	info, err := os.Lstat(t.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoTemplate
	}
	if err != nil {
		return fmt.Errorf("template directory: %w", err)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if !info.IsDir() || owner != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("template directory %s is a %v of user %d: it must be a directory that we alone can write to",
			t.Dir, info.Mode(), owner)
	}
	return nil
}

// find returns the template of that key if it is whole. ErrNoTemplate: there is none. Other errors say what is wrong
// with it.
func (t Templates) find(key string, m Machine) (*Template, error) {
	dir := filepath.Join(t.Dir, key)
	memory, err := openShared(filepath.Join(dir, memoryFile))
	if err != nil {
		if _, none := os.Lstat(dir); errors.Is(none, fs.ErrNotExist) {
			return nil, ErrNoTemplate
		}
		return nil, err
	}
	found := &Template{Key: key, dir: dir, memory: memory}
	if err := found.check(m); err != nil {
		found.Close()
		return nil, err
	}
	return found, nil
}

// openShared opens a template's memory and keeps others from removing it.
func openShared(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) // not even a FIFO keeps us
	if err != nil {
		return nil, err
	}
	// Whoever holds it alone is about to remove it, and if it has no name any more, has done so.
	var st unix.Stat_t
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil || unix.Fstat(int(f.Fd()), &st) != nil || st.Nlink == 0 {
		f.Close()
		return nil, ErrNoTemplate
	}
	return f, nil
}

// check says what is wrong with the files. What is in the state is QEMU's to judge.
func (t *Template) check(m Machine) error {
	dir, err := os.Lstat(t.dir)
	if err != nil {
		return err
	}
	if !dir.IsDir() {
		return fmt.Errorf("it is a %v", dir.Mode())
	}
	memory, err := t.memory.Stat()
	if err != nil {
		return err
	}
	if want := int64(m.MemoryMiB) << 20; memory.Size() != want {
		return fmt.Errorf("its memory has %d bytes, not %d", memory.Size(), want)
	}
	state, err := os.Lstat(filepath.Join(t.dir, stateFile))
	if err != nil {
		return err
	}
	if !state.Mode().IsRegular() || state.Size() == 0 {
		return fmt.Errorf("its state is a %v of %d bytes", state.Mode(), state.Size())
	}
	_, err = readMachine(t.dir)
	return err
}

func readMachine(dir string) (m Machine, err error) {
	text, err := os.ReadFile(filepath.Join(dir, machineFile))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w", machineFile, err)
	}
	return m, nil
}

// countHit is for people and for who goes first: that a full disk cannot count keeps no clone from its template.
func (t *Template) countHit() {
	f, err := os.OpenFile(filepath.Join(t.dir, hitsFile), os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.Write([]byte{1})
}

// open makes b those of a clone, and returns the file with the state of its devices.
func (t *Template) open(b *Backends) (*os.File, error) {
	b.Role, b.Memory = CloneRole, filepath.Join(t.dir, memoryFile)
	return os.Open(filepath.Join(t.dir, stateFile))
}

// Close lets others remove the template.
func (t *Template) Close() error { return t.memory.Close() }

// Discard removes a template that could not be cloned, also from under others: their mappings stay valid.
func (t *Template) Discard() error { return discard(t.dir) }

// discard removes a template, or what is in its place; nobody sees half of it.
func discard(dir string) error {
	gone := filepath.Join(filepath.Dir(dir), goneName+filepath.Base(dir))
	if err := os.RemoveAll(gone); err != nil { // of one who was killed here
		return err
	}
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(gone)
}
