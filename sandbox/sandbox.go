// Package sandbox is the lifecycle of one VM and the containers in it. It joins the rooms that each know one thing:
// hypervisor, agent/client, storage, device, oci. The keeper and the shim drive it.
package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyper-runtime/hyper/agent/client"
	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/network"
	"github.com/hyper-runtime/hyper/storage"
)

// Options say what a sandbox is made of.
type Options struct {
	ID          string // also the guest's host name, shortened
	Machine     hypervisor.Machine
	Templates   *hypervisor.Templates // nil: the VM boots
	ShareDir    string                // existing empty directory that becomes the share
	Console     string                // file for the end of the guest's console
	ConsoleSize int                   // bytes that are kept of it
	BootTimeout time.Duration         // hang guard from QEMU's start to the agent's answer
	Network     string                // how interfaces reach the guest: ModelTC or ModelMacvtap
	OwnNetwork  bool                  // the network namespace that we run in is the sandbox's own, and ends with us
	LateNetwork bool                  // it may get its interfaces between Create and Start
	Log         *slog.Logger
}

// Sandbox is one VM and the containers in it.
type Sandbox struct {
	log    *slog.Logger
	share  *storage.Share
	wiring *wiring
	stop   context.CancelFunc // ends the boot
	ended  chan struct{}      // closed when the VM has ended, or there never was one

	booted  chan struct{} // closed when the following are valid
	vm      *hypervisor.VM
	agent   *client.Client
	bootErr error

	follow sync.Once     // followNetwork
	stream atomic.Uint32 // the last stream number given out
	mu     sync.Mutex
	// containers by id, guarded by mu
	containers map[string]*Container
}

// Launch begins a sandbox and returns while its VM starts: Ready waits for that.
func Launch(o Options) (*Sandbox, error) {
	share, err := storage.NewShare(o.ShareDir)
	if err != nil {
		return nil, err
	}
	wiring, err := newWiring(o)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(context.Background(), o.BootTimeout)
	s := &Sandbox{
		log: o.Log, share: share, wiring: wiring, stop: stop, ended: make(chan struct{}),
		booted: make(chan struct{}), containers: make(map[string]*Container),
	}
	go func() {
		defer close(s.ended)
		s.vm, s.agent, s.bootErr = start(ctx, o, wiring.nic())
		stop()
		if s.agent != nil {
			s.agent.AnswerQuestions(wiring.answer)
		}
		close(s.booted)
		if s.vm != nil {
			<-s.vm.Done()
		}
		if err := wiring.close(); err != nil {
			s.log.Warn("something of the network stays", "error", err)
		}
	}()
	return s, nil
}

// VM is the sandbox's. There is one after Ready.
func (s *Sandbox) VM() *hypervisor.VM { return s.vm }

// start brings up a VM with an agent that is set up: a clone of the machine's template if there is one, else by a boot.
func start(ctx context.Context, o Options, nic hypervisor.NIC) (*hypervisor.VM, *client.Client, error) {
	if o.Templates == nil {
		return run(ctx, o, nic, nil)
	}
	template, err := o.Templates.Use(o.Machine)
	if err == nil {
		var vm *hypervisor.VM
		var agent *client.Client
		if vm, agent, err = clone(ctx, o, nic, template); err == nil {
			return vm, agent, nil
		}
	}
	if !errors.Is(err, hypervisor.ErrNoTemplate) {
		o.Log.Warn("the template is of no use, booting instead", "error", err)
	}
	vm, agent, err := run(ctx, o, nic, nil)
	if err == nil && template != nil { // so it is the template's fault
		if err := template.Discard(); err != nil {
			o.Log.Warn("the template stays", "error", err)
		}
	}
	return vm, agent, err
}

