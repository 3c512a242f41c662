package podman_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// testOOM checks that conmon learns of a process that the kernel has killed for memory: the container's first one, or
// another.
func testOOM(t *testing.T, e *engine) {
	for _, c := range []struct {
		script string
		code   string
		oom    bool
	}{
		{"exec tail /dev/zero", "137", true},
		{"tail /dev/zero; exit 3", "3", true},
		{"exec head -c 1m /dev/zero", "0", false},
	} {
		t.Run(c.script, func(t *testing.T) {
			e.expectOOM(t, c.code, c.oom, append(e.flags("run", "-d", "--network", "none", "--memory", "40m"), image, "sh", "-c", c.script)...)
		})
	}
}

// expectOOM runs a container in the background to its end, and wants an exit code and to have been out of memory or not.
// conmon notes that in a file in its working directory, which is podman's. podman reads such a note from version 5 on,
// in another place.
func (e *engine) expectOOM(t *testing.T, code string, oom bool, args ...string) {
	t.Helper()
	cmd := e.command(args...)
	cmd.Dir = t.TempDir()
	p := e.In(t).Spawn(cmd)
	p.Stdin.Close()
	r := p.Wait()
	if r.Code != 0 {
		t.Fatal(r)
	}
	if got := e.ok(t, "wait", r.Stdout[:len(r.Stdout)-1]); got != code {
		t.Errorf("it ended with %s, want %s", got, code)
	}
	_, err := os.Stat(filepath.Join(cmd.Dir, "oom"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if noted := err == nil; noted != oom {
		t.Errorf("conmon notes that it was out of memory: %v, want %v", noted, oom)
	}
}
