package templates_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// warnings are what the keeper of a container has in its log about templates.
func (c *corner) warnings(id string) (all []string) {
	c.T.Helper()
	for line := range strings.Lines(c.ReadFile(filepath.Join(c.Root, id, "keeper.log"))) {
		var record struct{ Level, Msg, Error string }
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			c.T.Fatal(err)
		}
		if record.Level != "INFO" && strings.Contains(record.Msg, "template") {
			all = append(all, record.Msg+": "+record.Error)
		}
	}
	return all
}

// Whatever has happened to a template, the container starts, by a boot; the keeper's log says once why; the template goes.
func TestDamagedTemplates(t *testing.T) {
	c := newCorner(t, "", nil)
	dir := c.make()
	pristine := c.Path("pristine")
	duplicate(t, dir, pristine)
	in := func(name string) string { return filepath.Join(dir, name) }
	flip := func(name string, offset int64) error {
		f, err := os.OpenFile(in(name), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		one := make([]byte, 1)
		_, readErr := f.ReadAt(one, offset)
		_, writeErr := f.WriteAt([]byte{^one[0]}, offset)
		return errors.Join(readErr, writeErr, f.Close())
	}
	state, err := os.Stat(in("state"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		damage func() error
		want   string // in the log
	}{
		{"memory cut", func() error { return os.Truncate(in("memory"), 40<<20) }, "its memory has 41943040 bytes, not "},
		{"state cut in half", func() error { return os.Truncate(in("state"), state.Size()/2) }, "load of migration failed"},
		{"state's header flipped", func() error { return flip("state", 0) }, "load of migration failed"},
		{"state's version flipped", func() error { return flip("state", 7) }, "load of migration failed"},
		{"state empty", func() error { return os.Truncate(in("state"), 0) }, "its state is a "},
		{"machine.json missing", func() error { return os.Remove(in("machine.json")) }, "machine.json: no such file"},
		{"a link", func() error { return errors.Join(os.RemoveAll(dir), os.Symlink(pristine, dir)) }, "it is a L"},
		{"a plain file", func() error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) }, "not a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &corner{c.In(t), c.templates}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			duplicate(t, pristine, dir)
			if err := test.damage(); err != nil {
				t.Fatal(err)
			}
			// As if it could not be made a moment ago: so nobody makes one before we have looked.
			note := filepath.Join(c.templates, ".failed-"+filepath.Base(dir))
			if err := os.WriteFile(note, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			first := c.StartSleeper()
			c.expectClone(first.ID, false)
			if got := c.warnings(first.ID); len(got) != 1 || !strings.HasPrefix(got[0], "the template is of no use, booting instead: ") ||
				!strings.Contains(got[0], test.want) {
				t.Errorf("the log says %q, want one warning with %q", got, test.want)
			}
			if got := first.Exec("echo", "well"); got.Stdout != "well\n" || got.Code != 0 {
				t.Errorf("%v", got)
			}
			first.Remove()
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", dir, err)
			}
			if err := os.Remove(note); err != nil {
				t.Error(err)
			}
		})
	}

	// The next start says nothing of it, and has a new one made.
	next := c.StartSleeper()
	c.expectClone(next.ID, false)
	if got := c.warnings(next.ID); len(got) != 0 {
		t.Errorf("the log says %q", got)
	}
	next.Remove()
	c.awaitMakers()
	clone := c.StartSleeper()
	c.expectClone(clone.ID, true)
	if hits := c.only().Hits; hits != 1 {
		t.Errorf("%d hits, want 1", hits)
	}
}

// duplicate copies a template, holes and all.
func duplicate(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// What goes wrong with the place of templates does not keep containers from starting.
func TestNoPlaceForTemplates(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"writable by others": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)) },
		"a plain file":       func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCorner(t, "", nil)
			if err := spoil(c.templates); err != nil {
				t.Fatal(err)
			}
			first := c.StartSleeper()
			if got := c.warnings(first.ID); len(got) != 1 || !strings.Contains(got[0], "template directory "+c.templates) {
				t.Errorf("the log says %q", got)
			}
			if makers := c.makers(); len(makers) != 0 {
				t.Errorf("makers: %v", makers)
			}
			c.Refused("template directory "+c.templates, "template", "create")
			if err := os.RemoveAll(c.templates); err != nil {
				t.Error(err)
			}
		})
	}
}

// A template that the disk has no room for is not made, nor tried again soon.
func TestFullDisk(t *testing.T) {
	c := newCorner(t, "", nil)
	if err := errors.Join(os.Mkdir(c.templates, 0o700), unix.Mount("templates", c.templates, "tmpfs", 0, "mode=700,size=20m")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(c.templates, 0); err != nil {
			t.Error(err)
		}
	}()
	c.runs("echo boots", "boots\n")
	c.awaitMakers()
	var names []string
	entries, err := os.ReadDir(c.templates)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if err != nil || len(names) != 2 || !strings.HasPrefix(names[0], ".failed-") || names[1] != ".lock" {
		t.Fatalf("left are %q, %v", names, err)
	}
	note := c.ReadFile(filepath.Join(c.templates, names[0]))
	if !strings.HasPrefix(note, "make template: ") || !strings.Contains(note, "killed by SIGBUS") {
		t.Errorf("the note says %q", note)
	}
	c.runs("echo boots, too", "boots, too\n")
	if makers := c.makers(); len(makers) != 0 {
		t.Errorf("makers: %v, so soon after one that failed", makers)
	}
}
