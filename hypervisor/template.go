package hypervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A template is a boot that is kept: the guest's memory in a file, and the state of the machine's devices, taken when
// the agent was ready. A clone maps the memory copy-on-write, so that all clones share the pages that they leave alone.
//
// On disk a template is a directory named by its key, which becomes visible by a rename when it is complete.
const (
	memoryFile  = "memory"
	stateFile   = "state"
	machineFile = "machine.json"
	hitsFile    = "hits" // one byte for each clone; its time is that of the last
	lockFile    = ".lock"
)

// Templates is the directory of all templates, best on a tmpfs.
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

// TemplateInfo is what List tells of a template.
type TemplateInfo struct {
	Key     string    `json:"key"`
	Machine Machine   `json:"machine"`
	Bytes   int64     `json:"bytes"` // of memory that it takes
	Created time.Time `json:"created"`
	Used    time.Time `json:"used"` // last; zero: never
	Hits    int64     `json:"hits"` // clones so far
}

// ErrNoTemplate means that there is none for the machine.
var ErrNoTemplate = errors.New("no such template")

// Key names the template of a machine. It covers all that the state depends on: the machine, the very files that it is
// made of, the host's processor, and the host's boot, after which clocks have another origin.
func (m Machine) Key() (string, error) {
	if err := m.Validate(); err != nil {
		return "", err
	}
	identity := struct {
		Format  int
		Machine Machine
		Files   []string
		Host    string
	}{Format: 1, Machine: m.withDefaults()}
	qemu, err := exec.LookPath(m.QEMU)
	if err != nil {
		return "", fmt.Errorf("template key: %w", err)
	}
	for _, path := range []string{qemu, m.Kernel, m.Initrd} {
		if path == "" {
			continue
		}
		id, err := fileIdentity(path)
		if err != nil {
			return "", fmt.Errorf("template key: %w", err)
		}
		identity.Files = append(identity.Files, id)
	}
	if identity.Host, err = hostIdentity(); err != nil {
		return "", fmt.Errorf("template key: %w", err)
	}
	text, err := json.Marshal(identity)
	if err != nil {
		return "", fmt.Errorf("template key: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:12]), nil
}

// fileIdentity changes whenever the file's content does: a write changes the time of the inode's change, which nobody
// can set back, a replacement the inode.
func fileIdentity(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%s %d:%d %d %d.%d", path, st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec), nil
}

// hostIdentity is the host's boot, kernel and processor.
func hostIdentity() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	text := []string{strings.TrimSpace(string(boot)), unix.ByteSliceToString(uts.Release[:])}
	for line := range strings.Lines(string(cpu)) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "model name", "microcode", "flags", "Features":
			text = append(text, strings.TrimSpace(value))
		case "":
			return strings.Join(text, "\n"), nil // the first processor tells enough
		}
	}
	return strings.Join(text, "\n"), nil
}

// Use finds the template of a machine and counts a clone. ErrNoTemplate: there is none, or it is not whole.
func (t Templates) Use(m Machine) (*Template, error) {
	key, err := m.Key()
	if err != nil {
		return nil, err
	}
	found := &Template{Key: key, dir: filepath.Join(t.Dir, key)}
	if found.memory, err = lockShared(filepath.Join(found.dir, memoryFile)); err != nil {
		return nil, err
	}
	info, err := found.memory.Stat()
	if err == nil && info.Size() != int64(m.MemoryMiB)<<20 {
		err = ErrNoTemplate
	}
	if err == nil {
		err = found.countHit()
	}
	if err != nil {
		found.Close()
		return nil, fmt.Errorf("template %s: %w", key, err)
	}
	return found, nil
}

// lockShared opens the file and keeps others from removing it.
func lockShared(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoTemplate
	}
	if err != nil {
		return nil, err
	}
	// Whoever holds it alone is about to remove it.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, ErrNoTemplate
	}
	return f, nil
}

