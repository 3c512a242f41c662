package keeper

import (
	"context"
	"errors"
	"os"
	"os/signal"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/console"
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/store"
)

// Run creates and starts a container. Detached it returns then; else it waits for the container, passes signals on to
// it, deletes it unless keep is set, and returns its status.
func Run(ctx context.Context, o CreateOptions, detach, keep bool) (status int, err error) {
	o.Foreground, o.AtOnce = !detach, true
	c, err := Create(ctx, o)
	if err != nil {
		return 0, err
	}
	if !detach {
		restore, err := c.attach()
		if err != nil {
			return 0, errors.Join(err, c.Delete(context.Background(), true))
		}
		defer restore()
		ctx = context.WithoutCancel(ctx) // from here on a signal is the container's
	}
	if err := c.Start(ctx); err != nil {
		return 0, errors.Join(err, c.Delete(context.Background(), true))
	}
	if detach {
		return 0, nil
	}
	status, err = c.wait()
	relay(c.dir, c.relayed)
	if err != nil || keep {
		return status, err
	}
	if err := c.Delete(context.Background(), false); !errors.Is(err, store.ErrNotExist) {
		return status, err
	}
	return status, nil // somebody else has deleted it
}

// attach passes our signals on to the container from now on, and makes our terminal raw where it is the container's.
// What it returns undoes that.
func (c *Container) attach() (restore func() error, err error) {
	process, err := c.Process()
	if err != nil {
		return nil, err
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	go func() {
		for sig := range signals {
			if s := sig.(unix.Signal); forwarded(s) {
				c.child.Process.Signal(s) // an error means that it has exited
			}
		}
	}()
	if !process.Terminal {
		return func() error { return nil }, nil
	}
	tty, err := console.Own()
	if err != nil {
		return nil, err
	}
	return console.RawInput(tty)
}

// Delete removes the container below root. With force a container that does not exist is no error, and one whose state
// is damaged is removed as far as it is known.
func Delete(ctx context.Context, root, id string, force bool) error {
	c, err := Load(root, id)
	switch {
	case err == nil:
		return c.Delete(ctx, force)
	case force && errors.Is(err, store.ErrNotExist):
		return nil
	case force && errors.Is(err, store.ErrDamaged):
		st, err := store.Open(root)
		if err != nil {
			return err
		}
		return st.Remove(id)
	}
	return err
}

// List returns the state of all containers below root. One whose state is damaged is listed as stopped, with no more
// than its id.
func List(root string) ([]oci.State, error) {
	st, err := store.Open(root)
	if err != nil {
		return nil, err
	}
	entries, err := st.List()
	if err != nil {
		return nil, err
	}
	states := make([]oci.State, 0, len(entries))
	for _, e := range entries {
		if e.Err != nil {
			states = append(states, oci.State{ID: e.ID, Status: specs.StateStopped})
			continue
		}
		c := Container{state: e.State}
		s := c.State()
		s.Owner = e.State.Owner
		states = append(states, s)
	}
	return states, nil
}
