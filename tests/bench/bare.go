package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/agent/client"
	"github.com/hyper-runtime/hyper/agent/protocol"
	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/network"
)

// bare is a VM without hyper's processes, cgroup, mounts and state: QEMU, a 9p share with a copy of the root file
// system, and the agent's crun asked over the bare channel. It is the floor that hyper is measured against.
type bare struct {
	b        *bench
	template *hypervisor.Template // nil: it boots
	vm       *hypervisor.VM
	agent    *client.Client
}

const bareID = "bare" // of the only container

// launch starts QEMU.
func (b *bench) launch(m machine, cold bool) (v *bare, err error) {
	v = &bare{b: b}
	share := b.path("share")
	if _, err := os.Stat(share); err != nil {
		if _, err := b.timed("sh", "-ec", `mkdir "$1"; cp -a "$0" "$1"`, b.path("rootfs"), share); err != nil {
			return nil, err
		}
	}
	if !cold {
		if v.template, err = (hypervisor.Templates{Dir: b.templateDir()}).Use(m.Machine); err != nil {
			return nil, err
		}
	}
	tap, err := network.NewTapAlone(m.Queues())
	if err != nil {
		return nil, err
	}
	defer tap.Close()
	v.vm, err = hypervisor.Launch(b.ctx, m.Machine, hypervisor.Options{
		Share: share, Template: v.template, NIC: hypervisor.NIC{Tap: tap.Files(), VHost: tap.VHost()},
	})
	return v, err
}

func (v *bare) close() error {
	v.vm.Kill()
	if v.template == nil {
		return nil
	}
	return v.template.Close()
}

// create makes the bundle's container, held before its first instruction.
func (v *bare) create(bundle string) (err error) {
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return fmt.Errorf("read spec: %w", err)
	}
	spec.Root.Path, spec.Linux.CgroupsPath = "/run/share/rootfs", "/hyper/"+bareID
	if text, err = json.Marshal(spec); err != nil {
		return fmt.Errorf("write spec: %w", err)
	}
	if v.agent, err = client.New(v.b.ctx, v.vm.Agent()); err != nil {
		return err
	}
	if _, err := v.agent.Setup(v.b.ctx, &protocol.SetupRequest{
		Entropy: make([]byte, 64), TimeUnixNano: time.Now().UnixNano(), Hostname: bareID,
		Share: &protocol.Share{Type: "9p", Tag: hypervisor.ShareTag, Options: protocol.ShareOptions},
	}); err != nil {
		return err
	}
	_, err = v.agent.Create(v.b.ctx, &protocol.CreateRequest{
		ContainerId: bareID, Spec: text, Cgroup: spec.Linux.CgroupsPath, Program: &protocol.Program{Command: spec.Process.Args[0]},
	})
	return err
}

func (v *bare) start() error {
	_, err := v.agent.Start(v.b.ctx, &protocol.StartRequest{ContainerId: bareID})
	return err
}

// wait waits for the container's process, or for that of an exec.
func (v *bare) wait(exec string) error {
	r, err := v.agent.Wait(v.b.ctx, &protocol.WaitRequest{ContainerId: bareID, ExecId: exec})
	if err == nil && (r.ExitCode != 0 || r.Signal != 0) {
		err = fmt.Errorf("it ended with %d, signal %d", r.ExitCode, r.Signal)
	}
	return err
}

// bareRun is what of a run is not hyper's own.
func (b *bench) bareRun(bundle string) (subject, error) {
	return subject{"bare clone", func() (time.Duration, error) {
		begin := time.Now()
		v, err := b.launch(b.machines[0], false)
		if err != nil {
			return 0, err
		}
		for _, step := range []func() error{func() error { return v.create(bundle) }, v.start, func() error { return v.wait("") }} {
			if err := step(); err != nil {
				v.close()
				return 0, err
			}
		}
		err = v.close()
		return time.Since(begin), err
	}}, nil
}

// bareExec is what of an exec is not hyper's own.
func (b *bench) bareExec() (s subject, err error) {
	sleeper, err := b.bundle("sleep", "1000000")
	if err != nil {
		return s, err
	}
	v, err := b.launch(b.machines[0], false)
	if err != nil {
		return s, err
	}
	b.later(v.close)
	if err := v.create(sleeper); err != nil {
		return s, err
	}
	if err := v.start(); err != nil {
		return s, err
	}
	process, err := json.Marshal(specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		return s, err
	}
	return subject{"bare clone", func() (time.Duration, error) {
		id := b.id()
		begin := time.Now()
		_, err := v.agent.Exec(b.ctx, &protocol.ExecRequest{
			ContainerId: bareID, ExecId: id, Process: process, Program: &protocol.Program{Command: "true"},
		})
		if err != nil {
			return 0, err
		}
		err = v.wait(id)
		return time.Since(begin), err
	}}, nil
}
