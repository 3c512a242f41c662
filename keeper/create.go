package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/config"
	"github.com/hyper-runtime/hyper/console"
	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/resource"
	"github.com/hyper-runtime/hyper/store"
)

// CreateOptions say what a container is made of.
type CreateOptions struct {
	Root          string // run directory of all containers
	ID            string
	Bundle        string // directory with config.json
	PidFile       string // written last, because callers take it as "done"; empty: none
	ConsoleSocket string // gets the terminal's master; empty: none
	Foreground    bool   // this process stays with the container: a terminal is our own one
	AtOnce        bool   // the caller starts it at once
	SystemdCgroup bool   // the host's cgroup is made by systemd
	Config        config.Config
	Debug         bool
}

// undo is what was made so far and how to unmake it.
type undo []func() error

func (u *undo) add(f func() error) { *u = append(*u, f) }

// run unmakes all in reverse and adds what failed to err.
func (u undo) run(err error) error {
	for _, f := range slices.Backward(u) {
		err = errors.Join(err, f())
	}
	return err
}

// plan is what Create has found out before it makes anything.
type plan struct {
	CreateOptions
	bundle *oci.Bundle
	cgroup *resource.Cgroup
	own    []*os.File      // the terminal of the caller, which will be the container's; empty: none
	home   *Container      // whose sandbox the container will live in; nil: one of its own
	size   resource.VM     // of its own VM
	limits resource.Limits // from the start
	quota  resource.Limits // when the container is created
}

func newPlan(o CreateOptions) (p plan, err error) {
	p.CreateOptions = o
	if p.bundle, err = oci.Load(o.Bundle); err != nil {
		return p, err
	}
	spec := p.bundle.Spec
	if err := oci.Check(spec); err != nil {
		return p, err
	}
	if err := checkTerminal(spec.Process, o); err != nil {
		return p, err
	}
	warnOfAmbient(spec.Process)
	if o.Foreground && spec.Process != nil && spec.Process.Terminal {
		tty, err := console.Own()
		if err != nil {
			return p, err
		}
		p.own = []*os.File{tty}
	}
	if p.cgroup, err = resource.New(spec.Linux.CgroupsPath, o.ID, o.SystemdCgroup); err != nil {
		return p, err
	}
	if p.home, err = homeOf(o.Root, spec); err != nil || p.home != nil {
		return p, err
	}
	if p.Config, err = o.Config.Annotated(spec.Annotations); err != nil {
		return p, err
	}
	resources, err := oci.SandboxResources(spec)
	if err != nil {
		return p, err
	}
	if p.size, err = vmSize(p.Config, resources); err != nil {
		return p, err
	}
	p.limits, p.quota = resource.HostLimits(resources, p.size, p.Config.VMMOverheadMiB), resource.HostQuota(resources)
	return p, nil
}

// spawn starts the process that stands for the container: the keeper, or in the sandbox of another a stand-in, which is
// too small for the container's limits to mean it.
func (p plan) spawn() (*child, error) {
	spec, verb := p.bundle.Spec, Verb
	namespaces := oci.Namespaces(spec)
	if p.home != nil {
		verb, namespaces = MemberVerb, oci.MemberNamespaces(spec, p.home.Pid())
	}
	return spawn(verb, p.ID, commandLine(spec.Process), namespaces)
}

