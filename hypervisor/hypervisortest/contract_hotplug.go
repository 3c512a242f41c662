package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyper-runtime/hyper/hypervisor"
)

var someMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// hotplug checks further NICs in a VM whose guest lets go of them, booted or cloned.
func (c contract) hotplug(t *testing.T, vm *hypervisor.VM) {
	queues := c.machine.Queues()
	expectTaps(t, vm, queues)
	for i := range c.machine.Ports {
		nic := NIC(t, queues)
		if err := vm.AddNIC(t.Context(), fmt.Sprintf("nic%d", i), someMAC, nic); err != nil {
			t.Fatal(err)
		}
		Close(nic) // QEMU has its own
	}
	all := queues * (1 + c.machine.Ports)
	expectTaps(t, vm, all)
	full := fmt.Sprintf("add NIC more: none of the machine's %d hot-plug ports is free", c.machine.Ports)
	expectError(t, vm.AddNIC(t.Context(), "more", someMAC, NIC(t, queues)), full)
	expectError(t, vm.AddNIC(t.Context(), "nic1", someMAC, NIC(t, queues)), "add NIC nic1: there is one of that name")
	for _, id := range []string{"more", "nic", "share", ""} {
		expectError(t, vm.RemoveNIC(t.Context(), id), "remove NIC "+id+": there is none of that name")
	}
	expectTaps(t, vm, all)
	for range 3 { // the port and the name can be used again
		if err := vm.RemoveNIC(t.Context(), "nic1"); err != nil {
			t.Fatal(err)
		}
		expectTaps(t, vm, all-queues)
		if err := vm.AddNIC(t.Context(), "nic1", someMAC, NIC(t, queues)); err != nil {
			t.Fatal(err)
		}
		expectTaps(t, vm, all)
	}
	// A guest can let go of a NIC unasked. It is there, for us, until it is removed.
	deleted, cancel := vm.QMP().Subscribe("DEVICE_DELETED")
	defer cancel()
	if err := vm.QMP().Execute(t.Context(), "device_del", map[string]any{"id": "nic0"}, nil); err != nil {
		t.Fatal(err)
	}
	<-deleted
	expectError(t, vm.AddNIC(t.Context(), "nic0", someMAC, NIC(t, queues)), "add NIC nic0: there is one of that name")
	expectTaps(t, vm, all)
	// A VM that stands still does so afterwards, and one that runs, runs.
	for _, status := range []string{"running", "paused"} {
		if err := vm.RemoveNIC(t.Context(), "nic0"); err != nil {
			t.Fatal(err)
		}
		if status == "paused" {
			if err := vm.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := vm.AddNIC(t.Context(), "nic0", someMAC, NIC(t, queues)); err != nil {
			t.Fatal(err)
		}
		if got, err := vm.Status(t.Context()); got != status || err != nil {
			t.Errorf("status %q, %v, not %s", got, err, status)
		}
	}
	if err := vm.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	var removers sync.WaitGroup
	for i := range c.machine.Ports {
		removers.Go(func() {
			if err := vm.RemoveNIC(t.Context(), fmt.Sprintf("nic%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	removers.Wait()
	expectTaps(t, vm, queues)
}

func (c contract) hotplugBooted(t *testing.T) {
	vm := c.launch(t, Kernel(t, "tick\n", Eject), hypervisor.Options{NIC: NIC(t, c.machine.Queues())})
	expectTalk(t, vm)
	c.hotplug(t, vm)
}

// hotplugQueues: the NICs of a machine with several vCPUs have several queues.
func (c contract) hotplugQueues(t *testing.T) {
	c.machine.VCPUs = 3
	c.hotplugBooted(t)
}

func (c contract) hotplugCloned(t *testing.T) {
	templates, _ := c.makeTemplate(t, Eject)
	template, err := templates.Use(c.machine)
	if err != nil {
		t.Fatal(err)
	}
	defer template.Close()
	for _, shared := range []bool{false, true} {
		o := hypervisor.Options{Template: template, NIC: NIC(t, c.machine.Queues()), SharedMemory: shared}
		vm := c.launch(t, c.machine.Kernel, o)
		expectRunning(t, vm)
		c.hotplug(t, vm)
	}
}

// expectRunning waits until a clone runs.
func expectRunning(t *testing.T, vm *hypervisor.VM) {
	t.Helper()
	for status := ""; status != "running"; {
		var err error
		if status, err = vm.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// hotplugRefused: of a NIC that QEMU refuses nothing is left, wherever it does.
func (c contract) hotplugRefused(t *testing.T) {
	queues := c.machine.Queues()
	vm := c.launch(t, Kernel(t, "tick\n", Eject), hypervisor.Options{NIC: NIC(t, queues)})
	expectTalk(t, vm)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	closed := NIC(t, queues)
	Close(closed)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name string
		id   string
		ctx  context.Context
		nic  hypervisor.NIC
	}{
		{"no tap", "extra", t.Context(), hypervisor.NIC{Tap: []*os.File{null}}},
		{"a closed file", "extra", t.Context(), closed},
		{"the id of another device", "share", t.Context(), NIC(t, queues)},
		{"the id of the slot", "nic", t.Context(), NIC(t, queues)},
		{"too many queues", "extra", t.Context(), NIC(t, queues+1)},
		{"vhost", "extra", t.Context(), hypervisor.NIC{Tap: NIC(t, queues).Tap, VHost: []*os.File{null}}},
		{"a context that has ended", "extra", cancelled, NIC(t, queues)},
	} {
		for range c.machine.Ports + 1 { // no port is lost
			err := vm.AddNIC(test.ctx, test.id, someMAC, test.nic)
			if err == nil || strings.Contains(err.Error(), "hot-plug port") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		expectTaps(t, vm, queues)
	}
	c.hotplug(t, vm)
}

// hotplugKept: a guest that does not let go of a NIC keeps it, but nobody from going on.
func (c contract) hotplugKept(t *testing.T) {
	queues := c.machine.Queues()
	vm := c.launch(t, Kernel(t, "tick\n", Halt), hypervisor.Options{NIC: NIC(t, queues)})
	expectTalk(t, vm)
	if err := vm.AddNIC(t.Context(), "extra", someMAC, NIC(t, queues)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := vm.RemoveNIC(ctx, "extra"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	expectTaps(t, vm, 2*queues)
	expectError(t, vm.AddNIC(t.Context(), "extra", someMAC, NIC(t, queues)), "add NIC extra: there is one of that name")
	removed := make(chan error)
	go func() { removed <- vm.RemoveNIC(t.Context(), "extra") }()
	if _, err := vm.Status(t.Context()); err != nil {
		t.Error(err)
	}
	vm.Kill()
	if err := <-removed; err == nil {
		t.Error("removed from a dead VM")
	}
	if err := vm.AddNIC(t.Context(), "other", someMAC, NIC(t, queues)); err == nil {
		t.Error("added to a dead VM")
	}
}

func expectError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// expectTaps counts the descriptors of taps that QEMU has.
func expectTaps(t *testing.T, vm *hypervisor.VM, want int) {
	t.Helper()
	if got := len(openFiles(t, vm, "/dev/net/tun")); got != want {
		t.Errorf("QEMU has %d descriptors of taps, want %d", got, want)
	}
}

// openFiles returns the paths in /proc of QEMU's descriptors of that file.
func openFiles(t *testing.T, vm *hypervisor.VM, target string) (paths []string) {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", vm.ID().PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if got, err := os.Readlink(path); err == nil && got == target {
			paths = append(paths, path)
		}
	}
	return paths
}
