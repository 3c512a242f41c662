package guest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// moduleDir makes a module directory: files by path, and what modules.builtin says.
func moduleDir(t *testing.T, builtin string, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "modules.builtin"), []byte(builtin))
	for name, data := range files {
		write(t, filepath.Join(dir, name), data)
	}
	return dir
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func filtered(t *testing.T, data []byte, name string, args ...string) []byte {
	t.Helper()
	out, err := filter(data, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLoadModules(t *testing.T) {
	const builtin = "kernel/drivers/virtio/virtio_pci.ko\nkernel/lib/crc-itu.ko\n"
	files := map[string][]byte{
		"kernel/fs/9p/9p.ko.xz":           filtered(t, module(t, "license=GPL", "depends=netfs,9pnet"), "xz"),
		"kernel/net/9p/9pnet.ko.zst":      filtered(t, module(t, "depends="), "zstd", "-q"),
		"kernel/fs/netfs/netfs.ko.gz":     gzipped(t, module(t, "depends=")),
		"kernel/net/9p/9pnet_virtio.ko":   module(t, "depends=9pnet,virtio_pci"),
		"kernel/drivers/char/a-b.ko":      module(t, "depends=crc-itu"),
		"kernel/fs/soft.ko":               module(t, "softdep=pre: crc32c a_b post: 9p", "depends=netfs"),
		"kernel/lib/soft2.ko":             module(t, "softdep=pre: cipher", "depends="),
		"kernel/crypto/cipher_generic.ko": module(t, "depends="),
		"kernel/crypto/cipher-fast.ko":    module(t, "depends="),
		"kernel/fs/broken.ko":             module(t, "depends=halfway"),
		"kernel/fs/halfway.ko":            module(t, "depends=nowhere"),
		"kernel/fs/noinfo.ko":             elfFile(t, nil),
		"kernel/fs/garbage.ko":            []byte("no module"),
		"kernel/fs/truncated.ko.xz":       []byte("\xfd7zXZ\x00"),
		"kernel/fs/self.ko":               module(t, "depends=self"),
		"build/not-a-module.koala":        []byte("x"),
		"kernel/fs/9p/9p.ko.xz.sig":       []byte("x"),
		"kernel/drivers/net/virtio_net.o": []byte("x"),
	}
	for _, test := range []struct {
		name  string
		want  []string
		order string
		err   string
	}{
		{"dependencies first, each once", []string{"9p", "9pnet_virtio"}, "netfs 9pnet 9p 9pnet_virtio", ""},
		{"built in", []string{"virtio_pci"}, "", ""},
		{"dash and underscore are one", []string{"a_b"}, "a_b", ""},
		{"named with a dash", []string{"a-b"}, "a_b", ""},
		{"soft dependencies, where there are such", []string{"soft"}, "netfs a_b soft", ""},
		{"the portable one of an alias", []string{"soft2"}, "cipher_generic soft2", ""},
		{"depends on itself", []string{"self"}, "self", ""},
		{"none", nil, "", ""},
		{"missing", []string{"virtio_net"}, "", "module virtio_net is neither there nor built into the kernel"},
		{"missing below", []string{"broken"}, "", "module nowhere (needed by halfway < broken) is neither there nor built into the kernel"},
		{"no .modinfo", []string{"noinfo"}, "", "no .modinfo section"},
		{"not ELF", []string{"garbage"}, "", "garbage.ko"},
		{"cut short", []string{"truncated"}, "", "xz: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			modules, err := LoadModules(moduleDir(t, builtin, files), test.want)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, m := range modules {
				names = append(names, m.Name)
				if !bytes.HasPrefix(m.Data, []byte("\x7fELF")) {
					t.Errorf("%s is not decompressed", m.Name)
				}
			}
			if got := strings.Join(names, " "); got != test.order {
				t.Errorf("order %q, want %q", got, test.order)
			}
		})
	}
}

func TestLoadModulesWithoutDirectory(t *testing.T) {
	if _, err := LoadModules(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Fatal("no error")
	}
}

func TestUnsigned(t *testing.T) {
	const magic = "~Module signature appended~\n"
	signed := func(module, signature string, length uint32) string {
		header := binary.BigEndian.AppendUint32(make([]byte, 8), length)
		return module + signature + string(header) + magic
	}
	for _, test := range []struct{ name, data, want string }{
		{"signed", signed("code", "signature", 9), "code"},
		{"unsigned", "code", "code"},
		{"empty", "", ""},
		{"length beyond the start", signed("code", "signature", 14), signed("code", "signature", 14)},
		{"huge length", signed("code", "signature", 1<<32-1), signed("code", "signature", 1<<32-1)},
		{"magic alone", magic, magic},
	} {
		if got := (Module{Data: []byte(test.data)}).Unsigned().Data; string(got) != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
