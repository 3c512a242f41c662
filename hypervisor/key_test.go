package hypervisor_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hyper-runtime/hyper/hypervisor"
	"golang.org/x/sys/unix"
)

// keyMachine is a machine with files of its own.
func keyMachine(t *testing.T) hypervisor.Machine {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"qemu", "kernel", "initrd", "qemu2", "kernel2", "initrd2"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("all are equal"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m := machine(dir + "/qemu")
	m.Kernel, m.Initrd = dir+"/kernel", dir+"/initrd"
	return m
}

func mustKey(t *testing.T, m hypervisor.Machine) string {
	t.Helper()
	key, err := m.Key()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Each field makes another template, those that come to be in future, too.
func TestKeyOfEachField(t *testing.T) {
	m := keyMachine(t)
	changes := map[string]func(m *hypervisor.Machine){
		"Arch":       func(m *hypervisor.Machine) { m.Arch = hypervisor.ARM64 },
		"Accel":      func(m *hypervisor.Machine) { m.Accel = hypervisor.KVM },
		"QEMU":       func(m *hypervisor.Machine) { m.QEMU += "2" },
		"Type":       func(m *hypervisor.Machine) { m.Type = "pc-q35-7.2" },
		"CPUModel":   func(m *hypervisor.Machine) { m.CPUModel = "qemu64" },
		"VCPUs":      func(m *hypervisor.Machine) { m.VCPUs++ },
		"TakeTurns":  func(m *hypervisor.Machine) { m.TakeTurns = true },
		"MemoryMiB":  func(m *hypervisor.Machine) { m.MemoryMiB++ },
		"Kernel":     func(m *hypervisor.Machine) { m.Kernel += "2" },
		"Initrd":     func(m *hypervisor.Machine) { m.Initrd += "2" },
		"KernelArgs": func(m *hypervisor.Machine) { m.KernelArgs = "quiet" },
		"Ports":      func(m *hypervisor.Machine) { m.Ports++ },
		"Balloon":    func(m *hypervisor.Machine) { m.Balloon = true },
		"VHost":      func(m *hypervisor.Machine) { m.VHost = true },
	}
	keys := map[string]string{mustKey(t, m): "no change"}
	for field := range reflect.TypeFor[hypervisor.Machine]().Fields() {
		change, ok := changes[field.Name]
		if !ok {
			t.Errorf("no change of %s is known", field.Name)
			continue
		}
		changed := m
		change(&changed)
		key := mustKey(t, changed)
		if other, taken := keys[key]; taken {
			t.Errorf("the key of another %s is that of %s", field.Name, other)
		}
		keys[key] = field.Name
		if len(key) != 24 || strings.Trim(key, "0123456789abcdef") != "" {
			t.Errorf("%q is no key", key)
		}
	}
	// No two machines read alike.
	for _, args := range []string{"a b", "a  b", "a", "a\xff", "a\xfe", `a" "b`} {
		changed := m
		changed.KernelArgs = args
		key := mustKey(t, changed)
		if other, taken := keys[key]; taken {
			t.Errorf("the key of kernel arguments %q is that of %s", args, other)
		}
		keys[key] = args
	}
}

func TestKeyOfEqualMachines(t *testing.T) {
	m := keyMachine(t)
	explicit := m
	explicit.Type = "q35"
	if mustKey(t, m) != mustKey(t, explicit) {
		t.Error("equal machines have other keys")
	}
}

// A file that was written to or replaced is another one, whatever its size, times and content.
func TestKeyOfEachFile(t *testing.T) {
	m := keyMachine(t)
	for _, path := range []string{m.QEMU, m.Kernel, m.Initrd} {
		before := mustKey(t, m)
		old, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for changed := changeTime(t, path); changeTime(t, path) == changed; { // until the clock has ticked
			if err := os.WriteFile(path, []byte("all are EQUAL"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, old.ModTime(), old.ModTime()); err != nil {
				t.Fatal(err)
			}
		}
		written := mustKey(t, m)
		if written == before {
			t.Errorf("%s was written to", path)
		}
		if err := errors.Join(os.WriteFile(path+".new", []byte("all are EQUAL"), 0o700),
			os.Chtimes(path+".new", old.ModTime(), old.ModTime()), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		replaced := mustKey(t, m)
		if replaced == written {
			t.Errorf("%s was replaced", path)
		}
		// A link leads to what is behind it.
		if err := errors.Join(os.Rename(path, path+".target"), os.Symlink(path+".target", path)); err != nil {
			t.Fatal(err)
		}
		linked := mustKey(t, m)
		if err := errors.Join(os.WriteFile(path+".new", nil, 0o700), os.Rename(path+".new", path+".target")); err != nil {
			t.Fatal(err)
		}
		if mustKey(t, m) == linked {
			t.Errorf("what the link %s leads to was replaced", path)
		}
	}
	// A file's name can stay, and mean another.
	link := filepath.Join(t.TempDir(), "link")
	m.Kernel = link
	var keys []string
	for _, target := range []string{m.QEMU, m.Initrd} {
		if err := errors.Join(os.RemoveAll(link), os.Symlink(target, link)); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, mustKey(t, m))
	}
	if keys[0] == keys[1] {
		t.Error("the link was set to another file")
	}
}

func changeTime(t *testing.T, path string) time.Time {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return time.Unix(st.Ctim.Unix())
}

// Reading, and time that passes, change nothing.
func TestKeyStays(t *testing.T) {
	m := keyMachine(t)
	before := mustKey(t, m)
	if _, err := os.ReadFile(m.Kernel); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(m.Kernel), "other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if mustKey(t, m) != before {
		t.Error("another key")
	}
}

func TestNoKey(t *testing.T) {
	m := keyMachine(t)
	invalid := m
	invalid.VCPUs = 0
	if key, err := invalid.Key(); err == nil {
		t.Errorf("an invalid machine has the key %s", key)
	}
	for _, path := range []string{m.QEMU, m.Kernel, m.Initrd} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Key(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("without %s: %v", path, err)
		}
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}
