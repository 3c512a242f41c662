package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/sandbox"
)

// StandInVerb is the hidden verb of the process that stands for a detached exec process.
const StandInVerb = "stand-in"

// ExecOptions say which process to start in a container, and what to do with it.
type ExecOptions struct {
	Process       *specs.Process
	Detach        bool   // return once it runs; a stand-in takes our stdio
	ConsoleSocket string // gets the terminal's master when detached
	PidFile       string // written when the process runs, last of all; empty: none
}

// Exec starts one more process in the container. It returns the process's status, or 0 at once when detached.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (int, error) {
	if c.Status() == specs.StateStopped {
		return 0, sandbox.ErrExecStopped
	}
	if o.Process.Terminal && o.Detach && o.ConsoleSocket == "" {
		return 0, errors.New("cannot allocate tty if runc will detach without setting console socket")
	}
	if o.ConsoleSocket != "" && !(o.Process.Terminal && o.Detach) {
		return 0, errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	if o.Detach {
		return 0, c.execDetached(o)
	}
	j := joining{container: c, process: o.Process, stdio: []*os.File{os.Stdin, os.Stdout, os.Stderr}}
	if o.Process.Terminal {
		restore, err := j.useOwnTerminal()
		if err != nil {
			return 0, err
		}
		defer restore()
	}
	return j.run(ctx, func() error {
		if o.PidFile == "" {
			return nil
		}
		return writePidFile(o.PidFile, os.Getpid())
	})
}

// standInRequest is what exec tells the stand-in; standInAnswer is the reply when the process runs, or cannot.
type (
	standInRequest struct {
		Root, ID      string
		Process       *specs.Process
		ConsoleSocket string
	}
	standInAnswer struct{ Error string }
)

func (c *Container) execDetached(o ExecOptions) error {
	child, err := spawn(StandInVerb, c.state.ID, o.Process.Args, oci.HostNamespaces{})
	if err != nil {
		return err
	}
	defer child.conn.Close()
	answer := standInAnswer{Error: "the process's stand-in has ended"}
	err = json.NewEncoder(child.conn).Encode(standInRequest{
		Root: c.root, ID: c.state.ID, Process: o.Process, ConsoleSocket: o.ConsoleSocket,
	})
	if err == nil {
		err = json.NewDecoder(child.conn).Decode(&answer)
	}
	if err != nil || answer.Error != "" {
		child.kill()
		return errors.New(answer.Error)
	}
	if o.PidFile != "" {
		if err := writePidFile(o.PidFile, child.pid()); err != nil {
			child.kill()
			return err
		}
	}
	return nil
}

// StandIn is the life of a stand-in. It returns the status to exit with: the process's.
func StandIn() int {
	stdio, err := takeStdio()
	if err != nil {
		return 1
	}
	conn, err := inherited(requestFD)
	if err != nil {
		return 1
	}
	defer conn.Close()
	answer := func(err error) error {
		var a standInAnswer
		if err != nil {
			a.Error = err.Error()
		}
		return json.NewEncoder(conn).Encode(a)
	}
	var r standInRequest
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return 1
	}
	status, err := r.run(stdio[:], func() error { return answer(nil) })
	if err != nil {
		answer(err) // the answer to a caller that waits; one that has gone needs none
		return 1
	}
	return status
}

func (r *standInRequest) run(stdio []*os.File, started func() error) (int, error) {
	c, err := Load(r.Root, r.ID)
	if err != nil {
		return 0, err
	}
	j := joining{container: c, process: r.Process, stdio: stdio, ours: true}
	if r.ConsoleSocket != "" {
		if err := j.openTerminal(r.ConsoleSocket); err != nil {
			return 0, err
		}
	}
	return j.run(context.Background(), started)
}
