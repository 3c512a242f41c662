// Mapper uses a file by a shared mapping, which no program of busybox does.
//
//	mapper write FILE TEXT           writes TEXT at its start
//	mapper append FILE TEXT MORE     the same by a descriptor for append, with which it writes MORE too
//	mapper watch FILE                prints its end as a mapping has it, before and after a line comes on stdin
package main

import (
	"bufio"
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

func main() {
	args := os.Args[1:]
	switch args[0] {
	case "write":
		write(args[1], args[2], "", 0)
	case "append":
		write(args[1], args[2], args[3], os.O_APPEND)
	case "watch":
		watch(args[1])
	}
}

func write(name, text, more string, flags int) {
	file, err := os.OpenFile(name, os.O_RDWR|flags, 0)
	must(err)
	memory := mapped(file, syscall.PROT_READ|syscall.PROT_WRITE)
	copy(memory, text)
	_, err = file.WriteString(more)
	must(err)
	if _, _, errno := syscall.Syscall(syscall.SYS_MSYNC, uintptr(unsafe.Pointer(&memory[0])), uintptr(len(memory)), syscall.MS_SYNC); errno != 0 {
		must(errno)
	}
	must(syscall.Munmap(memory))
	must(file.Close())
}

func watch(name string) {
	file, err := os.Open(name)
	must(err)
	in := bufio.NewReader(os.Stdin)
	for range 2 {
		memory := mapped(file, syscall.PROT_READ)
		fmt.Printf("%q\n", memory[max(len(memory)-5, 0):])
		must(syscall.Munmap(memory))
		_, err := in.ReadString('\n')
		must(err)
	}
}

func mapped(file *os.File, protection int) []byte {
	info, err := file.Stat()
	must(err)
	memory, err := syscall.Mmap(int(file.Fd()), 0, int(info.Size()), protection, syscall.MAP_SHARED)
	must(err)
	return memory
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
