package network

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// NewTapAlone makes a tap in a network namespace of its own, which goes when the last of the tap's files is closed: for a
// VM that needs the device, and nobody to talk to. It cannot join anything.
func NewTapAlone(queues int) (t *Tap, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread is in another namespace now, and ends with this function
		namespace, made := netns.New()
		if made != nil {
			err = fmt.Errorf("make a network namespace: %w", made)
			return
		}
		defer namespace.Close()
		if t, err = NewTap(queues); err == nil {
			t.index = 0 // it is another device's in the namespace that Close runs in
		}
	}()
	<-done
	return t, err
}
