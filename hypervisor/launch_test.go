package hypervisor_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/hypervisor/hypervisortest"
	"github.com/hyper-runtime/hyper/hypervisor/qmp"
)

func TestMain(m *testing.M) {
	hypervisortest.Main(nil)
	playTemplateProcess()
	os.Exit(m.Run())
}

func machine(qemu string) hypervisor.Machine {
	return hypervisor.Machine{
		Arch: hypervisor.AMD64, Accel: hypervisor.TCG, QEMU: qemu, VCPUs: 1, MemoryMiB: 32, Ports: 2,
	}
}

func TestFakeQEMU(t *testing.T) {
	hypervisortest.Contract(t, machine(hypervisortest.QEMU(t, hypervisortest.Answering)))
}

func TestRealQEMU(t *testing.T) {
	const qemu = "qemu-system-x86_64"
	if _, err := exec.LookPath(qemu); err != nil {
		t.Fatalf("%v: make deps installs it", err)
	}
	hypervisortest.Contract(t, machine(qemu))
}

// launchFake launches a fake QEMU in a mode other than answering.
func launchFake(t *testing.T, ctx context.Context, mode hypervisortest.Mode) (*hypervisor.VM, error) {
	t.Helper()
	m := machine(hypervisortest.QEMU(t, mode))
	m.Kernel = hypervisortest.Kernel(t, "", hypervisortest.Halt)
	vm, err := hypervisor.Launch(ctx, m, hypervisor.Options{Share: t.TempDir()})
	if err == nil {
		t.Cleanup(func() { vm.Kill(); vm.Agent().Close() })
	}
	return vm, err
}

func TestLaunchFails(t *testing.T) {
	for _, test := range []struct {
		mode hypervisortest.Mode
		want string
	}{
		{hypervisortest.DyingAtStart, "QEMU did not start: fake-qemu-dying-at-start: exit status 1: fake-qemu-dying-at-start: this machine cannot be"},
		{hypervisortest.Refusing, "QEMU did not start: qmp cont: refused"},
		{hypervisortest.Hanging, "QEMU did not start: read qmp greeting: context deadline exceeded"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // for the one that hangs
		_, err := launchFake(t, ctx, test.mode)
		cancel()
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.mode, err, test.want)
		}
	}
}

func TestLaunchMissingBinary(t *testing.T) {
	m := machine("/nowhere/qemu")
	m.Kernel = hypervisortest.Kernel(t, "", hypervisortest.Halt)
	_, err := hypervisor.Launch(t.Context(), m, hypervisor.Options{Share: t.TempDir()})
	if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "QEMU did not start: start qemu: ") {
		t.Error(err)
	}
}

func TestDeathInCommand(t *testing.T) {
	vm, err := launchFake(t, t.Context(), hypervisortest.DyingInCommand)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Status(t.Context()); err == nil {
		t.Error("no error")
	}
	<-vm.Done()
	if want := "fake-qemu-dying-in-command: exit status 1: a bug in the emulator"; vm.Err() == nil || vm.Err().Error() != want {
		t.Errorf("got %v, want %s", vm.Err(), want)
	}
}

func TestStalledQEMU(t *testing.T) {
	vm, err := launchFake(t, t.Context(), hypervisortest.Stalling)
	if err != nil {
		t.Fatal(err)
	}
	<-vm.Connected()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := vm.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	failed := vm.Explain(ctx.Err())
	if want := "the agent did not answer: context deadline exceeded"; failed.Error() != want {
		t.Errorf("got %v, want %s", failed, want)
	}
	vm.Kill() // does not need QEMU's consent
	if refused := new(qmp.Error); errors.As(vm.Err(), &refused) || vm.Err() != nil {
		t.Error(vm.Err())
	}
}

// What the guest sent last can be read after its end.
func TestAgentPort(t *testing.T) {
	vm, err := launchFake(t, t.Context(), hypervisortest.Answering)
	if err != nil {
		t.Fatal(err)
	}
	<-vm.Connected()
	if err := vm.Agent().SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Agent().Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if err := vm.Agent().SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(vm.Agent(), "hello"); err != nil {
		t.Fatal(err)
	}
	echo := make([]byte, 5)
	if _, err := io.ReadFull(vm.Agent(), echo[:1]); err != nil {
		t.Fatal(err)
	}
	vm.Kill()
	if _, err := io.ReadFull(vm.Agent(), echo[1:]); err != nil || string(echo) != "hello" {
		t.Errorf("got %q, %v", echo, err)
	}
}
