package main

import (
	"fmt"
	"os"
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace that nothing but an open file holds, so that it goes with the benchmark.
type namespace struct {
	file *os.File
	path string
}

// newNamespace makes a network namespace, which the row's end gives up.
func (b *bench) newNamespace() (n *namespace, err error) {
	n = &namespace{}
	err = onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	b.later(n.file.Close)
	n.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
	return n, nil
}

// do calls f on a thread that is in the namespace.
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// onThread calls f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is of no use to others
		done <- f()
	}()
	return <-done
}

// command is a command line in the namespace.
func (n *namespace) command(argv ...string) []string {
	return append([]string{"nsenter", "--net=" + n.path}, argv...)
}

// join puts a container into the namespace.
func (n *namespace) join(spec *specs.Spec) {
	for i, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			spec.Linux.Namespaces[i].Path = n.path
		}
	}
}

// wire is a pair of veth between namespaces, 10.97.net.1 in far and 10.97.net.2 in near, which reaches the world by it.
type wire struct {
	far, near *namespace
	net       int
}

func (w wire) farIP() string  { return fmt.Sprintf("10.97.%d.1", w.net) }
func (w wire) nearIP() string { return fmt.Sprintf("10.97.%d.2", w.net) }

// newWire joins a new namespace to far.
func (b *bench) newWire(far *namespace, net int) (w wire, err error) {
	w = wire{far: far, net: net}
	if w.near, err = b.newNamespace(); err != nil {
		return w, err
	}
	const script = `
		ip link add "net$1" type veth peer name eth0 netns "$0"
		ip addr add "$2/24" dev "net$1"
		ip addr add "fd97:$1::1/64" dev "net$1" nodad
		ip link set "net$1" up
		nsenter --net="$0" sh -ec '
			ip addr add "$1/24" dev eth0
			ip addr add "fd97:$0::2/64" dev eth0 nodad
			ip link set eth0 up
			ip route add default via "$2"
			ip route add default via "fd97:$0::1"' "$1" "$3" "$2"`
	_, err = b.timed(far.command("sh", "-ec", script, w.near.path, fmt.Sprint(net), w.farIP(), w.nearIP())...)
	return w, err
}
