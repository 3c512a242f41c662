package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyper-runtime/hyper/hypervisor/qmp"
	"github.com/hyper-runtime/hyper/program"
	"golang.org/x/sys/unix"
)

// VM is a QEMU that Launch started. Its methods can be called at the same time.
type VM struct {
	qemu      *program.Program
	qmp       *qmp.Client
	agent     net.Conn
	console   *console
	connected chan struct{}
	done      chan struct{}
	killed    atomic.Bool // by Kill
	machine   Machine
	runs      sync.Mutex // held while the vCPUs are stopped or started

	mu     sync.Mutex
	reason string     // QEMU's ShutdownCause, once it told one
	ports  []*plugged // what is in each hot-plug port; nil: nothing
}

// Agent is the host's end of the agent's port. Nothing written to it is lost before the guest opens the port. The
// caller closes it, after the VM's end too: what the guest sent last can still be read then.
func (vm *VM) Agent() net.Conn { return vm.agent }

// Connected is closed when something in the guest has opened the agent's port.
func (vm *VM) Connected() <-chan struct{} { return vm.connected }

// QMP is the session with QEMU.
func (vm *VM) QMP() *qmp.Client { return vm.qmp }

// ID is QEMU's process.
func (vm *VM) ID() program.ID { return vm.qemu.ID() }

// Console returns the last lines of the guest's console, the oldest first, at most 8 KiB.
func (vm *VM) Console() []string { return vm.console.last.Lines() }

// Done is closed when QEMU has ended and its console has been read to the end.
func (vm *VM) Done() <-chan struct{} { return vm.done }

// Err says why the VM ended, as an *EndError: nil before Done, and after Kill and Quit.
func (vm *VM) Err() error {
	if !isClosed(vm.done) {
		return nil
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	end := &EndError{Reason: vm.reason, Exit: vm.qemu.Err(), Console: vm.Console()}
	exit := new(program.ExitError)
	if vm.killed.Load() && errors.As(end, &exit) && exit.Status.Signal() == unix.SIGKILL {
		return nil
	}
	if end.Exit == nil && end.Reason == "host-qmp-quit" {
		return nil
	}
	return end
}

// Kill ends QEMU with SIGKILL, and returns when Done is closed. It does no harm to a VM that has ended.
func (vm *VM) Kill() {
	vm.killed.Store(true)
	vm.qemu.Kill()
	<-vm.done
}

// Quit asks QEMU to end, and returns when Done is closed. QEMU flushes what it has to; the guest is not asked.
func (vm *VM) Quit(ctx context.Context) error {
	if err := vm.qmp.Execute(ctx, "quit", nil, nil); err != nil {
		return err
	}
	select {
	case <-vm.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Pause stops the vCPUs.
func (vm *VM) Pause(ctx context.Context) error {
	vm.runs.Lock()
	defer vm.runs.Unlock()
	return vm.qmp.Execute(ctx, "stop", nil, nil)
}

// Resume lets the vCPUs run.
func (vm *VM) Resume(ctx context.Context) error {
	vm.runs.Lock()
	defer vm.runs.Unlock()
	return vm.qmp.Execute(ctx, "cont", nil, nil)
}

// Status returns QEMU's RunState: "running", "paused" …
func (vm *VM) Status(ctx context.Context) (string, error) {
	var answer struct{ Status string }
	err := vm.qmp.Execute(ctx, "query-status", nil, &answer)
	return answer.Status, err
}

// follow takes note of what QEMU tells, until it has ended.
func (vm *VM) follow(events <-chan qmp.Event) {
	for event := range events {
		switch event.Name {
		case "SHUTDOWN":
			var data struct{ Reason string }
			if json.Unmarshal(event.Data, &data) == nil {
				vm.mu.Lock()
				vm.reason = data.Reason
				vm.mu.Unlock()
			}
		case "DEVICE_DELETED":
			vm.deleted(event.Data)
		case "VSERPORT_CHANGE":
			var data struct {
				ID   string
				Open bool
			}
			if json.Unmarshal(event.Data, &data) == nil && data.ID == "agent" && data.Open && !isClosed(vm.connected) {
				close(vm.connected)
			}
		}
	}
	<-vm.qemu.Done()
	<-vm.console.done
	vm.qmp.Close()
	close(vm.done)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// deathTime is how long Explain waits for a QEMU whose sockets have closed.
const deathTime = time.Second

// Explain turns the error that ended the wait for the agent into one that names the stage: if QEMU has ended, which is
// what a broken connection usually means, it says how; in any case it has the console's last lines.
func (vm *VM) Explain(err error) *BootError {
	stage := StageKernel
	if isClosed(vm.connected) {
		stage = StageAgent
	}
	if vm.qmp.Err() != nil || isBroken(err) {
		select {
		case <-vm.done:
		case <-time.After(deathTime):
		}
	}
	if end := vm.Err(); end != nil {
		err = end
	}
	return &BootError{Stage: stage, Err: err, Console: vm.Console()}
}
