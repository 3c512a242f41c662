// Package templates_test runs real containers from templates of their machines, through the command line: that clones
// are no twins, that nothing they do reaches the template, that a damaged one is noticed, and that making one is in
// nobody's way.
package templates_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// corner is a test's own corner of the machine, with a directory of templates of its own.
type corner struct {
	*harness.Host
	templates string
}

// newCorner has the config under test, or that of the file named, with some keys set otherwise.
func newCorner(t *testing.T, config string, keys map[string]any) *corner {
	t.Helper()
	h := harness.New(t)
	c := &corner{h, filepath.Join("/var/tmp", h.Token)} // on a disk, as hypervisor.Templates says
	// A template maker gets nothing of the environment but PATH: so that has the token, by which we know our makers.
	path := "PATH=" + os.Getenv("PATH") + ":/no/" + h.Token
	if config == "" {
		config = h.Runtime.Config
	}
	h.Runtime = harness.Runtime{
		Path: "/usr/bin/env", Args: []string{path, h.Runtime.Path, "--config", h.Path("config.toml")}, Config: config,
	}
	c.setConfig(keys)
	t.Cleanup(func() {
		c.awaitMakers()
		c.expectTidy()
		if err := os.RemoveAll(c.templates); err != nil {
			t.Error(err)
		}
	})
	return c
}

// setConfig sets keys in the config under test otherwise, besides the directory of templates.
func (c *corner) setConfig(keys map[string]any) {
	c.T.Helper()
	text := c.ReadFile(c.Runtime.Config)
	all := map[string]any{"template_dir": c.templates}
	maps.Copy(all, keys)
	for key, value := range all {
		line, err := json.Marshal(value) // TOML's strings and numbers are written alike
		if err != nil {
			c.T.Fatal(err)
		}
		text = regexp.MustCompile(`(?m)^`+key+` *=.*$`).ReplaceAllString(text, "") + fmt.Sprintf("\n%s = %s\n", key, line)
	}
	c.WriteFile("config.toml", text, 0o644)
}

// expectTidy wants nothing in the directory but whole templates, a lock, and notes on what could not be made.
func (c *corner) expectTidy() {
	c.T.Helper()
	entries, err := os.ReadDir(c.templates)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.T.Error(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); name != ".lock" && !strings.HasPrefix(name, ".failed-") && !isKey.MatchString(name) {
			c.T.Errorf("left is %s", name)
		}
	}
}

var isKey = regexp.MustCompile(`^[0-9a-f]{24}$`)

// makers are the template makers at work.
func (c *corner) makers() []int {
	c.T.Helper()
	return slices.DeleteFunc(c.Programs("hyper"), func(pid int) bool {
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || !strings.Contains(string(argv), "\x00template-maker\x00")
	})
}

// awaitMakers waits for the end of all makers, which the commands that started them have left to us.
func (c *corner) awaitMakers() {
	c.T.Helper()
	for _, pid := range c.makers() {
		c.Reap(pid)
	}
}

// qemus are the processes of our VMs, and those of makers.
func (c *corner) qemus() []int {
	c.T.Helper()
	return c.Programs(qemu)
}

// qemu is the name of the host's QEMU.
var qemu = map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[runtime.GOARCH]

// expectClone tells by the command line of a container's QEMU whether it is a clone.
func (c *corner) expectClone(id string, want bool) {
	c.T.Helper()
	for _, pid := range c.qemus() {
		argv := c.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if !strings.Contains(argv, "/"+id+"/") {
			continue
		}
		if got := strings.Contains(argv, "\x00-incoming\x00"); got != want {
			c.T.Errorf("%s is a clone: %v, not %v", id, got, want)
		}
		return
	}
	c.T.Errorf("%s has no QEMU", id)
}

// template is what `template list` tells of one.
type template struct {
	Key           string
	Machine       map[string]any
	Bytes, Hits   int64
	Created, Used time.Time
}

func (c *corner) list() (list []template) {
	c.T.Helper()
	if err := json.Unmarshal([]byte(c.OK("template", "list", "--format", "json")), &list); err != nil {
		c.T.Fatal(err)
	}
	return list
}

// only is the one template that there is.
func (c *corner) only() template {
	c.T.Helper()
	list := c.list()
	if len(list) != 1 {
		c.T.Fatalf("templates: %+v, want one", list)
	}
	return list[0]
}

// make makes the template of a container without limits, and returns its directory.
func (c *corner) make() string {
	c.T.Helper()
	c.OK("template", "create")
	return filepath.Join(c.templates, c.only().Key)
}

// runs runs a shell script in a container to its end, and wants this output.
func (c *corner) runs(script, want string) {
	c.T.Helper()
	b := c.Shell(script)
	b.Write()
	if got := c.OK("run", "--bundle", b.Dir, c.ID()); got != want {
		c.T.Errorf("%s: got %q, want %q", script, got, want)
	}
}

// kernels are the configs of the guest kernels that there are: Debian's always, the tuned one where it was built.
func kernels(t *testing.T) map[string]string {
	t.Helper()
	const build = "../../build/"
	all := map[string]string{"debian": build + "debian.toml"}
	if _, err := os.Stat(build + "tuned.toml"); err == nil {
		all["tuned"] = build + "tuned.toml"
	}
	return all
}
