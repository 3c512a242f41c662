package guest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// section is a section of an ELF file made for a test.
type section struct {
	name string
	data []byte
}

// elfFile makes a 64-bit ELF file with the sections, and with a PT_NOTE segment that holds note
// unless that is empty.
func elfFile(t *testing.T, note []byte, sections ...section) []byte {
	t.Helper()
	const headerSize, progSize = 64, 56
	body := new(bytes.Buffer)
	offset := func() uint64 { return headerSize + progSize + uint64(body.Len()) }

	prog := elf.Prog64{Type: uint32(elf.PT_NOTE), Off: offset(), Filesz: uint64(len(note)), Memsz: uint64(len(note))}
	body.Write(note)

	names := []byte{0}
	table := []elf.Section64{{}}
	for _, s := range append(sections, section{name: ".shstrtab"}) {
		header := elf.Section64{Name: uint32(len(names)), Type: uint32(elf.SHT_PROGBITS), Off: offset(), Size: uint64(len(s.data))}
		names = append(append(names, s.name...), 0)
		if s.name == ".shstrtab" {
			header.Type, header.Size, s.data = uint32(elf.SHT_STRTAB), uint64(len(names)), names
		}
		body.Write(s.data)
		table = append(table, header)
	}

	header := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: headerSize, Shoff: offset(), Ehsize: headerSize, Phentsize: progSize, Phnum: 1,
		Shentsize: 64, Shnum: uint16(len(table)), Shstrndx: uint16(len(table) - 1),
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)

	file := new(bytes.Buffer)
	for _, part := range []any{header, prog, body.Bytes(), table} {
		if err := binary.Write(file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

// module makes a kernel module that has nothing but the entries of its .modinfo section.
func module(t *testing.T, info ...string) []byte {
	t.Helper()
	var data []byte
	for _, entry := range info {
		data = append(append(data, entry...), 0)
	}
	return elfFile(t, nil, section{name: ".modinfo", data: data})
}
