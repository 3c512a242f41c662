package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/guest"
	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/network"
	"github.com/hyper-runtime/hyper/resource"
)

// timeNetwork: a run in a namespace with an interface, which has two addresses and two default routes, and in one without.
// The difference is what the set-up of a network adds.
func timeNetwork(b *bench) (subjects []subject, err error) {
	far, err := b.newNamespace()
	if err != nil {
		return nil, err
	}
	wired, err := b.newWire(far, 1)
	if err != nil {
		return nil, err
	}
	empty, err := b.newNamespace()
	if err != nil {
		return nil, err
	}
	hyper := b.runtimes()[0]
	for _, s := range []struct {
		name string
		in   *namespace
	}{{"hyper, a veth", wired.near}, {"hyper, nothing but lo", empty}} {
		bundle, err := b.bundleWith(s.in.join, "true")
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, subject{s.name, func() (time.Duration, error) {
			return b.timed(hyper.verb("run", "--bundle", bundle, b.id())...)
		}})
	}
	return subjects, nil
}

// network prints the throughput and the requests per second of one hyper, beside those of its floor and of runc.
func (b *bench) network(rounds int) (err error) {
	defer b.undo(&err)
	if err := b.makeNetRoot(); err != nil {
		return err
	}
	far, err := b.newNamespace()
	if err != nil {
		return err
	}
	if err := b.startEcho(far); err != nil {
		return err
	}
	names := []string{"hyper", "bare VM", "runc"}
	starts := []func(wire) error{b.netContainer(b.runtimes()[0]), b.netVM, b.netContainer(b.runtimes()[2])}
	peers := make([]*peer, len(names))
	for i, start := range starts {
		w, err := b.newWire(far, i+1)
		if err != nil {
			return err
		}
		if peers[i], err = b.newPeer(w, func() error { return start(w) }); err != nil {
			return fmt.Errorf("%s: %w", names[i], err)
		}
	}
	fmt.Print("\n| network | of | median (max) | beside | median (max) | ratio of a round: median (of max) |\n|---|---|--:|---|--:|--:|\n")
	for _, row := range []struct {
		name   string
		sample func(*peer) (float64, error)
	}{
		{"iperf3 from the container, Mbit/s", func(p *peer) (float64, error) { return p.throughput("iperf3 out") }},
		{"iperf3 to the container, Mbit/s", func(p *peer) (float64, error) { return p.throughput("iperf3 in") }},
		{"TCP requests of a byte, 1/s", func(p *peer) (float64, error) { return p.ask("tcp") }},
		{"UDP requests of a byte, 1/s", func(p *peer) (float64, error) { return p.ask("udp") }},
	} {
		var subjects []subjectOf[float64]
		for i, p := range peers {
			subjects = append(subjects, subjectOf[float64]{names[i], func() (float64, error) { return row.sample(p) }})
		}
		rates, err := measure(b, subjects, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		for i, other := range rates[1:] {
			printRates(row.name, names[0], rates[0], names[i+1], other)
		}
	}
	return nil
}

// printRates prints two subjects of a row. Their ratio is that of the median round, because a round's samples are close in
// time.
func printRates(row, name string, rates []float64, otherName string, others []float64) {
	var ratios []float64
	for round, rate := range rates {
		ratios = append(ratios, rate/others[round])
	}
	fmt.Printf("| %s | %s | %.0f (%.0f) | %s | %.0f (%.0f) | %.3g (%.3g) |\n", row, name, median(rates), slices.Max(rates),
		otherName, median(others), slices.Max(others), median(ratios), slices.Max(rates)/slices.Max(others))
}

// netRoot is the root file system of all peers: busybox, iperf3, this program, and their libraries.
func (b *bench) netRoot() string { return b.path("net") }

// netFiles are the programs there, and where the host has them.
func netFiles() (map[string]string, error) {
	self, err := os.Executable()
	files := map[string]string{"/bin/busybox": "/bin/busybox", "/bin/iperf3": "/usr/bin/iperf3", "/bin/bench": self}
	for _, program := range []string{files["/bin/iperf3"], self} {
		libraries, e := guest.Libraries(program)
		err = errors.Join(err, e)
		for _, library := range libraries {
			files[library] = library
		}
	}
	return files, err
}

func (b *bench) makeNetRoot() error {
	files, err := netFiles()
	if err != nil {
		return err
	}
	for _, dir := range []string{"dev", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(b.netRoot(), dir), 0o755); err != nil {
			return err
		}
	}
	for name, source := range files {
		target := filepath.Join(b.netRoot(), name)
		if _, err := b.timed("install", "-D", source, target); err != nil {
			return err
		}
	}
	return nil
}

