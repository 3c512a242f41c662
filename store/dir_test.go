package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStateComesBack(t *testing.T) {
	d := create(t, open(t), "c")
	status := 137
	want := State{
		OCIVersion: "1.2.0", ID: "c", SandboxID: "pod", Bundle: "/b", Rootfs: "/b/r", Created: time.Unix(1, 2).UTC(),
		Owner: "root", Annotations: map[string]string{"a": "b"}, Status: "stopped", ExitStatus: &status, Reason: "killed",
		Keeper: Process{PID: 12, StartTime: 13}, StandIn: Process{PID: 14, StartTime: 15},
		Programs: map[string]Process{"qemu": {PID: 16, StartTime: 17}}, Cgroup: []byte(`{"directories":[]}`),
	}
	if err := d.SaveState(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.LoadState()
	if err != nil {
		t.Fatal(err)
	}
	want.Version, want.BootID = got.Version, got.BootID
	if got.Version != stateVersion || got.BootID == "" || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	names, err := os.ReadDir(d.Path(""))
	if err != nil || len(names) != 1 {
		t.Errorf("left beside the state: %v, %v", names, err)
	}
}

func TestStateOfAnotherBootHasNoProcesses(t *testing.T) {
	d := create(t, open(t), "c")
	if err := d.SaveState(State{ID: "c", Status: "running", Keeper: Process{PID: 12, StartTime: 13}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(d.Path(StateFile))
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Path(StateFile), bytes.ReplaceAll(text, []byte(boot), []byte("other")), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := d.LoadState()
	if err != nil || st.Keeper != (Process{}) || st.Status != "stopped" || st.Reason == "" {
		t.Errorf("got %+v, %v", st, err)
	}
}

// good is a state that is read; each case below spoils it.
const good = `{"version":1,"id":"c","status":"running","bootId":"b","keeper":{"pid":12,"startTime":13}}`

func spoil(old, new string) []byte { return []byte(strings.Replace(good, old, new, 1)) }

func TestDamagedState(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) func(string) error {
		return func(path string) error { return os.WriteFile(path, text, 0o600) }
	}
	for name, make := range map[string]func(path string) error{
		"missing":         func(string) error { return nil },
		"empty":           write(nil),
		"truncated":       write([]byte(good[:len(good)/2])),
		"twice":           write([]byte(good + good)),
		"random":          write([]byte{0xff, 0, 1, 2, 3}),
		"a list":          write([]byte("[]")),
		"null":            write([]byte("null")),
		"future version":  write(spoil(`"version":1`, `"version":2`)),
		"no version":      write(spoil(`"version":1,`, ``)),
		"another's":       write(spoil(`"id":"c"`, `"id":"d"`)),
		"no status":       write(spoil(`running`, `flying`)),
		"no boot":         write(spoil(`"bootId":"b"`, `"bootId":""`)),
		"all processes":   write(spoil(`"pid":12`, `"pid":-1`)),
		"a group":         write(spoil(`"pid":12`, `"pid":-12`)),
		"own group":       write(spoil(`"pid":12`, `"pid":0`)),
		"init":            write(spoil(`"pid":12`, `"pid":1`)),
		"any start":       write(spoil(`"startTime":13`, `"startTime":0`)),
		"helper":          write(spoil(`"keeper"`, `"programs":{"qemu":{"pid":-1,"startTime":2}},"keeper"`)),
		"sandbox":         write(spoil(`"keeper"`, `"sandboxId":"../x","keeper"`)),
		"exit status":     write(spoil(`"keeper"`, `"exitStatus":256,"keeper"`)),
		"huge":            func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40)) },
		"link":            func(path string) error { return os.Symlink(canary, path) },
		"link to nothing": func(path string) error { return os.Symlink("/nothing", path) },
		"loop":            func(path string) error { return os.Symlink(StateFile, path) },
		"FIFO":            func(path string) error { return unix.Mkfifo(path, 0o600) },
		"device":          func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
		"directory":       func(path string) error { return os.Mkdir(path, 0o700) },
		"foreign": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte(good), 0o600), os.Chown(path, 1, 1))
		},
	} {
		d := create(t, open(t), "c")
		if err := errors.Join(os.Remove(d.Path(StateFile)), make(d.Path(StateFile))); err != nil {
			t.Fatal(err)
		}
		st, err := d.LoadState()
		if !errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "\n") || !reflect.DeepEqual(st, State{}) {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
		if name != "directory" {
			if err := d.SaveState(State{ID: "c", Status: "stopped"}); err != nil {
				t.Errorf("%s: save over it: %v", name, err)
			}
		}
		if err := d.Remove(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text, err := os.ReadFile(canary); err != nil || string(text) != good {
		t.Errorf("canary: %s, %v", text, err)
	}
}

func TestNoDescriptorsLeftIsNoDamage(t *testing.T) {
	s := open(t)
	d := create(t, s, "c")
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	_, loadErr := d.LoadState()
	_, getErr := s.Get("c")
	saveErr := d.SaveState(State{ID: "c", Status: "stopped"})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{loadErr, getErr, saveErr} {
		if !errors.Is(err, unix.EMFILE) || errors.Is(err, ErrDamaged) {
			t.Errorf("got %v", err)
		}
	}
	if st, err := d.LoadState(); err != nil || st.Status != "creating" {
		t.Errorf("afterwards: %+v, %v", st, err)
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(good))
	f.Add(spoil(`"pid":12`, `"pid":-1`))
	f.Add([]byte(`{"version":1,"status":"stopped","bootId":"b","exitStatus":0,"cgroup":{"a":[1]},"annotations":{"a":"b"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		st, err := decodeState(text)
		if err != nil {
			return
		}
		for _, p := range append([]Process{st.Keeper, st.StandIn}, st.Programs["qemu"]) {
			if p != (Process{}) && p.PID <= 1 {
				t.Errorf("process %+v came through", p)
			}
		}
	})
}

func TestConfigComesBack(t *testing.T) {
	d := create(t, open(t), "c")
	if err := d.SaveConfig([]byte(`{"a":1}`)); err != nil {
		t.Fatal(err)
	}
	if text, err := d.LoadConfig(); err != nil || string(text) != `{"a":1}` {
		t.Errorf("got %s, %v", text, err)
	}
	if err := d.SaveConfig(make([]byte, maxFile+1)); err == nil {
		t.Error("saved what cannot be loaded")
	}
}

func TestWriteFileReplacesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	canary, link := filepath.Join(dir, "canary"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(canary, []byte("sings"), 0o600), os.Symlink(canary, link)); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, []byte("12"), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(link)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	if text, err := os.ReadFile(canary); err != nil || string(text) != "sings" {
		t.Errorf("canary: %s, %v", text, err)
	}
	if err := WriteFile(dir, nil, 0o600); err == nil {
		t.Error("replaced a directory")
	}
	if names, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(names) != 1 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// TestSocketWithLongPaths is attack 15: a socket's address has 108 bytes, an id alone may have more.
func TestSocketWithLongPaths(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), strings.Repeat("long/", 100), "run"))
	if err != nil {
		t.Fatal(err)
	}
	d := create(t, s, strings.Repeat("c", 255))
	if _, err := d.Dial(); !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "/proc") {
		t.Errorf("dial before listen: %v", err)
	}
	l, err := d.Listen()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	other, err := s.Get(d.ID)
	if err != nil {
		t.Fatal(err)
	}
	c, err := other.Dial()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(c); err != nil || got.String() != "hello" {
		t.Errorf("got %q, %v", got.String(), err)
	}
	c.Close()
	l.Close()
	if _, err := other.Dial(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial after close: %v", err)
	}
}

func TestLockHoldsOthersOff(t *testing.T) {
	s := open(t)
	create(t, s, "c")
	var wg sync.WaitGroup
	var mu sync.Mutex
	inside, most := 0, 0
	for range 20 {
		wg.Go(func() {
			d, err := s.Get("c")
			if err != nil {
				t.Error(err)
				return
			}
			unlock, err := d.Lock()
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			inside++
			most = max(most, inside)
			mu.Unlock()
			mu.Lock()
			inside--
			mu.Unlock()
			unlock()
		})
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d held the lock at once", most)
	}
}

func TestLockOfARemovedContainer(t *testing.T) {
	s := open(t)
	d := create(t, s, "c")
	unlock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	for range 2 {
		go func() {
			_, err := d.Lock()
			waited <- err
		}()
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	create(t, s, "c") // the next of that name is another
	unlock()
	for range 2 {
		if err := <-waited; !errors.Is(err, ErrNotExist) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := d.LoadState(); err != ErrNotExist {
		t.Errorf("load: %v", err)
	}
}