// Create makes a container, held until Start, in a VM of its own or in that of a sandbox that there is: homeOf decides.
// The process that stands for it inherits our stdin, stdout and stderr. On error nothing is left.
func Create(ctx context.Context, o CreateOptions) (c *Container, err error) {
	p, err := newPlan(o)
	if err != nil {
		return nil, err
	}
	st, err := store.Open(p.Root)
	if err != nil {
		return nil, err
	}
	var made undo
	defer func() {
		if err != nil {
			err = made.run(err)
		}
	}()
	dir, err := st.Create(p.ID)
	if err != nil {
		return nil, err
	}
	made.add(dir.Remove)
	unlock, err := dir.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Known before it is made: whoever cleans up after us, should we be killed, finds it in the state.
	if err := p.begin(dir); err != nil {
		return nil, err
	}
	made.add(p.cgroup.Remove)
	if err := p.cgroup.Create(); err != nil {
		return nil, err
	}
	slog.Debug("the run directory and the cgroup are made")
	if p.home == nil {
		endTurn, err := takeTurn(turnDir, runtime.NumCPU())
		if err != nil {
			return nil, err
		}
		defer endTurn()
	}
	k, err := p.spawn()
	if err != nil {
		return nil, err
	}
	made.add(k.kill)
	if err := errors.Join(p.cgroup.Add(k.pid()), p.cgroup.Apply(p.limits)); err != nil {
		return nil, err
	}
	conn, err := dial(k.conn, p.own...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	slog.Debug("the container's process runs in its cgroup")
	if err := conn.open(ctx, p.CreateOptions); err != nil {
		return nil, err
	}
	if c, err = Load(p.Root, p.ID); err != nil {
		return nil, err
	}
	c.child = k.cmd
	created := c // c is nil on the way out
	made.add(func() error { return created.leave(context.WithoutCancel(ctx)) })
	if err := c.runCreateHooks(ctx, p.bundle.Spec.Hooks); err != nil {
		return nil, err
	}
	if _, err := conn.Create(ctx, &api.CreateRequest{}); err != nil {
		return nil, err
	}
	if err := p.cgroup.Apply(p.quota); err != nil {
		return nil, err
	}
	if c.state, err = dir.LoadState(); err != nil {
		return nil, err
	}
	c.relayed = relay(dir, 0)
	if p.home == nil {
		if err := wantTemplate(p.Config, p.size); err != nil {
			slog.Warn("no template can be made", "error", err) // the next one has to boot, too
		}
	}
	if p.PidFile != "" {
		if err := writePidFile(p.PidFile, k.pid()); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// runCreateHooks runs the hooks that run in the caller's namespaces before the container is created.
func (c *Container) runCreateHooks(ctx context.Context, h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	// Specifications before 1.0.2 had these in start, where the state was "created". crun still says so.
	//lint:ignore SA1019 deprecated in the specification, and what docker 20.10 uses
	if err := c.runHooks(ctx, "prestart", h.Prestart, specs.StateCreated); err != nil {
		return err
	}
	return c.runHooks(ctx, "createRuntime", h.CreateRuntime, specs.StateCreating)
}

// begin writes what the keeper reads, and what is known of the container should we be killed from here on.
func (p plan) begin(dir *store.Dir) error {
	rootfs, err := p.bundle.Root()
	if err != nil {
		return err
	}
	kept, err := json.Marshal(p.cgroup)
	if err != nil {
		return fmt.Errorf("encode cgroup: %w", err)
	}
	state := store.State{
		OCIVersion:  p.bundle.Spec.Version,
		ID:          p.ID,
		Bundle:      p.bundle.Path,
		Rootfs:      rootfs,
		Owner:       owner(),
		Created:     time.Now().UTC(),
		Status:      string(specs.StateCreating),
		Annotations: p.bundle.Spec.Annotations,
		Cgroup:      kept,
	}
	if p.home != nil {
		state.SandboxID, state.Keeper = p.home.state.ID, p.home.state.Keeper
	}
	return errors.Join(dir.SaveConfig(p.bundle.Raw), dir.SaveState(state))
}

// owner is the name of the user that we run as, or "#" and the uid.
func owner() string {
	u, err := user.Current()
	if err != nil {
		return "#" + strconv.Itoa(os.Getuid())
	}
	return u.Username
}

// checkTerminal refuses the combinations that runc refuses, in its words.
func checkTerminal(p *specs.Process, o CreateOptions) error {
	terminal := p != nil && p.Terminal
	switch {
	case terminal && !o.Foreground && o.ConsoleSocket == "":
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	case o.ConsoleSocket != "" && (!terminal || o.Foreground):
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

// warnOfAmbient tells of each ambient capability that the guest's kernel will not raise, because it is not inheritable
// (capabilities(7)). The container runs without it, as with runc.
func warnOfAmbient(p *specs.Process) {
	if p == nil || p.Capabilities == nil {
		return
	}
	for _, name := range p.Capabilities.Ambient {
		if !slices.Contains(p.Capabilities.Inheritable, name) {
			slog.Warn("can't raise ambient capability " + name + ": it is not inheritable")
		}
	}
}

// commandLine is what ps shows of a container's process.
func commandLine(p *specs.Process) []string {
	if p == nil {
		return nil
	}
	return p.Args
}

// writePidFile writes the pid in one step, so that no reader sees half of it.
func writePidFile(path string, pid int) error {
	return store.WriteFile(path, []byte(strconv.Itoa(pid)), 0o644)
}
