// Package sandbox is the lifecycle of one VM and the containers in it. It joins the rooms that each know one thing:
// hypervisor, agent/client, storage, device, oci. The keeper and the shim drive it.
package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyper-runtime/hyper/agent/client"
	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/storage"
)

// Options say what a sandbox is made of.
type Options struct {
	ID          string // also the guest's host name, shortened
	Machine     hypervisor.Machine
	ShareDir    string        // existing empty directory that becomes the share
	Console     string        // file for the end of the guest's console
	BootTimeout time.Duration // hang guard from QEMU's start to the agent's answer
}

// Sandbox is one VM and the containers in it.
type Sandbox struct {
	vm    *hypervisor.VM
	share *storage.Share

	booted  chan struct{} // closed when agent and bootErr are valid
	agent   *client.Client
	bootErr error

	stream atomic.Uint32 // the last stream number given out
	mu     sync.Mutex
	// containers by id, guarded by mu
	containers map[string]*Container
}

// shareOptions are the mount options of the share in the guest (Documentation/filesystems/9p.rst).
const shareOptions = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap"

// Launch starts the VM and returns while it boots: Ready waits for that.
func Launch(ctx context.Context, o Options) (*Sandbox, error) {
	share, err := storage.NewShare(o.ShareDir)
	if err != nil {
		return nil, err
	}
	vm, err := hypervisor.Launch(ctx, o.Machine, hypervisor.Options{Share: o.ShareDir, Console: o.Console})
	if err != nil {
		return nil, err
	}
	s := &Sandbox{vm: vm, share: share, booted: make(chan struct{}), containers: make(map[string]*Container)}
	go func() {
		defer close(s.booted)
		s.bootErr = s.boot(o)
	}()
	return s, nil
}

// boot waits for the agent and makes the guest this sandbox's own.
func (s *Sandbox) boot(o Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.BootTimeout)
	defer cancel()
	agent, err := client.New(ctx, s.vm.Agent())
	if err != nil {
		return s.vm.Explain(err)
	}
	s.agent = agent
	request, err := setup(o.ID)
	if err != nil {
		return err
	}
	if _, err := agent.Setup(ctx, request); err != nil {
		return s.vm.Explain(err)
	}
	return nil
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
		Share:        &protocol.Share{Type: "9p", Tag: hypervisor.ShareTag, Options: shareOptions},
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

// Done is closed when the VM has ended, whatever ended it.
func (s *Sandbox) Done() <-chan struct{} { return s.vm.Done() }

// Err says, after Done, why the VM ended; nil after Kill.
func (s *Sandbox) Err() error { return s.vm.Err() }

// Kill ends the VM at once and returns when it is gone. Processes of the sandbox then count as killed.
func (s *Sandbox) Kill() { s.vm.Kill() }

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
