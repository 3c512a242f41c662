package keeper

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/sandbox"
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
