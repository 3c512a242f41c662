package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
)

// ExtractKernel returns the uncompressed ELF kernel inside a bzImage when it has a PVH
// entry: QEMU enters that directly, and so the guest neither decompresses its kernel nor needs
// the memory for that. Any other kernel comes back as it is.
func ExtractKernel(kernel []byte) ([]byte, error) {
	payload, ok := payload(kernel)
	if !ok {
		return kernel, nil
	}
	vmlinux, err := decompress(payload)
	if err != nil {
		return nil, err
	}
	if !hasPVH(vmlinux) {
		return kernel, nil
	}
	return vmlinux, nil
}

// payload finds the compressed kernel in a bzImage by its header
// (Documentation/arch/x86/boot.rst, fields setup_sects, header, version, payload_offset, payload_length).
func payload(image []byte) ([]byte, bool) {
	const sector, headerEnd = 512, 0x250
	if len(image) < headerEnd || string(image[0x202:0x206]) != "HdrS" || binary.LittleEndian.Uint16(image[0x206:]) < 0x0208 {
		return nil, false
	}
	start := (int(image[0x1f1])+1)*sector + int(binary.LittleEndian.Uint32(image[0x248:]))
	end := start + int(binary.LittleEndian.Uint32(image[0x24c:]))
	if start > end || end > len(image) {
		return nil, false
	}
	data := image[start:end]
	// All formats but gzip, which has it already, are followed by the unpacked size
	// (scripts/Makefile.lib, size_append); a decompressor takes it for garbage.
	if len(data) > 4 && !bytes.HasPrefix(data, gzipMagic) {
		data = data[:len(data)-4]
	}
	return data, true
}

// hasPVH tells whether an ELF kernel has the note that names its PVH entry point:
// owner "Xen", type XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h).
func hasPVH(kernel []byte) bool {
	file, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return false
	}
	note := binary.LittleEndian.AppendUint32(nil, 18)
	note = append(note, "Xen\x00"...)
	for _, p := range file.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err == nil && bytes.Contains(notes, note) {
			return true
		}
	}
	return false
}

var gzipMagic = []byte{0x1f, 0x8b}

// decompress unpacks data that one of the kernel's compressors made; what is not
// compressed comes back as it is.
func decompress(data []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(data, gzipMagic):
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	case bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")):
		return filter(data, "xz", "-dc")
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return filter(data, "zstd", "-dc")
	case bytes.HasPrefix(data, []byte{0x02, 0x21, 0x4c, 0x18}):
		return filter(data, "lz4", "-dc")
	}
	return data, nil
}

// filter sends data through a program.
func filter(data []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(data)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
