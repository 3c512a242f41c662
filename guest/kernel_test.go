package guest

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// pvhNote is the note that names a PVH entry point: sizes of owner and value, type, owner, value.
func pvhNote() []byte {
	note := binary.LittleEndian.AppendUint32(nil, 4)
	note = binary.LittleEndian.AppendUint32(note, 8)
	note = binary.LittleEndian.AppendUint32(note, 18)
	note = append(note, "Xen\x00"...)
	return binary.LittleEndian.AppendUint64(note, 0x1000a30)
}

// bzImage wraps a payload as arch/x86/boot does.
func bzImage(payload []byte) []byte {
	const setupSectors, offset = 3, 16
	image := make([]byte, (setupSectors+1)*512+offset)
	image[0x1f1] = setupSectors
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x020f)
	binary.LittleEndian.PutUint32(image[0x248:], offset)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	return append(append(image, payload...), "the rest of the image"...)
}

// sized appends the unpacked size, as the kernel's build does with all formats but gzip.
func sized(compressed []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(compressed, uint32(size))
}

func TestExtractKernel(t *testing.T) {
	pvh := elfFile(t, pvhNote())
	old := elfFile(t, []byte("some other note"))
	zstd := bzImage(sized(filtered(t, pvh, "zstd", "-q"), len(pvh)))
	xz := bzImage(sized(filtered(t, pvh, "xz", "--check=crc32"), len(pvh)))
	gzip := bzImage(gzipped(t, pvh))
	withoutPVH := bzImage(gzipped(t, old))
	short := zstd[:0x24f]
	beyond := bytes.Clone(zstd[:2100])
	for _, test := range []struct {
		name       string
		have, want []byte
	}{
		{"zstd", zstd, pvh},
		{"xz", xz, pvh},
		{"gzip", gzip, pvh},
		{"no PVH entry", withoutPVH, withoutPVH},
		{"ELF", pvh, pvh},
		{"something else", []byte("ARM64 Image"), []byte("ARM64 Image")},
		{"empty", nil, nil},
		{"header cut short", short, short},
		{"payload cut short", beyond, beyond},
	} {
		got, err := ExtractKernel(test.have)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		} else if !bytes.Equal(got, test.want) {
			t.Errorf("%s: %d bytes, want %d", test.name, len(got), len(test.want))
		}
	}
}

func TestExtractKernelDamaged(t *testing.T) {
	image := bzImage(sized([]byte{0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3, 4}, 100))
	if _, err := ExtractKernel(image); err == nil {
		t.Fatal("no error for a payload that does not unpack")
	}
}
