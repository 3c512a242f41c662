package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// turnDir has a lock file for each start that may be under way at a time, whatever the run directory.
const turnDir = "/run/lock/hyper"

// turnPatience is how long a start waits for its turn at most: who holds one may hang, in a hook for example.
const turnPatience = 30 * time.Second

// takeTurn waits until fewer than limit starts are under way on this host, and returns what ends the turn; so does the
// end of the process. A start is all computation: more of them at once than there are CPUs take longer together than one
// after the other, because each pushes the others' data out of the caches.
func takeTurn(dir string, limit int) (end func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("wait for a turn: %w", err)
	}
	var busy []*os.File
	for n := range limit {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("start-%d", n)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("wait for a turn: %w", err)
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			for _, f := range busy {
				f.Close()
			}
			return func() { f.Close() }, nil
		}
		busy = append(busy, f)
	}
	return awaitTurn(busy), nil
}

// awaitTurn waits for the first of the locks. Those that come later are given back at once.
func awaitTurn(busy []*os.File) (end func()) {
	taken := make(chan *os.File, len(busy))
	for _, f := range busy {
		go func() {
			for unix.Flock(int(f.Fd()), unix.LOCK_EX) == unix.EINTR {
			}
			taken <- f
		}()
	}
	giveBack := func(n int) {
		for range n {
			(<-taken).Close()
		}
	}
	select {
	case f := <-taken:
		go giveBack(len(busy) - 1)
		return func() { f.Close() }
	case <-time.After(turnPatience):
		go giveBack(len(busy))
		return func() {}
	}
}
