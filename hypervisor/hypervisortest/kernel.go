package hypervisortest

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// Act is what a Kernel does once it has said its text.
type Act byte

// The acts of a kernel.
const (
	Halt     Act = iota // does nothing, for ever
	PowerOff            // as poweroff does, through q35's ACPI registers
	Reset               // as a panic does
	Repeat              // says the text again, for ever
	Eject               // lets go of each hot-plugged device that it is asked for
)

// Where a kernel's parts are, in the file and in the guest's memory.
const (
	kernelNote    = 0x800
	kernelCode    = 0x1000
	kernelText    = 0x1100
	kernelAddress = 0x100000 // of the code, in memory
)

// Kernel writes a kernel of a few dozen bytes for a q35 machine: it says text on the first serial port, and acts. The
// fake QEMU obeys it as the real one does. It returns the file's path.
//
// It is an x86_64 ELF file with one loaded segment and a note with the 32-bit entry point that PVH boot uses (Linux
// Documentation/arch/x86/boot.rst, Xen's elfnote.h).
func Kernel(t testing.TB, text string, act Act) string {
	t.Helper()
	code := assemble(act)
	segment := make([]byte, kernelText-kernelCode, kernelText-kernelCode+len(text)+1)
	copy(segment, code)
	segment = append(append(segment, text...), 0)

	var note bytes.Buffer
	write(&note, []uint32{4, 4, 18}) // sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY
	note.WriteString("Xen\x00")
	write(&note, uint32(kernelAddress))

	var file bytes.Buffer
	file.WriteString("\x7fELF\x02\x01\x01" + string(make([]byte, 9)))
	write(&file, []uint16{2, 62}) // executable, x86_64
	write(&file, uint32(1))
	write(&file, []uint64{kernelAddress, 64, 0}) // entry, program headers, section headers
	write(&file, uint32(0))
	write(&file, []uint16{64, 56, 2, 0, 0, 0}) // two program headers of 56 bytes follow these 64
	programHeader(&file, 1, kernelCode, kernelAddress, len(segment))
	programHeader(&file, 4, kernelNote, 0, note.Len())
	file.Write(make([]byte, kernelNote-file.Len()))
	file.Write(note.Bytes())
	file.Write(make([]byte, kernelCode-file.Len()))
	file.Write(segment)

	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func programHeader(file *bytes.Buffer, kind uint32, offset, address uint64, size int) {
	write(file, []uint32{kind, 7})
	write(file, []uint64{offset, address, address, uint64(size), uint64(size), 4})
}

func write(b *bytes.Buffer, value any) { _ = binary.Write(b, binary.LittleEndian, value) }

// assemble returns 32-bit code.
func assemble(act Act) []byte {
	code := []byte{0xbe} // mov esi, text
	code = binary.LittleEndian.AppendUint32(code, kernelAddress+kernelText-kernelCode)
	code = append(code,
		0xac,       // say: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x07, // jz act
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee,       // out dx, al
		0xeb, 0xf4, // jmp say
	)
	switch act { // act:
	case PowerOff:
		code = append(code,
			0x66, 0xba, 0x04, 0x06, // mov dx, 0x604: PM1a_CNT, where the firmware puts it
			0x66, 0xb8, 0x00, 0x20, // mov ax, 0x2000: SLP_EN, S5
			0x66, 0xef, // out dx, ax
		)
	case Reset:
		code = append(code,
			0x66, 0xba, 0xf9, 0x0c, // mov dx, 0xcf9: reset control
			0xb0, 0x0e, // mov al, 0x0e: full reset
			0xee, // out dx, al
		)
	case Repeat:
		code = append(code, 0xeb, byte(256-len(code)-2)) // jmp to the beginning
	case Eject:
		// For each of 16 buses: which slots are to be ejected? (QEMU docs/specs/acpi_pci_hotplug.rst; q35 has it at
		// 0xcc0.) The pause lets QEMU's own thread have its lock, which each access takes.
		code = append(code,
			0x89, 0xc8, // eject: mov eax, ecx
			0x66, 0xba, 0xd0, 0x0c, // mov dx, 0xcd0: bus selector
			0xef,                   // out dx, eax
			0x66, 0xba, 0xc4, 0x0c, // mov dx, 0xcc4: slots to be removed
			0xed,       // in eax, dx
			0x85, 0xc0, // test eax, eax
			0x74, 0x05, // jz next
			0x66, 0xba, 0xc8, 0x0c, // mov dx, 0xcc8: eject
			0xef,             // out dx, eax
			0x41,             // next: inc ecx
			0x83, 0xe1, 0x0f, // and ecx, 15
			0xbb, 0x50, 0xc3, 0x00, 0x00, // mov ebx, 50000
			0x4b,       // pause: dec ebx
			0x75, 0xfd, // jnz pause
			0xeb, 0xdd, // jmp eject
		)
	}
	return append(code,
		0xf4,       // halt: hlt
		0xeb, 0xfd, // jmp halt
	)
}

// readKernel is what the fake QEMU makes of a Kernel. Other files make a guest that says nothing, and halts.
func readKernel(path string) (text string, act Act) {
	file, err := os.ReadFile(path)
	if err != nil || len(file) <= kernelText {
		return "", Halt
	}
	for act := Halt; act <= Eject; act++ {
		if code := assemble(act); bytes.Equal(file[kernelCode:kernelCode+len(code)], code) {
			end := bytes.IndexByte(file[kernelText:], 0)
			return string(file[kernelText:][:max(end, 0)]), act
		}
	}
	return "", Halt
}