// clone brings up a clone. The template stays in use, and so is not removed, until the VM has ended.
func clone(ctx context.Context, o Options, nic hypervisor.NIC, template *hypervisor.Template) (*hypervisor.VM, *client.Client, error) {
	ctx, stop := context.WithTimeout(ctx, o.BootTimeout/2) // a hang guard, which leaves time for a boot
	defer stop()
	vm, agent, err := run(ctx, o, nic, template)
	if err != nil {
		return nil, nil, errors.Join(err, template.Close())
	}
	go func() {
		<-vm.Done()
		template.Close()
	}()
	return vm, agent, nil
}

// run starts a VM and makes its guest this sandbox's own. On error there is no VM left.
func run(ctx context.Context, o Options, nic hypervisor.NIC, template *hypervisor.Template) (*hypervisor.VM, *client.Client, error) {
	vm, err := hypervisor.Launch(ctx, o.Machine, hypervisor.Options{
		Share: o.ShareDir, Console: o.Console, ConsoleBytes: o.ConsoleSize, Template: template, NIC: nic,
	})
	if err != nil {
		return nil, nil, err
	}
	o.Log.Debug("QEMU runs")
	agent, err := greet(ctx, o, vm)
	if err != nil {
		boot := vm.Explain(err)
		vm.Kill()
		return nil, nil, boot
	}
	return vm, agent, nil
}

func greet(ctx context.Context, o Options, vm *hypervisor.VM) (*client.Client, error) {
	agent, err := client.New(ctx, vm.Agent())
	if err != nil {
		return nil, err
	}
	o.Log.Debug("the agent answers")
	request, err := setup(o.ID)
	if err != nil {
		return nil, err
	}
	if _, err := agent.Setup(ctx, request); err != nil {
		return nil, err
	}
	o.Log.Debug("the guest is set up")
	return agent, nil
}

// MakeTemplate boots the machine and keeps it as a template, unless there is one.
func MakeTemplate(ctx context.Context, templates *hypervisor.Templates, machine hypervisor.Machine) error {
	if err := machine.Validate(); err != nil {
		return err
	}
	tap, err := network.NewTapAlone(machine.Queues())
	if err != nil {
		return err
	}
	defer tap.Close()
	nic := hypervisor.NIC{Tap: tap.Files(), VHost: tap.VHost()}
	return templates.Make(ctx, machine, nic, func(ctx context.Context, vm *hypervisor.VM) error {
		return client.Handshake(ctx, vm.Agent())
	})
}

// setup says what makes one guest different from every other.
func setup(id string) (*protocol.SetupRequest, error) {
	seed := make([]byte, 64+16)
	if _, err := rand.Read(seed); err != nil {
		return nil, fmt.Errorf("read entropy: %w", err)
	}
	return &protocol.SetupRequest{
		Entropy:      seed[:64],
		MachineId:    hex.EncodeToString(seed[64:]),
		TimeUnixNano: time.Now().UnixNano(),
		Hostname:     id[:min(len(id), 12)],
		Share:        &protocol.Share{Type: "9p", Tag: hypervisor.ShareTag, Options: protocol.ShareOptions},
	}, nil
}

// Ready waits until the guest has booted and is set up, or says why it has not.
func (s *Sandbox) Ready(ctx context.Context) error {
	select {
	case <-s.booted:
		return s.bootErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done is closed when the VM has ended, whatever ended it, or could not be started.
func (s *Sandbox) Done() <-chan struct{} { return s.ended }

// Err says, after Done, why the VM ended; nil after Kill.
func (s *Sandbox) Err() error {
	if s.vm == nil {
		return s.bootErr
	}
	return s.vm.Err()
}

// Kill ends the VM at once and returns when it is gone. Processes of the sandbox then count as killed.
func (s *Sandbox) Kill() {
	s.stop()
	<-s.booted
	if s.vm != nil {
		s.vm.Kill()
	}
	<-s.ended
}

// Container returns the sandbox's container of that id.
func (s *Sandbox) Container(id string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return nil, ErrNoContainer
	}
	return c, nil
}
