package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/hypervisor/hypervisortest"
	"golang.org/x/sys/unix"
)

// templates is a directory of templates that is not there yet, and a machine for it.
func templates(t *testing.T) (hypervisor.Templates, hypervisor.Machine) {
	t.Helper()
	m := machine(hypervisortest.QEMU(t, hypervisortest.Answering))
	m.Kernel = hypervisortest.Kernel(t, "", hypervisortest.Halt)
	return hypervisor.Templates{Dir: filepath.Join(t.TempDir(), "templates"), MaxMiB: 64}, m
}

// atOnce is for guests that are ready when QEMU is.
func atOnce(context.Context, *hypervisor.VM) error { return nil }

func mustMake(t *testing.T, all hypervisor.Templates, m hypervisor.Machine) (key string) {
	t.Helper()
	if err := all.Make(t.Context(), m, hypervisor.NIC{}, atOnce); err != nil {
		t.Fatal(err)
	}
	return mustKey(t, m)
}

func mustUse(t *testing.T, all hypervisor.Templates, m hypervisor.Machine) *hypervisor.Template {
	t.Helper()
	template, err := all.Use(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { template.Close() })
	return template
}

func expectWants(t *testing.T, all hypervisor.Templates, m hypervisor.Machine, want bool) {
	t.Helper()
	if got, err := all.Wants(m); got != want || err != nil {
		t.Errorf("wanted: %v, %v, not %v", got, err, want)
	}
}

