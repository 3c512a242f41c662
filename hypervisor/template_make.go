package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// retryAfter is how long nobody tries by himself to make a template that could not be made.
const retryAfter = 10 * time.Minute

// Wants tells whether it is of use to make a template of the machine now: there is none, nobody makes one of whatever
// machine, and the last try has not just failed.
func (t Templates) Wants(m Machine) (bool, error) {
	key, err := m.Key()
	if err != nil {
		return false, err
	}
	switch err := t.check(); {
	case errors.Is(err, ErrNoTemplate):
		return true, nil
	case err != nil:
		return false, err
	}
	if found, err := t.find(key, m); err == nil {
		return false, found.Close()
	}
	if failed, err := os.Stat(t.failure(key)); err == nil && time.Since(failed.ModTime()) < retryAfter {
		return false, nil
	}
	lock, err := os.Open(filepath.Join(t.Dir, lockFile))
	if err != nil {
		return true, nil // nobody has ever made one
	}
	defer lock.Close()
	return unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil, nil
}

// failure is the file that says why a template could not be made.
func (t Templates) failure(key string) string { return filepath.Join(t.Dir, ".failed-"+key) }

// Make boots the machine, waits until ready says that its agent is there, and keeps it as a template. The NIC is of the
// kind that the clones have; nobody need be behind it. One maker is at work at a time; a template that is there already
// is left alone. Least recently used ones go to make room.
func (t Templates) Make(ctx context.Context, m Machine, nic NIC, ready func(context.Context, *VM) error) error {
	key, err := m.Key()
	if err != nil {
		return err
	}
	if m.Balloon {
		return errors.New("make template: a machine with a balloon cannot be one") // see Machine
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if found, err := t.find(key, m); err == nil {
		return found.Close()
	}
	if err := t.build(ctx, key, m, nic, ready); err != nil {
		err = fmt.Errorf("make template: %w", err)
		if ctx.Err() != context.Canceled { // which says nothing of the machine
			err = errors.Join(err, writeFile(t.failure(key), []byte(err.Error()+"\n")))
		}
		return err
	}
	if err := os.Remove(t.failure(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make template: %w", err)
	}
	return t.shrink(key)
}

// build makes a template under another name, and then visible.
func (t Templates) build(ctx context.Context, key string, m Machine, nic NIC, ready func(context.Context, *VM) error) error {
	work, err := os.MkdirTemp(t.Dir, makingName)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o700); err != nil {
		return err
	}
	if err := boot(ctx, m, nic, work, ready); err != nil {
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(work, machineFile), text); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(work, hitsFile), nil); err != nil {
		return err
	}
	final := filepath.Join(t.Dir, key)
	if err := discard(final); err != nil { // a damaged one
		return err
	}
	return os.Rename(work, final)
}

// writeFile writes a file for our eyes only.
func writeFile(path string, text []byte) error {
	f, err := createFile(path)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

func createFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o600); err != nil { // the umask has had its say
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock makes the directory nobody else's, and removes what killed makers have left.
func (t Templates) lock(ctx context.Context) (unlock func(), err error) {
	if err := t.mkdir(); err != nil {
		return nil, fmt.Errorf("make template directory: %w", err)
	}
	f, err := createFile(filepath.Join(t.Dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("template directory: %w", err)
	}
	if err := lockAlone(ctx, f); err != nil {
		return nil, fmt.Errorf("lock template directory: %w", err)
	}
	entries, err := os.ReadDir(t.Dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), makingName) || strings.HasPrefix(entry.Name(), goneName) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(t.Dir, entry.Name())))
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("clean template directory: %w", err)
	}
	return func() { f.Close() }, nil
}

func (t Templates) mkdir() error {
	if err := os.MkdirAll(filepath.Dir(t.Dir), 0o755); err != nil {
		return err
	}
	switch err := os.Mkdir(t.Dir, 0o700); {
	case err == nil:
		return os.Chmod(t.Dir, 0o700)
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	return t.check()
}

// lockAlone waits for the lock of f, which it closes on error. flock(2) knows no time limit: when ctx ends first, the
// lock is given back once it has come.
func lockAlone(ctx context.Context, f *os.File) error {
	locked := make(chan error, 1)
	go func() {
		for {
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
				locked <- err
				return
			}
		}
	}()
	select {
	case err := <-locked:
		if err != nil {
			f.Close()
		}
		return err
	case <-ctx.Done():
		go func() {
			<-locked
			f.Close()
		}()
		return ctx.Err()
	}
}

// boot runs the machine on a memory file in dir until it is ready, and saves its devices' state beside it.
func boot(ctx context.Context, m Machine, nic NIC, dir string, ready func(context.Context, *VM) error) error {
	share := filepath.Join(dir, "share") // what the guest can mount until it is a template; a clone has its own
	if err := os.Mkdir(share, 0o700); err != nil {
		return err
	}
	defer os.Remove(share)
	memory := filepath.Join(dir, memoryFile)
	if err := writeFile(memory, nil); err != nil { // QEMU would make it with the umask's mode
		return err
	}
	vm, err := Launch(ctx, m, Options{Share: share, NIC: nic, memory: memory})
	if err != nil {
		return err
	}
	defer vm.Agent().Close()
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
	// QEMU 7.2 migrates to sockets and pipes only. A socket's path must be short (unix(7)), whatever the directory's is.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	self, err := os.Readlink("/proc/self") // our pid, as /proc has it
	if err != nil {
		return err
	}
	socket := fmt.Sprintf("/proc/%s/fd/%d/socket", self, dir.Fd())
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := vm.qmp.Execute(ctx, "migrate", map[string]any{"uri": "unix:" + socket}, nil); err != nil {
		return err
	}
	if err := vm.receive(ctx, listener, path); err != nil {
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

// receive writes what QEMU sends to a new file. Neither a QEMU that hangs nor one that has died keeps it.
func (vm *VM) receive(ctx context.Context, listener *net.UnixListener, path string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-vm.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer context.AfterFunc(ctx, func() { listener.SetDeadline(time.Unix(1, 0)) })()
	conn, err := listener.AcceptUnix()
	if err != nil {
		return errors.Join(vm.Err(), err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	state, err := createFile(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(state, conn)
	return errors.Join(err, state.Close())
}
