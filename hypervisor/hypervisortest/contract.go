package hypervisortest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/hypervisor/qmp"
	"github.com/hyper-runtime/hyper/program"
	"golang.org/x/sys/unix"
)

// NoSuchCPU is a CPU model that no QEMU has.
const NoSuchCPU = "no-such-cpu"

// Contract checks what package hypervisor promises, on a machine with any QEMU: the fake and the real one keep the same
// contract, so that tests on the fake mean something. The machine must be a q35; its kernel is the contract's own.
func Contract(t *testing.T, machine hypervisor.Machine) {
	c := contract{machine}
	t.Run("status", c.status)
	t.Run("refusal", c.refusal)
	t.Run("many callers", c.manyCallers)
	t.Run("cancelled call", c.cancelledCall)
	t.Run("quit", c.quit)
	t.Run("kill", c.kill)
	t.Run("killed by a stranger", c.killedByStranger)
	t.Run("guest powers off", c.powerOff)
	t.Run("guest resets", c.reset)
	t.Run("console flood", c.consoleFlood)
	t.Run("QEMU refuses the machine", c.refusedMachine)
	t.Run("QEMU refuses the share", c.refusedShare)
	t.Run("cancelled launch", c.cancelledLaunch)
	t.Run("nasty names", c.nastyNames)
	t.Run("template", c.template)
	t.Run("template with shared memory", c.sharedMemory)
	t.Run("damaged template", c.damagedTemplate)
	t.Run("hot-plug", c.hotplugBooted)
	t.Run("hot-plug, several queues", c.hotplugQueues)
	t.Run("hot-plug into clones", c.hotplugCloned)
	t.Run("hot-plug refused", c.hotplugRefused)
	t.Run("hot-unplug refused", c.hotplugKept)
}

type contract struct{ machine hypervisor.Machine }

// launch starts a VM that ends with the test at the latest.
func (c contract) launch(t *testing.T, kernel string, o hypervisor.Options) *hypervisor.VM {
	t.Helper()
	if o.Share == "" {
		o.Share = t.TempDir()
	}
	if len(o.NIC.Tap) == 0 {
		o.NIC = NIC(t, c.machine.Queues())
	}
	m := c.machine
	m.Kernel = kernel
	vm, err := hypervisor.Launch(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Kill(); vm.Agent().Close() })
	return vm
}

func (c contract) status(t *testing.T) {
	vm := c.launch(t, Kernel(t, "", Halt), hypervisor.Options{})
	events, cancel := vm.QMP().Subscribe("STOP", "RESUME")
	defer cancel()
	expect := func(want, event string) {
		t.Helper()
		if event != "" {
			if e := <-events; e.Name != event || e.Time.IsZero() {
				t.Errorf("event %v, want %s", e, event)
			}
		}
		if got, err := vm.Status(t.Context()); got != want || err != nil {
			t.Errorf("status %q, %v, want %s", got, err, want)
		}
	}
	expect("running", "")
	for range 2 {
		if err := vm.Pause(t.Context()); err != nil {
			t.Error(err)
		}
	}
	expect("paused", "STOP")
	if err := vm.Resume(t.Context()); err != nil {
		t.Error(err)
	}
	expect("running", "RESUME")
	if v := vm.QMP().Version(); v.Major < 7 || v.Major == 7 && v.Minor < 2 {
		t.Errorf("version %v", v)
	}
	if !vm.ID().Alive() || vm.Err() != nil {
		t.Errorf("alive %v, error %v", vm.ID().Alive(), vm.Err())
	}
}

func (c contract) refusal(t *testing.T) {
	vm := c.launch(t, Kernel(t, "", Halt), hypervisor.Options{})
	err := vm.QMP().Execute(t.Context(), "fly", nil, nil)
	refused := new(qmp.Error)
	if !errors.As(err, &refused) || refused.Class != "CommandNotFound" || refused.Command != "fly" || refused.Desc == "" {
		t.Error(err)
	}
}

func (c contract) manyCallers(t *testing.T) {
	vm := c.launch(t, Kernel(t, "", Halt), hypervisor.Options{})
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			var answer map[string]json.RawMessage
			command, key := "query-status", "running"
			if i%2 == 0 {
				command, key = "query-version", "qemu"
			}
			if err := vm.QMP().Execute(t.Context(), command, nil, &answer); err != nil || answer[key] == nil {
				t.Errorf("%s: %v, %v", command, answer, err)
			}
		})
	}
	all.Wait()
}

