package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/hyper-runtime/hyper/config"
	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/network"
	"github.com/hyper-runtime/hyper/resource"
)

// machine is what a configuration makes of a container without limits.
type machine struct {
	hypervisor.Machine
	kernel     string // the kernel's name in the tables: that of the directory that it lies in
	config     string // the configuration, with our directory of templates
	coldConfig string // the same without templates
}

// findMachines are that of a configuration, and those of the others that have other kernels.
func (b *bench) findMachines(path, others string) (all []machine, err error) {
	paths, err := filepath.Glob(others)
	if err != nil {
		return nil, fmt.Errorf("read -others: %w", err)
	}
	for _, path := range append([]string{path}, paths...) {
		m, err := b.newMachine(path)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(all, func(known machine) bool { return known.kernel == m.kernel }) {
			all = append(all, m)
		}
	}
	return all, nil
}

func (b *bench) newMachine(path string) (m machine, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return m, fmt.Errorf("%w: run make first", err)
	}
	for _, kind := range []struct{ file, more string }{
		{b.path(b.id()), `template = "off"`},
		{b.path(b.id()), fmt.Sprintf("template_dir = %q", b.templateDir())},
	} {
		m.config, m.coldConfig = kind.file, m.config
		if err := os.WriteFile(kind.file, append(text, kind.more...), 0o600); err != nil {
			return m, err
		}
	}
	c, err := config.Load(m.config)
	if err != nil {
		return m, err
	}
	accel, _, err := hypervisor.ChooseAccel(c.Accelerator)
	if err != nil {
		return m, err
	}
	host, err := resource.ReadHost()
	if err != nil {
		return m, err
	}
	size := resource.Size(nil, resource.Defaults{
		VCPUs: c.VCPUs, MaxVCPUs: c.MaxVCPUs, MemoryMiB: c.MemoryMiB, MaxMemoryMiB: c.MaxMemoryMiB, OverheadMiB: c.MemoryOverheadMiB,
	}, host)
	kernel, err := filepath.EvalSymlinks(c.Kernel)
	if err != nil {
		return m, err
	}
	m.kernel = filepath.Base(filepath.Dir(kernel))
	m.Machine = hypervisor.Machine{
		Arch: hypervisor.Arch(runtime.GOARCH), Accel: accel, QEMU: c.QEMU, Type: c.Machine, CPUModel: c.CPUModel,
		VCPUs: size.VCPUs, TakeTurns: hypervisor.MustTakeTurns(accel, size.VCPUs, c.QEMU), MemoryMiB: size.MemoryMiB,
		Kernel: c.Kernel, Initrd: c.Initrd, KernelArgs: c.KernelArgs, Ports: c.HotplugPorts,
		VHost: network.HasVHost(),
	}
	return m, nil
}
