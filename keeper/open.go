package keeper

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/config"
	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/network"
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/program"
	"github.com/hyper-runtime/hyper/resource"
	"github.com/hyper-runtime/hyper/sandbox"
	"github.com/hyper-runtime/hyper/store"
)

// Open starts QEMU for the container whose run directory holds config.json and the state that create wrote.
func (s *session) Open(ctx context.Context, r *api.OpenRequest) (*api.OpenResponse, error) {
	var cfg config.Config
	if err := json.Unmarshal(r.Config, &cfg); err != nil {
		return nil, fmt.Errorf("decode config: %w", err)
	}
	if err := s.load(r); err != nil {
		return nil, err
	}
	terminal, err := openTerminal(r, s.bundle.Spec.Process, s.stdio.In)
	if err != nil {
		return nil, err
	}
	s.terminal, s.ownTerminal = terminal, r.OwnTerminal
	resources, err := oci.SandboxResources(s.bundle.Spec)
	if err != nil {
		return nil, err
	}
	size, err := vmSize(cfg, resources)
	if err != nil {
		return nil, err
	}
	s.size, s.overheadMiB = size, cfg.VMMOverheadMiB
	machine, why, err := newMachine(cfg, size)
	if err != nil {
		return nil, err
	}
	slog.Info("accelerator", "name", machine.Accel, "because", why)
	share := s.dir.Path(store.Share)
	if err := os.Mkdir(share, 0o755); err != nil {
		return nil, fmt.Errorf("make share: %w", err)
	}
	sb, err := sandbox.Launch(sandbox.Options{
		ID:          r.ContainerId,
		Machine:     machine,
		Templates:   templates(cfg),
		ShareDir:    share,
		Console:     s.dir.Path(store.ConsoleLog),
		ConsoleSize: cfg.ConsoleKiB << 10,
		BootTimeout: time.Duration(cfg.BootTimeoutSeconds) * time.Second,
		Network:     cfg.NetworkModel,
		OwnNetwork:  oci.JoinedPath(s.bundle.Spec, specs.NetworkNamespace) == "",
		LateNetwork: !r.AtOnce && isWiredLate(s.bundle.Spec),
		Log:         slog.Default(),
	})
	if err != nil {
		return nil, err
	}
	s.sandbox = sb
	return &api.OpenResponse{}, nil
}

// load reads what create wrote into the run directory.
func (k *keeper) load(r *api.OpenRequest) error {
	st, err := store.Open(r.Root)
	if err != nil {
		return err
	}
	k.containers = st
	if k.dir, err = st.Get(r.ContainerId); err != nil {
		return err
	}
	if k.state, err = k.dir.LoadState(); err != nil {
		return err
	}
	raw, err := k.dir.LoadConfig()
	if err != nil {
		return err
	}
	if k.bundle, err = oci.Decode(k.state.Bundle, raw); err != nil {
		return err
	}
	// From here on whoever deletes the container knows whom to end.
	self, err := program.Self()
	if err != nil {
		return err
	}
	if err := k.saveState(func(st *store.State) { st.Keeper = store.Process(self) }); err != nil {
		return err
	}
	return k.openLog(r.Debug)
}

// vmSize is the size of the VM for a sandbox.
func vmSize(cfg config.Config, resources *specs.LinuxResources) (resource.VM, error) {
	host, err := resource.ReadHost()
	if err != nil {
		return resource.VM{}, err
	}
	return resource.Size(resources, resource.Defaults{
		VCPUs: cfg.VCPUs, MaxVCPUs: cfg.MaxVCPUs,
		MemoryMiB: cfg.MemoryMiB, MaxMemoryMiB: cfg.MaxMemoryMiB, OverheadMiB: cfg.MemoryOverheadMiB,
	}, host), nil
}

// Create finishes what Open began. From its answer on the keeper lives for the container, not for the caller.
func (s *session) Create(ctx context.Context, _ *api.CreateRequest) (*api.CreateResponse, error) {
	if err := s.sandbox.Ready(ctx); err != nil {
		return nil, err
	}
	spec := s.bundle.Spec
	if spec.Hooks != nil {
		if err := oci.RunHooks(ctx, "createContainer", spec.Hooks.CreateContainer, s.hookState()); err != nil {
			return nil, err
		}
	}
	stdio, err := s.containerStdio()
	if err != nil {
		return nil, err
	}
	container, err := s.sandbox.Create(ctx, s.state.ID, s.bundle, stdio, nil)
	if err != nil {
		return nil, err
	}
	s.container = container
	if err := s.saveStatus(specs.StateCreated); err != nil {
		return nil, err
	}
	if err := s.first.showFiles(s.state.ID, s.bundle); err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		return nil, err
	}
	close(s.created)
	return &api.CreateResponse{}, nil
}

// hookState is the state that hooks of the container read before it is created.
func (k *keeper) hookState() specs.State {
	return specs.State{
		Version: k.state.OCIVersion, ID: k.state.ID, Status: specs.StateCreating, Pid: k.state.Keeper.PID,
		Bundle: k.state.Bundle, Annotations: k.state.Annotations,
	}
}

// newMachine describes the VM, and says why it has the accelerator that it has.
func newMachine(cfg config.Config, size resource.VM) (hypervisor.Machine, string, error) {
	accel, why, err := hypervisor.ChooseAccel(cfg.Accelerator)
	if err != nil {
		return hypervisor.Machine{}, "", err
	}
	return hypervisor.Machine{
		Arch: hypervisor.Arch(runtime.GOARCH), Accel: accel, QEMU: cfg.QEMU, Type: cfg.Machine, CPUModel: cfg.CPUModel,
		VCPUs: size.VCPUs, TakeTurns: hypervisor.MustTakeTurns(accel, size.VCPUs, cfg.QEMU), MemoryMiB: size.MemoryMiB,
		Kernel: cfg.Kernel, Initrd: cfg.Initrd, KernelArgs: cfg.KernelArgs, Ports: cfg.HotplugPorts,
		Balloon: cfg.Template == "off", VHost: network.HasVHost(),
	}, why, nil
}

// templates are where the configuration keeps them; nil when it wants none.
func templates(cfg config.Config) *hypervisor.Templates {
	if cfg.Template == "off" {
		return nil
	}
	t := Templates(cfg)
	return &t
}
