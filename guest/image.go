// Package guest builds what a virtual machine boots: a kernel and an initramfs.
//
// The initramfs holds the agent as /init, the OCI runtime crun that the agent runs
// as /bin/crun, and the modules that the kernel needs and has not built in.
// The same inputs give the same bytes.
package guest

import (
	"fmt"
	"os"
	"path/filepath"
)

// Image says what a guest image is made from. All fields are paths on this machine.
type Image struct {
	// Kernel is a bzImage (vmlinuz), an ELF file (vmlinux) or an arm64 Image.
	Kernel string
	// Modules is the kernel's module directory, such as /lib/modules/6.12.1-amd64;
	// empty for a kernel that has everything built in.
	Modules string
	// Signed keeps the modules' signatures, for a kernel that refuses to load a module without.
	Signed bool
	// Agent is the static program that becomes /init.
	Agent string
	// Crun is the OCI runtime that becomes /bin/crun. If it is dynamic, its
	// libraries come along.
	Crun string
}

// Build writes dir/kernel and dir/initrd, each whole or not at all. It makes dir if need be.
func (i Image) Build(dir string) error {
	kernel, err := os.ReadFile(i.Kernel)
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	kernel, err = ExtractKernel(kernel)
	if err != nil {
		return fmt.Errorf("extract kernel %s: %w", i.Kernel, err)
	}
	initrd, err := i.initramfs()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make image directory: %w", err)
	}
	if err := replace(filepath.Join(dir, "kernel"), kernel); err != nil {
		return fmt.Errorf("write kernel: %w", err)
	}
	if err := replace(filepath.Join(dir, "initrd"), initrd); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	return nil
}

// initramfs returns the archive for the image.
func (i Image) initramfs() ([]byte, error) {
	var tree Tree
	for _, mount := range []string{"dev", "proc", "sys", "run", "tmp"} {
		tree.Dir(mount, 0o755)
	}
	if err := tree.Copy("init", i.Agent, 0o755); err != nil {
		return nil, fmt.Errorf("add agent: %w", err)
	}
	if err := tree.Copy("bin/crun", i.Crun, 0o755); err != nil {
		return nil, fmt.Errorf("add crun: %w", err)
	}
	libraries, err := Libraries(i.Crun)
	if err != nil {
		return nil, fmt.Errorf("find libraries of %s: %w", i.Crun, err)
	}
	for _, library := range libraries {
		if err := tree.Copy(library, library, 0o755); err != nil {
			return nil, fmt.Errorf("add library: %w", err)
		}
	}
	if i.Modules != "" {
		modules, err := LoadModules(i.Modules, GuestModules)
		if err != nil {
			return nil, fmt.Errorf("pick modules: %w", err)
		}
		order := ""
		for _, m := range modules {
			if !i.Signed {
				m = m.Unsigned()
			}
			tree.File("modules/"+m.Name+".ko", m.Data, 0o644)
			order += m.Name + ".ko\n"
		}
		tree.File("modules/order", []byte(order), 0o644)
	}
	return tree.Archive()
}

// replace writes a file under a temporary name and renames it, so that a VM that
// starts meanwhile sees the old file or the new one.
func replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