func expectKeys(t *testing.T, all hypervisor.Templates, want ...string) {
	t.Helper()
	list, err := all.List()
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, info := range list {
		got = append(got, info.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("templates %q, want %q", got, want)
	}
}

// names lists the directory, what is hidden included.
func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestTemplateLife(t *testing.T) {
	all, m := templates(t)
	begin := time.Now().Add(-time.Second) // file times are coarse
	if _, err := all.Use(m); !errors.Is(err, hypervisor.ErrNoTemplate) {
		t.Error(err)
	}
	expectKeys(t, all)
	expectWants(t, all, m, true)
	var made *hypervisor.VM
	if err := all.Make(t.Context(), m, hypervisor.NIC{}, func(_ context.Context, vm *hypervisor.VM) error { made = vm; return nil }); err != nil {
		t.Fatal(err)
	}
	key := mustKey(t, m)
	expectWants(t, all, m, false)
	list, err := all.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	info := list[0]
	if info.Key != key || info.Machine != m || info.Bytes != 1<<20 || info.Hits != 0 || !info.Used.IsZero() ||
		info.Created.Before(begin) || info.Created.After(time.Now()) {
		t.Errorf("%+v", info)
	}
	if made.ID().Alive() {
		t.Error("the QEMU that made it lives on")
	}
	one, two := mustUse(t, all, m), mustUse(t, all, m)
	list, err = all.List()
	if err != nil || len(list) != 1 || list[0].Hits != 2 || list[0].Used.Before(begin) {
		t.Errorf("after two clones: %v, %v", list, err)
	}
	for _, template := range []*hypervisor.Template{one, two} {
		if template.Key != key {
			t.Errorf("key %s, want %s", template.Key, key)
		}
		if err := all.Remove(key); !errors.Is(err, hypervisor.ErrInUse) {
			t.Error(err)
		}
		if err := template.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := all.Remove(key); err != nil {
		t.Error(err)
	}
	if err := all.Remove(key); !errors.Is(err, hypervisor.ErrNoTemplate) {
		t.Error(err)
	}
	expectWants(t, all, m, true)
	if got := names(t, all.Dir); !slices.Equal(got, []string{".lock"}) {
		t.Errorf("left are %q", got)
	}
}

// Remove takes keys, and no paths: what else is in the directory, or outside, is not its business.
func TestRemoveOnlyKeys(t *testing.T) {
	all, m := templates(t)
	key := mustMake(t, all, m)
	for _, name := range []string{"bystander", ".hidden", "../outside", strings.Repeat("f", 23), strings.Repeat("f", 25), strings.Repeat("F", 24)} {
		if err := os.MkdirAll(filepath.Join(all.Dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	before := append(names(t, all.Dir), names(t, filepath.Dir(all.Dir))...)
	for _, name := range append(before, "", ".", "..", "../outside", "./"+key, key+"/", key+"/memory", "/", all.Dir+"/"+key,
		"..\x00", key+"\n", strings.Repeat("0", 24), strings.Repeat("é", 12)) {
		if name == key {
			continue
		}
		if err := all.Remove(name); !errors.Is(err, hypervisor.ErrNoTemplate) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if after := append(names(t, all.Dir), names(t, filepath.Dir(all.Dir))...); !slices.Equal(after, before) {
		t.Errorf("left are %q of %q", after, before)
	}
	expectKeys(t, all, key)
}

func TestLeastRecentlyUsedGo(t *testing.T) {
	all, m := templates(t)
	all.MaxMiB = 3 // the fake's take one each
	now := time.Now().Add(-time.Hour)
	// each makes another template, as used some seconds later than the one before.
	another := func(name string) (hypervisor.Machine, string) {
		m := m
		m.KernelArgs = name
		key := mustMake(t, all, m)
		now = now.Add(time.Second)
		if err := os.Chtimes(filepath.Join(all.Dir, key, "memory"), now, now); err != nil {
			t.Fatal(err)
		}
		return m, key
	}
	a, keyA := another("a")
	b, keyB := another("b")
	_, keyC := another("c")
	expectKeys(t, all, keyA, keyB, keyC)
	usedA := mustUse(t, all, a) // now
	d, keyD := another("d")
	expectKeys(t, all, keyC, keyD, keyA)
	expectWants(t, all, b, true)
	usedD := mustUse(t, all, d)
	_, keyE := another("e") // C goes
	expectKeys(t, all, keyE, keyA, keyD)
	// Those in use stay, even when all others have gone and it is too much.
	all.MaxMiB = 1
	_, keyF := another("f")
	expectKeys(t, all, keyF, keyA, keyD)
	if err := errors.Join(usedA.Close(), usedD.Close()); err != nil {
		t.Error(err)
	}
	_, keyG := another("g")
	expectKeys(t, all, keyG)
}

func TestModesWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		t.Run(fmt.Sprintf("%#o", umask), func(t *testing.T) {
			all, m := templates(t)
			broken := m
			broken.QEMU = hypervisortest.QEMU(t, hypervisortest.DyingAtStart)
			defer unix.Umask(unix.Umask(umask))
			mustMake(t, all, m)
			mustUse(t, all, m)
			if all.Make(t.Context(), broken, hypervisor.NIC{}, atOnce) == nil {
				t.Error("a template was made of a QEMU that does not start")
			}
			files := 0
			err := filepath.WalkDir(all.Dir, func(path string, entry fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := entry.Info()
				want := fs.FileMode(0o600)
				if entry.IsDir() {
					want = 0o700 | fs.ModeDir
				}
				if files++; err != nil || info.Mode() != want {
					t.Errorf("%s is %v, want %v", path, info.Mode(), want)
				}
				return err
			})
			if err != nil || files != 8 { // two directories; memory, state, machine.json, hits; .lock, .failed
				t.Errorf("%d files, %v", files, err)
			}
		})
	}
}

// Whatever is in the place of a template or of its parts: it is not used, it is said, it goes, and can be made anew.
func TestDamagedTemplates(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "memory"), make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(dir string) error{
		"memory cut":         func(dir string) error { return os.Truncate(dir+"/memory", 31<<20) },
		"memory empty":       func(dir string) error { return os.Truncate(dir+"/memory", 0) },
		"memory too long":    func(dir string) error { return os.Truncate(dir+"/memory", 32<<20+1) },
		"memory missing":     func(dir string) error { return os.Remove(dir + "/memory") },
		"memory a directory": func(dir string) error { return errors.Join(os.Remove(dir+"/memory"), os.Mkdir(dir+"/memory", 0o700)) },
		"memory a link": func(dir string) error {
			return errors.Join(os.Remove(dir+"/memory"), os.Symlink(outside+"/memory", dir+"/memory"))
		},
		"memory a FIFO": func(dir string) error {
			return errors.Join(os.Remove(dir+"/memory"), unix.Mkfifo(dir+"/memory", 0o600))
		},
		"state empty":       func(dir string) error { return os.Truncate(dir+"/state", 0) },
		"state missing":     func(dir string) error { return os.Remove(dir + "/state") },
		"state a directory": func(dir string) error { return errors.Join(os.Remove(dir+"/state"), os.Mkdir(dir+"/state", 0o700)) },
		"state a link": func(dir string) error {
			return errors.Join(os.Remove(dir+"/state"), os.Symlink("memory", dir+"/state"))
		},
		"state a FIFO":         func(dir string) error { return errors.Join(os.Remove(dir+"/state"), unix.Mkfifo(dir+"/state", 0o600)) },
		"machine.json missing": func(dir string) error { return os.Remove(dir + "/machine.json") },
		"machine.json cut":     func(dir string) error { return os.Truncate(dir+"/machine.json", 7) },
		"all missing":          func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) },
		"a plain file":         func(dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) },
		"a link to another": func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"x"), os.Rename(dir, dir+"x"), os.Symlink(dir+"x", dir))
		},
		"a link to elsewhere": func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Symlink(outside, dir)) },
		"a link to nothing":   func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Symlink("nothing", dir)) },
		"a link to itself":    func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Symlink(dir, dir)) },
	} {
		t.Run(name, func(t *testing.T) {
			all, m := templates(t)
			key := mustMake(t, all, m)
			spoil := func() {
				if err := damage(filepath.Join(all.Dir, key)); err != nil {
					t.Fatal(err)
				}
			}
			spoil()
			expectWants(t, all, m, true)
			_, err := all.Use(m)
			if err == nil || errors.Is(err, hypervisor.ErrNoTemplate) || !strings.HasPrefix(err.Error(), "template "+key+" is damaged: ") ||
				strings.Contains(err.Error(), "\n") {
				t.Errorf("use: %v", err)
			}
			if _, err := all.Use(m); !errors.Is(err, hypervisor.ErrNoTemplate) {
				t.Errorf("use again: %v", err)
			}
			mustMake(t, all, m)
			spoil()
			mustMake(t, all, m) // which sees it by itself, too
			mustUse(t, all, m)
			expectKeys(t, all, key)
		})
	}
	if got := names(t, outside); !slices.Equal(got, []string{"memory"}) {
		t.Errorf("outside is %q", got)
	}
}

