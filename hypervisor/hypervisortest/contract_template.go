package hypervisortest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/program"
)

// makeTemplate makes a template of a guest that talks, and then acts, in a directory whose name is no beginner's. It
// returns the template's directory.
func (c *contract) makeTemplate(t *testing.T, act Act) (templates hypervisor.Templates, dir string) {
	t.Helper()
	c.machine.Kernel = Kernel(t, "tick\n", act)
	templates = hypervisor.Templates{
		Dir: filepath.Join(t.TempDir(), `a,b=c "d" [e]*`, strings.Repeat("long", 25), "templates"), MaxMiB: 1024,
	}
	err := templates.Make(t.Context(), c.machine, NIC(t, c.machine.Queues()), func(_ context.Context, vm *hypervisor.VM) error {
		expectTalk(t, vm)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.machine.Key()
	if err != nil {
		t.Fatal(err)
	}
	return templates, filepath.Join(templates.Dir, key)
}

// expectTalk waits until the guest has said its line.
func expectTalk(t *testing.T, vm *hypervisor.VM) {
	t.Helper()
	for !slices.Contains(vm.Console(), "tick") {
		if _, err := vm.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func (c contract) template(t *testing.T) { c.clones(t, hypervisor.Options{}) }

// sharedMemory: what a VM with shared memory writes goes to a file that others can map, and not to the template.
func (c contract) sharedMemory(t *testing.T) { c.clones(t, hypervisor.Options{SharedMemory: true}) }

// clones checks that clones run, on taps of their own, and leave the template alone.
func (c contract) clones(t *testing.T, o hypervisor.Options) {
	templates, dir := c.makeTemplate(t, Repeat)
	before := contents(t, dir)
	for range 3 { // at once
		template, err := templates.Use(c.machine)
		if err != nil {
			t.Fatal(err)
		}
		defer template.Close()
		o.Template, o.NIC = template, NIC(t, c.machine.Queues())
		vm := c.launch(t, c.machine.Kernel, o)
		expectTalk(t, vm)
		expectTaps(t, vm, c.machine.Queues())
		if memory := openFiles(t, vm, "/memfd:guest-memory (deleted)"); (len(memory) > 0) != o.SharedMemory {
			t.Errorf("QEMU has the memory as %q", memory)
		}
		if got, err := vm.Status(t.Context()); got != "running" || err != nil {
			t.Errorf("status %q, %v", got, err)
		}
		defer vm.Kill()
	}
	after := contents(t, dir)
	if after["hits"] != before["hits"]+strings.Repeat("\x01", 3) {
		t.Errorf("%d hits, want 3", len(after["hits"]))
	}
	delete(before, "hits")
	for name, content := range before {
		if after[name] != content {
			t.Errorf("%s has changed", name)
		}
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(content)
	}
	return files
}

// damagedTemplate: a state that QEMU cannot load ends it with an error, at once or soon.
func (c contract) damagedTemplate(t *testing.T) {
	templates, dir := c.makeTemplate(t, Repeat)
	if err := os.WriteFile(filepath.Join(dir, "state"), []byte("this is no state"), 0o600); err != nil {
		t.Fatal(err)
	}
	template, err := templates.Use(c.machine)
	if err != nil {
		t.Fatal(err)
	}
	defer template.Close()
	vm, err := hypervisor.Launch(t.Context(), c.machine, hypervisor.Options{
		Share: t.TempDir(), Template: template, NIC: NIC(t, c.machine.Queues()),
	})
	if err == nil {
		<-vm.Done()
		vm.Agent().Close()
		err = vm.Err()
	}
	exit := new(program.ExitError)
	if !errors.As(err, &exit) || exit.Status.ExitStatus() != 1 || !strings.Contains(err.Error(), "load of migration failed") {
		t.Error(err)
	}
}