func (t *Template) countHit() error {
	f, err := os.OpenFile(filepath.Join(t.dir, hitsFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write([]byte{1})
	return err
}

// open makes b those of a clone, and returns the file with the state of its devices.
func (t *Template) open(b *Backends) (*os.File, error) {
	b.Role, b.Memory = CloneRole, filepath.Join(t.dir, memoryFile)
	return os.Open(filepath.Join(t.dir, stateFile))
}

// Close lets others remove the template.
func (t *Template) Close() error { return t.memory.Close() }

// retryAfter is how long nobody tries by himself to make a template that could not be made.
const retryAfter = 10 * time.Minute

// Wants tells whether it is of use to make a template of the machine now: there is none, nobody makes one of whatever
// machine, and the last try has not just failed.
func (t Templates) Wants(m Machine) (bool, error) {
	key, err := m.Key()
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(filepath.Join(t.Dir, key)); err == nil {
		return false, nil
	}
	if failed, err := os.Stat(t.failure(key)); err == nil && time.Since(failed.ModTime()) < retryAfter {
		return false, nil
	}
	lock, err := os.Open(filepath.Join(t.Dir, lockFile))
	if err != nil {
		return true, nil // nobody has ever made one
	}
	defer lock.Close()
	return unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil, nil
}

// failure is the file that says why a template could not be made.
func (t Templates) failure(key string) string { return filepath.Join(t.Dir, ".failed-"+key) }

// Make boots the machine, waits until ready says that its agent is there, and keeps it as a template. One maker is at
// work at a time; a template that is there already is left alone. Least recently used ones go to make room.
func (t Templates) Make(ctx context.Context, m Machine, ready func(context.Context, *VM) error) error {
	key, err := m.Key()
	if err != nil {
		return err
	}
	unlock, err := t.lock()
	if err != nil {
		return err
	}
	defer unlock()
	final := filepath.Join(t.Dir, key)
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	work, err := os.MkdirTemp(t.Dir, ".making-*")
	if err != nil {
		return fmt.Errorf("make template: %w", err)
	}
	defer os.RemoveAll(work)
	if err := boot(ctx, m, work, ready); err != nil {
		note := os.WriteFile(t.failure(key), []byte(err.Error()+"\n"), 0o600)
		return errors.Join(fmt.Errorf("make template: %w", err), note)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("make template: %w", err)
	}
	if err := os.WriteFile(filepath.Join(work, machineFile), text, 0o600); err != nil {
		return fmt.Errorf("make template: %w", err)
	}
	if err := os.Rename(work, final); err != nil {
		return fmt.Errorf("make template: %w", err)
	}
	if err := os.Remove(t.failure(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make template: %w", err)
	}
	return t.shrink(key)
}

// lock waits for the directory to be nobody else's, and removes what a maker that was killed has left.
func (t Templates) lock() (unlock func(), err error) {
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("template directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(t.Dir, lockFile), os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("template directory: %w", err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock template directory: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(t.Dir, ".making-*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("clean template directory: %w", err)
	}
	return func() { f.Close() }, nil
}

// boot runs the machine on a memory file in dir until it is ready, and saves its devices' state beside it.
func boot(ctx context.Context, m Machine, dir string, ready func(context.Context, *VM) error) error {
	share := filepath.Join(dir, "share") // mounted by no guest before it is a clone, which has its own
	if err := os.Mkdir(share, 0o700); err != nil {
		return err
	}
	defer os.Remove(share)
	memory := filepath.Join(dir, memoryFile)
	if err := os.WriteFile(memory, nil, 0o600); err != nil { // QEMU would make it with the umask's mode
		return err
	}
	vm, err := Launch(ctx, m, Options{Share: share, memory: memory})
	if err != nil {
		return err
	}
	defer vm.Kill()
	if err := ready(ctx, vm); err != nil {
		return vm.Explain(err)
	}
	if err := vm.Pause(ctx); err != nil {
		return err
	}
	return vm.save(ctx, filepath.Join(dir, stateFile))
}

// ignoreShared says that no memory is part of the state: a template's stays in its file, where a clone finds it.
func (vm *VM) ignoreShared(ctx context.Context) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return vm.qmp.Execute(ctx, "migrate-set-capabilities", map[string]any{
		"capabilities": []capability{{"x-ignore-shared", true}},
	}, nil)
}

// load lets a clone read its state. It runs then; if it cannot, QEMU ends.
func (vm *VM) load(ctx context.Context) error {
	if err := vm.ignoreShared(ctx); err != nil {
		return err
	}
	return vm.qmp.Execute(ctx, "migrate-incoming", map[string]any{"uri": stateURI}, nil)
}

// save writes the state of the devices of a paused VM to a new file.
func (vm *VM) save(ctx context.Context, path string) error {
	if err := vm.ignoreShared(ctx); err != nil {
		return err
	}
	// QEMU 7.2 migrates to sockets and pipes only.
	socket := path + ".socket"
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := vm.qmp.Execute(ctx, "migrate", map[string]any{"uri": "unix:" + socket}, nil); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { listener.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := listener.AcceptUnix()
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	defer conn.Close()
	state, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(state, conn)
	if err = errors.Join(err, state.Close()); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	var answer struct{ Status string }
	if err := vm.qmp.Execute(ctx, "query-migrate", nil, &answer); err != nil {
		return err
	}
	if answer.Status != "completed" {
		return fmt.Errorf("save state: migration %s", answer.Status)
	}
	return nil
}

// List returns all templates, the least recently used first. What is no template is left out.
func (t Templates) List() ([]TemplateInfo, error) {
	entries, err := os.ReadDir(t.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list templates: %w", err)
	}
	var list []TemplateInfo
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		if info, err := t.info(entry.Name()); err == nil {
			list = append(list, info)
		}
	}
	slices.SortFunc(list, func(a, b TemplateInfo) int { return a.lastUse().Compare(b.lastUse()) })
	return list, nil
}

func (t Templates) info(key string) (TemplateInfo, error) {
	dir := filepath.Join(t.Dir, key)
	info := TemplateInfo{Key: key}
	text, err := os.ReadFile(filepath.Join(dir, machineFile))
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(text, &info.Machine); err != nil {
		return info, err
	}
	memory, err := os.Stat(filepath.Join(dir, memoryFile))
	if err != nil {
		return info, err
	}
	info.Bytes = memory.Sys().(*syscall.Stat_t).Blocks * 512
	info.Created = memory.ModTime()
	if hits, err := os.Stat(filepath.Join(dir, hitsFile)); err == nil {
		info.Hits, info.Used = hits.Size(), hits.ModTime()
	}
	return info, nil
}

func (i TemplateInfo) lastUse() time.Time {
	if i.Used.IsZero() {
		return i.Created
	}
	return i.Used
}

// ErrInUse means that a VM is a clone of the template.
var ErrInUse = errors.New("template is in use")

// Remove removes a template that no VM uses. ErrNoTemplate: there is none of that key.
func (t Templates) Remove(key string) error {
	if key == "" || strings.ContainsAny(key, "/.") {
		return fmt.Errorf("template %q: %w", key, ErrNoTemplate)
	}
	dir := filepath.Join(t.Dir, key)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("template %s: %w", key, ErrNoTemplate)
	}
	memory, err := os.Open(filepath.Join(dir, memoryFile))
	if err == nil {
		defer memory.Close()
		if unix.Flock(int(memory.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return fmt.Errorf("template %s: %w", key, ErrInUse)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("template %s: %w", key, err)
	}
	return nil
}

// shrink removes the least recently used templates until the rest fits, but never the one to keep.
func (t Templates) shrink(keep string) error {
	list, err := t.List()
	if err != nil {
		return err
	}
	var total int64
	for _, info := range list {
		total += info.Bytes
	}
	for _, info := range list {
		if total <= int64(t.MaxMiB)<<20 {
			return nil
		}
		if info.Key == keep {
			continue
		}
		switch err := t.Remove(info.Key); {
		case err == nil:
			total -= info.Bytes
		case !errors.Is(err, ErrInUse):
			return err
		}
	}
	return nil
}

// Discard removes a template that could not be cloned, also from under others: their mappings stay valid.
func (t *Template) Discard() error { return os.RemoveAll(t.dir) }
