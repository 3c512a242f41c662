package keeper

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/program"
	"github.com/hyper-runtime/hyper/sandbox"
	"github.com/hyper-runtime/hyper/store"
)

// connect is a verb's connection to a keeper.
func connect(t *testing.T, k *keeper) *call {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := inherited(uintptr(pair[0]))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := inherited(uintptr(pair[1]))
	if err != nil {
		t.Fatal(err)
	}
	go k.serve(theirs)
	c, err := dial(ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	// Any call will do: its answer says that the connection is served.
	if _, err := c.Wait(t.Context(), &api.WaitRequest{}); err == nil || !strings.Contains(err.Error(), sandbox.ErrNoProcess.Error()) {
		t.Fatalf("wait for no process: %v", err)
	}
	return c
}

// A keeper that ended while a verb still waits for its answer would let the verb fail: start, of a process that has
// exited at once.
func TestPart(t *testing.T) {
	k := &keeper{}
	first := connect(t, k)
	if k.part(10 * time.Millisecond) {
		t.Error("the keeper ends before a connection does")
	}
	connect(t, k) // is served, and not waited for
	first.Close()
	if !k.part(time.Minute) {
		t.Error("the keeper waits for a connection that has ended, or came too late")
	}
}

// Who signals a container whose keeper ends at that moment is told what engines understand: that it runs no more.
func TestKillOfOneThatEnds(t *testing.T) {
	self, err := program.Self()
	if err != nil {
		t.Fatal(err)
	}
	for name, serve := range map[string]func(net.Listener){
		"refused": func(l net.Listener) { l.Close() },
		"hung up": func(l net.Listener) {
			if conn, err := l.Accept(); err == nil {
				conn.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			st, err := store.Open(t.TempDir() + "/root")
			if err != nil {
				t.Fatal(err)
			}
			dir, err := st.Create("c")
			if err != nil {
				t.Fatal(err)
			}
			l, err := dir.Listen()
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false) // a process that dies leaves it there
			defer l.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				serve(l)
			}()
			if name == "refused" {
				<-done
			}
			c := &Container{dir: dir, state: store.State{ID: "c", Status: string(specs.StateRunning), Keeper: store.Process(self)}}
			if err := c.Kill(t.Context(), unix.SIGTERM, false); !errors.Is(err, sandbox.ErrNotRunning) {
				t.Errorf("kill: %v, want %v", err, sandbox.ErrNotRunning)
			}
		})
	}
}
