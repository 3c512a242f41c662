package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"slices"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/config"
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

// Create makes a container in a VM of its own, held until Start. The process that stands for it inherits our stdin,
// stdout and stderr. On error nothing is left.
func Create(ctx context.Context, o CreateOptions) (c *Container, err error) {
	bundle, err := oci.Load(o.Bundle)
	if err != nil {
		return nil, err
	}
	if err := oci.Check(bundle.Spec); err != nil {
		return nil, err
	}
	if err := checkTerminal(bundle.Spec.Process, o); err != nil {
		return nil, err
	}
	if o.Config, err = o.Config.Annotated(bundle.Spec.Annotations); err != nil {
		return nil, err
	}
	size, err := vmSize(o.Config, bundle.Spec.Linux.Resources)
	if err != nil {
		return nil, err
	}
	st, err := store.Open(o.Root)
	if err != nil {
		return nil, err
	}
	var made undo
	defer func() {
		if err != nil {
			err = made.run(err)
		}
	}()
	dir, err := st.Create(o.ID)
	if err != nil {
		return nil, err
	}
	made.add(dir.Remove)
	unlock, err := dir.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	cgroup, err := resource.New(bundle.Spec.Linux.CgroupsPath, o.ID, o.SystemdCgroup)
	if err != nil {
		return nil, err
	}
	// Known before it is made: whoever cleans up after us, should we be killed, finds it in the state.
	if err := begin(dir, o, bundle, cgroup); err != nil {
		return nil, err
	}
	made.add(cgroup.Remove)
	if err := cgroup.Create(); err != nil {
		return nil, err
	}
	slog.Debug("the run directory and the cgroup are made")
	k, err := spawn(Verb, o.ID, commandLine(bundle.Spec.Process), oci.Namespaces(bundle.Spec))
	if err != nil {
		return nil, err
	}
	made.add(k.kill)
	if err := errors.Join(cgroup.Add(k.pid()), cgroup.Apply(resource.HostLimits(bundle.Spec.Linux.Resources, size, o.Config.VMMOverheadMiB))); err != nil {
		return nil, err
	}
	conn, err := dial(k.conn)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	slog.Debug("the keeper runs in its cgroup")
	if err := conn.open(ctx, o); err != nil {
		return nil, err
	}
	if c, err = Load(o.Root, o.ID); err != nil {
		return nil, err
	}
	c.child = k.cmd
	if h := bundle.Spec.Hooks; h != nil {
		//lint:ignore SA1019 deprecated in the specification, and what docker 20.10 uses
		if err := c.runHooks(ctx, "prestart", h.Prestart, specs.StateCreating); err != nil {
			return nil, err
		}
		if err := c.runHooks(ctx, "createRuntime", h.CreateRuntime, specs.StateCreating); err != nil {
			return nil, err
		}
	}
	if _, err := conn.Create(ctx, &api.CreateRequest{}); err != nil {
		return nil, err
	}
	if c.state, err = dir.LoadState(); err != nil {
		return nil, err
	}
	c.relayed = relay(dir, 0)
	if err := wantTemplate(o.Config, size); err != nil {
		slog.Warn("no template can be made", "error", err) // the next one has to boot, too
	}
	if o.PidFile != "" {
		if err := writePidFile(o.PidFile, k.pid()); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// begin writes what the keeper reads, and what is known of the container should we be killed from here on.
func begin(dir *store.Dir, o CreateOptions, bundle *oci.Bundle, cgroup *resource.Cgroup) error {
	rootfs, err := bundle.Root()
	if err != nil {
		return err
	}
	kept, err := json.Marshal(cgroup)
	if err != nil {
		return fmt.Errorf("encode cgroup: %w", err)
	}
	return errors.Join(dir.SaveConfig(bundle.Raw), dir.SaveState(store.State{
		OCIVersion:  bundle.Spec.Version,
		ID:          o.ID,
		Bundle:      bundle.Path,
		Rootfs:      rootfs,
		Owner:       owner(),
		Created:     time.Now().UTC(),
		Status:      string(specs.StateCreating),
		Annotations: bundle.Spec.Annotations,
		Cgroup:      kept,
	}))
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
