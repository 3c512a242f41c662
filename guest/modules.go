package guest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// GuestModules names the modules that a guest needs, where the kernel has them as modules.
var GuestModules = []string{
	"virtio_pci",     // all virtio devices are on PCI
	"virtio_console", // the agent's channel
	"virtio_rng",     // fresh entropy for a clone
	"virtio_balloon", // free page reporting
	"virtio_net",     // network interfaces
	"9pnet_virtio",   // the share ...
	"9p",             // ... and its file system
	"virtiofs",       // the share, where virtio-fs is chosen
	"overlay",        // images that are stacked in the guest
	// What the agent's rule for name servers needs: destination NAT by nftables. These cost 4 MiB of a template. What only
	// a container's own rules, bridges and tunnels would need costs twice that, and is left to kernels that have it built in.
	"nft_chain_nat", "nft_nat", "nft_redir",
}

// Module is a kernel module, decompressed.
type Module struct {
	Name string // as the kernel writes it, with underscores
	Data []byte // an ELF file, and a signature if it has one
}

// Unsigned returns the module without its signature. The kernel checks a signature that
// is there, which costs more than the rest of the loading without hardware help; it loads a
// module without one unless it was built to refuse them (CONFIG_MODULE_SIG_FORCE).
//
// A signature is followed by a struct module_signature, 12 bytes whose last four are the
// signature's length, and a magic string (include/linux/module_signature.h).
func (m Module) Unsigned() Module {
	const magic, header = "~Module signature appended~\n", 12
	rest, signed := bytes.CutSuffix(m.Data, []byte(magic))
	if !signed || len(rest) < header {
		return m
	}
	length := int64(binary.BigEndian.Uint32(rest[len(rest)-4:]))
	end := int64(len(rest)-header) - length
	if end < 0 {
		return m
	}
	m.Data = m.Data[:end]
	return m
}

// LoadModules returns the named modules of a module directory and all that they depend on,
// each after what it needs: in load order. Built-in ones are left out. A name that is neither
// a module nor built in is an error.
func LoadModules(dir string, names []string) ([]Module, error) {
	c := &closure{files: map[string]string{}, done: map[string]bool{}}
	if err := c.scan(dir); err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := c.add(name, nil); err != nil {
			return nil, err
		}
	}
	return c.modules, nil
}

// closure collects modules in load order. It reads what modules say of themselves
// rather than modules.dep, which an unpacked but uninstalled kernel package lacks.
type closure struct {
	files   map[string]string // name -> file
	done    map[string]bool   // built in, or added
	modules []Module
}

// scan finds the module files under dir and the names in modules.builtin.
func (c *closure) scan(dir string) error {
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return fmt.Errorf("read modules.builtin: %w", err)
	}
	for line := range strings.Lines(string(builtin)) {
		if name, ok := moduleName(strings.TrimSpace(line)); ok {
			c.done[name] = true
		}
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ok := moduleName(path); ok && d.Type().IsRegular() {
			c.files[name] = path
		}
		return nil
	})
}

// add appends a module after its dependencies. above are the modules that led here.
func (c *closure) add(name string, above []string) error {
	name = strings.ReplaceAll(name, "-", "_")
	if c.done[name] {
		return nil
	}
	c.done[name] = true
	file, ok := c.files[name]
	if !ok {
		wanted := ""
		if len(above) > 0 {
			wanted = fmt.Sprintf(" (needed by %s)", strings.Join(above, " < "))
		}
		return fmt.Errorf("module %s%s is neither there nor built into the kernel", name, wanted)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if data, err = decompress(data); err != nil {
		return fmt.Errorf("decompress %s: %w", file, err)
	}
	needs, err := dependencies(data)
	if err != nil {
		return fmt.Errorf("read dependencies of %s: %w", file, err)
	}
	for _, need := range needs.hard {
		if err := c.add(need, append([]string{name}, above...)); err != nil {
			return err
		}
	}
	for _, need := range needs.soft {
		// It is often an alias, and the kernel does without, but libcrc32c, and with it all connection tracking, does not
		// load without some "crc32c". The one that runs on every processor has a name of this form.
		for _, file := range []string{need, need + "_generic"} {
			if _, ok := c.files[file]; !ok {
				continue
			}
			if err := c.add(file, append([]string{name}, above...)); err != nil {
				return err
			}
		}
	}
	c.modules = append(c.modules, Module{Name: name, Data: data})
	return nil
}

// moduleName returns the name of the module in a file: "x/virtio-rng.ko.xz" holds virtio_rng.
func moduleName(path string) (string, bool) {
	base, suffix, ok := strings.Cut(filepath.Base(path), ".ko")
	switch suffix {
	case "", ".gz", ".xz", ".zst":
		return strings.ReplaceAll(base, "-", "_"), ok
	}
	return "", false
}

type needs struct {
	hard []string // without them it does not load
	soft []string // to be loaded before it, where there are such
}

// dependencies reads a module's .modinfo section: strings "key=value", each ended by a
// zero byte (include/linux/module.h, MODULE_INFO). "depends" is a list with commas,
// "softdep" is "pre: a b post: c".
func dependencies(module []byte) (needs, error) {
	var n needs
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return n, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return n, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return n, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		switch key, value, _ := strings.Cut(entry, "="); key {
		case "depends":
			n.hard = append(n.hard, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			pre, _, _ := strings.Cut(value, "post:")
			n.soft = append(n.soft, strings.Fields(strings.TrimPrefix(strings.TrimSpace(pre), "pre:"))...)
		}
	}
	return n, nil
}
