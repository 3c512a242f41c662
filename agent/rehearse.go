package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// rehearsal is the kernel argument of a guest that becomes a template.
const rehearsal = "hyper.rehearse"

// rehearsing tells whether the host wants this guest to rehearse.
func rehearsing() bool {
	cmdline, err := os.ReadFile("/proc/cmdline")
	return err == nil && slices.Contains(strings.Fields(string(cmdline)), rehearsal)
}

// rehearsalRoot is where the guest's own root is mounted for the rehearsal: the runtime cannot leave it where it is.
const rehearsalRoot = "/run/rehearsal"

const (
	rehearsalCgroup = "/hyper/rehearsal"
	noHome          = "HOME=" // what the home directory is missing in
)

// rehearse goes once through all that a start does, with a container of the guest's own root. What is done for the
// first time only (Go's types and buffers, the kernel's caches and patched branches, crun's pages) is then part of the
// template, and not of every clone. Nothing of it stays but that.
func (a *Agent) rehearse(share *protocol.Share) (err error) {
	if err := os.Mkdir(rehearsalRoot, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("/", rehearsalRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(rehearsalRoot, 0), os.Remove(rehearsalRoot)) }()
	host, guest := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- a.Serve(guest) }()
	err = a.play(host, share)
	host.Close()
	<-served
	if e := unix.Unmount(a.config.Share, 0); e != nil && err == nil {
		err = fmt.Errorf("unmount share: %w", e)
	}
	debug.FreeOSMemory()
	return err
}

// play is the host's part.
func (a *Agent) play(conn io.ReadWriteCloser, share *protocol.Share) error {
	session, err := yamux.Client(conn, protocol.Mux())
	if err != nil {
		return err
	}
	defer session.Close()
	open := func(number uint32) (net.Conn, error) {
		stream, err := session.Open()
		if err == nil {
			_, err = stream.Write(binary.BigEndian.AppendUint32(nil, number))
		}
		return stream, err
	}
	control, err := open(0)
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(control)
	defer client.Close()
	agent, ctx := protocol.NewAgentClient(client), context.Background()
	network, err := a.rehearsalNetwork()
	if err != nil {
		return err
	}
	if _, err := agent.Setup(ctx, &protocol.SetupRequest{Entropy: make([]byte, 64), Share: share}); err != nil {
		return err
	}
	if _, err := agent.SetNetwork(ctx, network); err != nil {
		return err
	}
	streams := &protocol.Streams{Stdin: 1, Stdout: 2, Stderr: 3}
	for _, number := range []uint32{streams.Stdin, streams.Stdout, streams.Stderr} {
		stream, err := open(number)
		if err != nil {
			return err
		}
		defer stream.Close()
		go io.Copy(io.Discard, stream)
	}
	spec, err := json.Marshal(rehearsalSpec(a.config.Network))
	if err != nil {
		return err
	}
	const id = "rehearsal"
	create := &protocol.CreateRequest{
		ContainerId: id, Spec: spec, Streams: streams, Root: rehearsalRoot, Cgroup: rehearsalCgroup,
		Program: &protocol.Program{Command: "/bin/crun", Home: &protocol.Home{Offset: uint32(bytes.Index(spec, []byte(noHome)) + len(noHome))}},
	}
	if _, err := agent.Create(ctx, create); err != nil {
		return err
	}
	if err := a.keepGuard(rehearsalCgroup); err != nil {
		return err
	}
	if _, err := agent.Start(ctx, &protocol.StartRequest{ContainerId: id}); err != nil {
		return err
	}
	end, err := agent.Wait(ctx, &protocol.WaitRequest{ContainerId: id})
	if err != nil {
		return err
	}
	if end.ExitCode != 0 {
		return fmt.Errorf("the container ended with status %d", end.ExitCode)
	}
	if _, err := agent.Delete(ctx, &protocol.DeleteRequest{ContainerId: id}); err != nil {
		return err
	}
	if _, err := agent.SetNetwork(ctx, &protocol.SetNetworkRequest{}); err != nil || len(network.Interfaces) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return a.network.Park(ctx, network.Interfaces[0].Device)
}

// rehearsalNetwork is what engines make: one interface, where the guest has a device for it, and a name server. The
// addresses are from networks for documentation (RFC 5737, RFC 3849).
func (a *Agent) rehearsalNetwork() (*protocol.SetNetworkRequest, error) {
	r := &protocol.SetNetworkRequest{Resolvers: [][]byte{{127, 0, 0, 11}}}
	devices, err := a.network.Devices()
	if err != nil || len(devices) == 0 {
		return r, err
	}
	const name = "eth0"
	ip4, ip6 := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	gateway4, gateway6 := ip4.Next(), ip6.Next()
	mac := []byte{0x02, 0, 0, 0, 0, 1}
	r.Interfaces = []*protocol.Interface{{
		Device: devices[0], Name: name, Mac: mac, Mtu: 1400, Up: true,
		Addresses: []*protocol.Address{{Ip: ip4.AsSlice(), Prefix: 24}, {Ip: ip6.AsSlice(), Prefix: 64}},
	}}
	route := func(family uint32, gateway netip.Addr) *protocol.Route {
		return &protocol.Route{
			Interface: name, Family: family, Gateway: gateway.AsSlice(),
			Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_BOOT,
		}
	}
	r.Routes = []*protocol.Route{route(unix.AF_INET, gateway4), route(unix.AF_INET6, gateway6)}
	r.Neighbours = []*protocol.Neighbour{{Interface: name, Ip: gateway4.AsSlice(), Mac: mac, State: unix.NUD_PERMANENT}}
	return r, nil
}

// rehearsalSpec is a container as engines make them, on the only root file system that there is.
func rehearsalSpec(network string) *specs.Spec {
	mount := func(kind, target string, options ...string) specs.Mount {
		return specs.Mount{Type: kind, Source: kind, Destination: target, Options: options}
	}
	capabilities := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	pids := int64(64)
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: rehearsalRoot, Readonly: true},
		Process: &specs.Process{
			Args: []string{"/bin/crun", "--version"}, Cwd: "/", Env: []string{"PATH=/bin", noHome}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Hostname: "rehearsal",
		Mounts: []specs.Mount{
			{Type: "bind", Source: "/bin", Destination: "/bin", Options: []string{"bind", "ro"}},
			mount("proc", "/proc"),
			mount("tmpfs", "/dev", "nosuid", "mode=755", "size=65536k"),
			mount("devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			mount("tmpfs", "/dev/shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			mount("mqueue", "/dev/mqueue", "nosuid", "noexec", "nodev"),
			mount("sysfs", "/sys", "nosuid", "noexec", "nodev", "ro"),
			mount("cgroup", "/sys/fs/cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
		},
		Linux: &specs.Linux{
			CgroupsPath: rehearsalCgroup,
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				Pids:    &specs.LinuxPids{Limit: &pids},
			},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
				{Type: specs.NetworkNamespace, Path: network},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
