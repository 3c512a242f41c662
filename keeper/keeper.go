// Package keeper makes a sandbox a process of its own: the keeper owns the VM, and its pid is the one that engines see
// for the container. It exits with the container's status. The package has both ends: the process, and what verbs use
// to start it and to talk to it.
package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/console"
	"github.com/hyper-runtime/hyper/oci"
	"github.com/hyper-runtime/hyper/resource"
	"github.com/hyper-runtime/hyper/sandbox"
	"github.com/hyper-runtime/hyper/store"
)

// Verb is the hidden verb of the keeper process.
const Verb = "keeper"

// requestFD is where the keeper finds the connection to the verb that started it.
const requestFD = 3

// partingTime bounds how long a keeper that ends waits for verbs and stand-ins to take their answers.
const partingTime = 2 * time.Second

// keeper is the state of the process. The fields above lists are set by Open and Create, before anyone else reads them.
type keeper struct {
	record                   // of the sandbox's first container
	stdio       [3]*os.File  // the process's stdin, stdout and stderr, which are the container's
	terminal    *os.File     // the container's terminal; nil without one
	ownTerminal bool         // it is the caller's own: the container's input and output are stdin and stdout all the same
	containers  *store.Store // all of this root
	bundle      *oci.Bundle
	sandbox     *sandbox.Sandbox
	container   *sandbox.Container
	first       firstThread
	created     chan struct{} // closed when the container is

	size        resource.VM // of the VM
	overheadMiB int         // that the host's limits leave for QEMU beside it

	connections sync.RWMutex // held for reading by each connection, for writing by a keeper that ends

	lists   sync.Mutex
	execs   []*session         // guarded by lists; those whose process has not exited
	members map[string]*member // guarded by lists; the further containers, by id
}

// Main is the life of the keeper process. It returns the status to exit with: the container's.
func Main() int {
	os.Unsetenv(maxProcs) // hooks get our environment, and the runtime has read it
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	stdio, err := takeStdio()
	if err != nil {
		return 1
	}
	k := &keeper{stdio: stdio, first: make(firstThread), created: make(chan struct{}), members: make(map[string]*member)}
	// Mounts of the host still arrive here; ours do not get out.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return 1
	}
	conn, err := inherited(requestFD)
	if err != nil {
		return 1
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		k.serve(conn)
	}()
	if !k.first.await(k.created, left) { // the verb gave up, failed or was killed
		if k.sandbox != nil {
			k.sandbox.Kill()
		}
		return 1
	}
	if k.terminal != nil {
		k.resize() // it may have changed before the guest's existed
	}
	go k.forward(signals)
	status := make(chan int)
	go func() { status <- k.keep() }()
	return <-status
}

// inherited is the Unix socket that another process left at the descriptor.
func inherited(fd uintptr) (*net.UnixConn, error) {
	unix.CloseOnExec(int(fd))
	f := os.NewFile(fd, "request")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("inherited connection: %w", err)
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("inherited connection: %T is no Unix socket", conn)
	}
	return uc, nil
}

// openLog sends what the keeper itself has to tell, a crash included, to a file in the run directory.
func (k *keeper) openLog(verbose bool) error {
	f, err := os.OpenFile(k.dir.Path(store.KeeperLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	slog.SetDefault(slog.New(slog.NewJSONHandler(f, &slog.HandlerOptions{Level: level})))
	return debug.SetCrashOutput(f, debug.CrashOptions{})
}

// listen serves other verbs from now on.
func (k *keeper) listen() error {
	l, err := k.dir.Listen()
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go k.serve(conn)
		}
	}()
	return nil
}

// keep waits for the container's process, or for the end of the VM, and leaves nothing behind but the run directory
// and its cgroup, which delete removes.
func (k *keeper) keep() int {
	status, reason, oomKills := 0, "", uint64(0)
	var exited <-chan struct{}
	if p := k.container.Init(); p != nil {
		exited = p.Exited()
	}
	select {
	case <-exited:
		status, oomKills = k.container.Init().Status(), k.container.Init().OOMKills()
	case <-k.sandbox.Done():
		status, reason = sandbox.Killed, "the VM was killed"
		if err := k.sandbox.Err(); err != nil {
			reason = err.Error()
		}
		slog.Error("the VM ended before its container", "reason", reason)
	}
	k.part(partingTime)
	k.sandbox.Kill()
	slog.Debug("the VM has ended")
	k.raiseOOM(&k.record, oomKills)
	if err := k.saveEnd(status, reason); err != nil {
		slog.Error("save state", "error", err)
	}
	return status
}

// part kills the members and waits until all connections have ended, limit at most; it tells whether they have. A
// process may exit before the call that started it is answered: the answer is still due.
func (k *keeper) part(limit time.Duration) bool {
	ended := make(chan struct{})
	go func() {
		k.killMembers()
		k.connections.Lock()
		defer k.connections.Unlock()
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-time.After(limit):
		return false
	}
}

// forward passes signals that the keeper gets on to the container's process, as they would have reached it were it a
// process of the host.
func (k *keeper) forward(signals <-chan os.Signal) {
	for sig := range signals {
		switch s := sig.(unix.Signal); {
		case !forwarded(s):
		case s == unix.SIGWINCH && k.terminal != nil:
			k.resize()
		default:
			if err := k.container.Signal(context.Background(), s, false); err != nil {
				slog.Warn("forward signal", "signal", unix.SignalName(s), "error", err)
			}
		}
	}
}

// resize gives the guest's terminal the size of the host's, if that has one.
func (k *keeper) resize() {
	w, h, err := console.Size(k.terminal)
	if err == nil && w > 0 {
		err = k.container.Init().Resize(context.Background(), w, h)
	}
	if err != nil {
		slog.Warn("resize", "error", err)
	}
}

// addSession counts the session's process among the living until it has exited.
func (k *keeper) addSession(s *session) {
	k.lists.Lock()
	defer k.lists.Unlock()
	if s.member == nil {
		k.execs = append(k.execs, s)
	}
}

func (k *keeper) removeSession(s *session) {
	k.lists.Lock()
	defer k.lists.Unlock()
	k.execs = slices.DeleteFunc(k.execs, func(e *session) bool { return e == s })
}

// pids are the host's processes that stand for a container's: the keeper or the container's stand-in, and the stand-ins
// of its exec processes.
func (k *keeper) pids(id string) []int32 {
	pids := []int32{int32(k.recordOf(id).body().PID)}
	k.lists.Lock()
	defer k.lists.Unlock()
	for _, s := range k.execs {
		if s.inside == id {
			pids = append(pids, s.pid)
		}
	}
	return pids
}
