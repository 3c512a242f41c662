package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// refusedBundle wants create to fail with one line, quickly, and to leave nothing.
func refusedBundle(t *testing.T, h *harness.Host, b *harness.Bundle, want string) {
	t.Helper()
	began := time.Now()
	c, r := h.CreateWritten(b, h.ID())
	if c != nil || !strings.Contains(r.Stderr, want) || r.Stderr == "" {
		t.Errorf("create: %v, want a failure with %q", r, want)
	}
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("the failure took %s", took)
	}
	if left, err := os.ReadDir(h.Root); len(left) > 0 || err != nil && !os.IsNotExist(err) {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestBrokenConfig(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.Write()
	good := h.ReadFile(b.ConfigPath())
	for name, config := range map[string]string{
		"empty":             "",
		"cut off":           good[:len(good)/2],
		"not JSON":          "\x00\xff",
		"other type":        `{"process":[]}`,
		"uid too big":       strings.Replace(good, `"uid": 0`, `"uid": 4294967296`, 1),
		"negative uid":      strings.Replace(good, `"uid": 0`, `"uid": -1`, 1),
		"relative cwd":      strings.Replace(good, `"cwd": "/"`, `"cwd": "tmp"`, 1),
		"no args":           strings.Replace(good, `"args": [`, `"args": null, "x": [`, 1),
		"no such rootfs":    strings.Replace(good, `"path": "rootfs"`, `"path": "missing"`, 1),
		"no such namespace": strings.Replace(good, `"type": "uts"`, `"type": "uts","path":"/no/such/namespace"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if config == good {
				t.Fatal("the test does not change the config")
			}
			if err := os.WriteFile(b.ConfigPath(), []byte(config), 0o644); err != nil {
				t.Fatal(err)
			}
			refusedBundle(t, h.In(t), b, "")
		})
	}
	t.Run("none", func(t *testing.T) {
		if err := os.Remove(b.ConfigPath()); err != nil {
			t.Fatal(err)
		}
		refusedBundle(t, h.In(t), b, "config.json")
	})
}

// A command that cannot run is found out by create, with the texts that engines turn into 126 and 127.
func TestUnrunnableCommand(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ command, want string }{
		{"no-such-command", "executable file not found in $PATH"},
		{"/no/such/command", "no such file or directory"},
		{"/etc/passwd", "permission denied"},
	} {
		t.Run(test.want, func(t *testing.T) {
			h := harness.New(t)
			b := h.Bundle(test.command)
			b.WriteUnchecked()
			refusedBundle(t, h, b, test.want)
		})
	}
}

// What create read is what runs.
func TestConfigChangesAfterCreate(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Shell("echo old; hostname")
	b.SetHostname("old-name")
	c := h.Create(b)
	b.SetProcessArgs([]string{"sh", "-c", "echo new"})
	b.SetHostname("new-name")
	b.Write()
	c.Start()
	if r := c.Wait(); r.Stdout != "old\nold-name\n" {
		t.Errorf("container: %v", r)
	}
	if err := os.RemoveAll(b.Dir); err != nil { // and the bundle may go before the container does
		t.Fatal(err)
	}
	h.OK("state", c.ID)
	h.OK("delete", c.ID)
}

// Files of a bundle that are no files, or too big to be true.
func TestOursHostileBundle(t *testing.T) {
	t.Parallel()
	sparse := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Truncate(path, 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	fifo := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, spoil := range map[string]func(t *testing.T, path string){"FIFO": fifo, "1 GiB": sparse} {
		t.Run("config.json is a "+name, func(t *testing.T) {
			h := harness.New(t)
			b := h.Sleeper()
			b.Write()
			spoil(t, b.ConfigPath())
			refusedBundle(t, h, b, "config.json")
		})
		t.Run("the user files are a "+name, func(t *testing.T) {
			h := harness.New(t)
			b := h.Shell("echo ready; exec sleep 1000")
			for _, file := range []string{"etc/passwd", "etc/group"} {
				spoil(t, filepath.Join(b.Rootfs, file))
			}
			c := h.StartNew(b) // numeric ids need no file
			c.Stdout.Expect(t, "ready")
			for _, user := range []string{"1000:1000", "user", "user:group"} {
				began := time.Now()
				r := h.Run("exec", "--user", user, c.ID, "awk", "/^Uid/ { print $2 }", "/proc/self/status") // id(1) reads the files
				t.Logf("exec --user %s: %v", user, r)
				if took := time.Since(began); took > 60*time.Second {
					t.Errorf("exec --user %s took %s", user, took)
				}
			}
		})
	}
}