func (c contract) cancelledCall(t *testing.T) {
	vm := c.launch(t, Kernel(t, "", Halt), hypervisor.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := vm.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got, err := vm.Status(t.Context()); got != "running" || err != nil {
		t.Errorf("status %q, %v", got, err)
	}
}

func (c contract) quit(t *testing.T) {
	vm := c.launch(t, Kernel(t, "", Halt), hypervisor.Options{})
	if err := vm.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	expectEnd(t, vm, "")
}

func (c contract) kill(t *testing.T) {
	vm := c.launch(t, Kernel(t, "", Halt), hypervisor.Options{})
	vm.Kill()
	vm.Kill()
	expectEnd(t, vm, "")
	if _, err := vm.Status(t.Context()); err == nil {
		t.Error("a dead VM has a status")
	}
	if _, err := vm.Agent().Read(make([]byte, 1)); err == nil {
		t.Error("a dead VM's agent speaks")
	}
}

func (c contract) killedByStranger(t *testing.T) {
	vm := c.launch(t, Kernel(t, "alive\n", Halt), hypervisor.Options{})
	events, _ := vm.QMP().Subscribe()
	if err := vm.ID().Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range events { // ends
	}
	<-vm.Done()
	expectEnd(t, vm, ": killed by SIGKILL")
	failed := vm.Explain(fmt.Errorf("read: %w", unix.ECONNRESET))
	if exit := new(program.ExitError); !errors.As(failed, &exit) {
		t.Error(failed)
	}
}

func (c contract) powerOff(t *testing.T) {
	vm := c.launch(t, Kernel(t, "one\ntwo\x1b[31m\n", PowerOff), hypervisor.Options{})
	expectEnd(t, vm, "the guest powered off; last console lines: one | two [31m")
}

func (c contract) reset(t *testing.T) {
	log := filepath.Join(t.TempDir(), "console")
	vm := c.launch(t, Kernel(t, "[ 0.1] Kernel panic - not syncing: no init\n[ 0.1] Call Trace:\n", Reset), hypervisor.Options{Console: log, ConsoleBytes: 128 << 10})
	expectEnd(t, vm, "the guest reset itself: Kernel panic - not syncing: no init")
	want := "the kernel did not boot: the guest reset itself: Kernel panic - not syncing: no init"
	if failed := vm.Explain(context.DeadlineExceeded); !strings.HasSuffix(failed.Error(), want[len(hypervisor.StageKernel):]) {
		t.Errorf("got %v, want %s", failed, want)
	}
	info, err := os.Stat(log)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("console file: %v, %v", info, err)
	}
	if said, err := os.ReadFile(log); !strings.HasSuffix(string(said), "no init\n[ 0.1] Call Trace:\n") {
		t.Errorf("console file has %q, %v", said, err)
	}
}

func (c contract) consoleFlood(t *testing.T) {
	const line = "a line of sixty-four bytes, said for ever, as fast as possible.\n"
	log := filepath.Join(t.TempDir(), "console")
	vm := c.launch(t, Kernel(t, line, Repeat), hypervisor.Options{Console: log, ConsoleBytes: 128 << 10})
	var old int64
	for old < 60<<10 { // until the files have gone round
		if _, err := vm.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		old = size(log + ".1")
	}
	vm.Kill()
	expectEnd(t, vm, "")
	if total := size(log) + size(log+".1"); total > 128<<10 {
		t.Errorf("the console takes %d bytes", total)
	}
	// QEMU drops bytes of a serial port whose reader is slower: not every line is whole.
	lines := vm.Console()
	if kept := len(strings.Join(lines, "\n")); kept < 4<<10 || kept > 8<<10 || !slices.Contains(lines, strings.TrimSpace(line)) {
		t.Errorf("%d bytes are kept, the first line is %q", kept, lines[0])
	}
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (c contract) refusedMachine(t *testing.T) {
	m := c.machine
	m.Kernel, m.CPUModel = Kernel(t, "", Halt), NoSuchCPU
	vm, err := hypervisor.Launch(t.Context(), m, hypervisor.Options{Share: t.TempDir()})
	boot, exit := new(hypervisor.BootError), new(program.ExitError)
	if vm != nil || !errors.As(err, &boot) || boot.Stage != hypervisor.StageQEMU || !errors.As(err, &exit) {
		t.Fatalf("got %v, %v", vm, err)
	}
	if exit.Status.ExitStatus() != 1 || !strings.Contains(err.Error(), "exit status 1: ") ||
		!strings.HasSuffix(err.Error(), "unable to find CPU model '"+NoSuchCPU+"'") {
		t.Error(err)
	}
}

func (c contract) refusedShare(t *testing.T) {
	m := c.machine
	m.Kernel = Kernel(t, "", Halt)
	_, err := hypervisor.Launch(t.Context(), m, hypervisor.Options{Share: filepath.Join(t.TempDir(), "missing")})
	if boot := new(hypervisor.BootError); !errors.As(err, &boot) || !strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}
}

func (c contract) cancelledLaunch(t *testing.T) {
	m := c.machine
	m.Kernel = Kernel(t, "", Halt)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := hypervisor.Launch(ctx, m, hypervisor.Options{Share: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func (c contract) nastyNames(t *testing.T) {
	share := filepath.Join(t.TempDir(), `a,b=c,,d "e" 'f' \g %h ü ,security_model=none`)
	if err := os.Mkdir(share, 0o700); err != nil {
		t.Fatal(err)
	}
	c.machine.KernelArgs = `a,b=c,,d "e" 'f' \g %h ü`
	c.machine.Initrd = filepath.Join(share, "initrd,,readonly=on")
	if err := os.WriteFile(c.machine.Initrd, []byte("initrd"), 0o600); err != nil {
		t.Fatal(err)
	}
	kernel := filepath.Join(share, "kernel")
	if err := os.Rename(Kernel(t, "booted", PowerOff), kernel); err != nil {
		t.Fatal(err)
	}
	vm := c.launch(t, kernel, hypervisor.Options{Share: share, Console: filepath.Join(share, "console")})
	expectEnd(t, vm, "the guest powered off; last console lines: booted")
}

// expectEnd waits for the VM's end, and compares its error's end: "" means none.
func expectEnd(t *testing.T, vm *hypervisor.VM, want string) {
	t.Helper()
	<-vm.Done()
	err := vm.Err()
	if end := new(hypervisor.EndError); err != nil && !errors.As(err, &end) {
		t.Errorf("%T is no *EndError", err)
	}
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("ended with %v, want %q", err, want)
	}
	if vm.ID().Alive() {
		t.Error("alive after its end")
	}
}