// netContainer starts the peer of a wire as a container.
func (b *bench) netContainer(r ociRuntime) func(wire) error {
	return func(w wire) error {
		bundle, err := b.bundleWith(func(spec *specs.Spec) {
			w.near.join(spec)
			spec.Root.Path = b.netRoot()
			// iperf3 keeps what it sends in a file there.
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
		}, "bench", peerMode, w.farIP())
		if err != nil {
			return err
		}
		c, err := b.create(r, bundle)
		if err != nil {
			return err
		}
		b.later(c.remove)
		_, err = b.timed(r.verb("start", c.id)...)
		return err
	}
}

// netInit is PID 1 of the bare VM. The modules are those that hyper's guest loads.
const netInit = `#!/bin/busybox sh
set -e
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
if busybox test -e /modules/order; then
	for module in $(busybox cat /modules/order); do busybox insmod /modules/$module; done
fi
busybox ip link set lo up
busybox ip link set eth0 address %s mtu %d
busybox ip addr add %s/24 dev eth0
busybox ip link set eth0 up
busybox ip route add default via %s
export PATH=/bin
exec bench %s %[4]s
`

// netVM starts the peer of a wire in a VM that has nothing of hyper but its machine, its kernel, and the tap joined to
// the wire. It is in a cgroup of its own as containers are: on a busy host that decides when it runs.
func (b *bench) netVM(w wire) (err error) {
	m := b.machines[0].Machine
	var tap *network.Tap
	var eth0 network.Interface
	err = w.near.do(func() (err error) {
		if tap, err = network.NewTap(m.Queues()); err != nil {
			return err
		}
		b.later(func() error { return w.near.do(tap.Close) })
		state, err := network.Scan()
		if err != nil {
			return err
		}
		if len(state.Interfaces) != 1 {
			return fmt.Errorf("%d interfaces", len(state.Interfaces))
		}
		eth0 = state.Interfaces[0]
		return tap.Join(eth0)
	})
	if err != nil {
		return err
	}
	init := fmt.Sprintf(netInit, eth0.MAC, eth0.MTU, w.nearIP(), w.farIP(), peerMode)
	if m.Initrd, err = b.netInitrd(m.Initrd, init); err != nil {
		return err
	}
	cgroup, err := resource.New("", b.id(), false)
	if err != nil {
		return err
	}
	if err := cgroup.Create(); err != nil {
		return err
	}
	b.later(cgroup.Remove)
	vm, err := hypervisor.Launch(b.ctx, m, hypervisor.Options{
		Share: b.netRoot(), Console: b.path("console"), ConsoleBytes: 1 << 16,
		NIC: hypervisor.NIC{Tap: tap.Files(), VHost: tap.VHost()},
	})
	if err != nil {
		return err
	}
	b.later(func() error { vm.Kill(); return nil })
	return cgroup.Add(vm.ID().PID)
}

// netInitrd writes an initramfs: that of hyper's guest, for its modules, and after it the files of the peers, which win
// (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
func (b *bench) netInitrd(base, init string) (path string, err error) {
	archive, err := os.ReadFile(base)
	if err != nil {
		return "", err
	}
	files, err := netFiles()
	if err != nil {
		return "", err
	}
	var tree guest.Tree
	for name, source := range files {
		if err := tree.Copy(name, source, 0o755); err != nil {
			return "", err
		}
	}
	tree.File("init", []byte(init), 0o755)
	more, err := tree.Archive()
	if err != nil {
		return "", err
	}
	for len(archive)%4 != 0 {
		archive = append(archive, 0)
	}
	path = b.path("net.initrd")
	return path, os.WriteFile(path, append(archive, more...), 0o600)
}

// throughput has the peer run a test against an iperf3 that serves this one alone: between two clients of one server there
// would be a moment without a listener.
func (p *peer) throughput(test string) (rate float64, err error) {
	argv := p.w.far.command("iperf3", "--server", "--one-off", "--port", iperfPort, "--forceflush")
	cmd := p.b.command(argv...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			cmd.Process.Signal(unix.SIGTERM) // else it waits for a client
		}
		err = errors.Join(err, cmd.Wait())
	}()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "Server listening") {
			continue
		}
		return p.ask(test)
	}
	return 0, fmt.Errorf("%s: it does not listen", strings.Join(argv, " "))
}