// A damaged hits file does not matter.
func TestHitsMatterLittle(t *testing.T) {
	all, m := templates(t)
	hits := filepath.Join(all.Dir, mustMake(t, all, m), "hits")
	if err := os.Remove(hits); err != nil {
		t.Fatal(err)
	}
	mustUse(t, all, m)
	if err := unix.Mkfifo(hits, 0o600); err != nil {
		t.Fatal(err)
	}
	mustUse(t, all, m)
}

// A disk that is full before the template is whole, and one that is full after it. This test needs root for the disk.
func TestFullDisk(t *testing.T) {
	all, m := templates(t)
	mount := func(size string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(all.Dir, 0o700), unix.Mount("templates", all.Dir, "tmpfs", 0, "mode=700,size="+size)); err != nil {
			t.Fatal(err)
		}
	}
	unmount := func() {
		t.Helper()
		if err := unix.Unmount(all.Dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	mount("512k") // of 1 MiB that the fake's guest touches
	if err := all.Make(t.Context(), m, hypervisor.NIC{}, atOnce); err == nil {
		t.Error("made")
	}
	expectWants(t, all, m, false)
	left := names(t, all.Dir)
	if len(left) != 2 || !strings.HasPrefix(left[0], ".failed-") || left[1] != ".lock" {
		t.Fatalf("left are %q", left)
	}
	if note, err := os.ReadFile(filepath.Join(all.Dir, left[0])); err != nil || !strings.Contains(string(note), "no space left") {
		t.Errorf("the note says %q, %v", note, err)
	}
	unmount()

	mount("2m")
	key := mustMake(t, all, m)
	if err := os.WriteFile(filepath.Join(all.Dir, "full"), make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := mustUse(t, all, m).Close(); err != nil { // though it cannot be counted
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(all.Dir, key, "hits")); err != nil || info.Size() != 0 {
		t.Errorf("hits: %v, %v", info, err)
	}
	if err := all.Remove(key); err != nil {
		t.Error(err)
	}
	unmount()
}

// A directory that others can write to is no place for templates. This test needs root for a stranger's.
func TestDirectoryMustBeOurs(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"writable by all":   func(dir string) error { return os.Chmod(dir, 0o777|fs.ModeSticky) },
		"writable by group": func(dir string) error { return os.Chmod(dir, 0o770) },
		"a stranger's":      func(dir string) error { return os.Chown(dir, 1000, 1000) },
		"a link":            func(dir string) error { return errors.Join(os.Rename(dir, dir+"x"), os.Symlink(dir+"x", dir)) },
		"a plain file":      func(dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			all, m := templates(t)
			mustMake(t, all, m)
			if err := spoil(all.Dir); err != nil {
				t.Fatal(err)
			}
			_, useErr := all.Use(m)
			wanted, wantsErr := all.Wants(m)
			m.VCPUs++
			makeErr := all.Make(t.Context(), m, hypervisor.NIC{}, atOnce)
			for _, err := range []error{useErr, wantsErr, makeErr} {
				if err == nil || errors.Is(err, hypervisor.ErrNoTemplate) || !strings.Contains(err.Error(), all.Dir) {
					t.Error(err)
				}
			}
			if wanted {
				t.Error("a template is wanted there")
			}
		})
	}
}
