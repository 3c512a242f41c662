package hypervisor

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// newMemory makes the memory of a VM that shares it with other processes, as vhost-user devices such as virtio-fs need.
// It has no name, so that nothing can be left of it, and no disk behind it, to which the kernel would write all that the
// guest writes.
func newMemory(mib int) (*os.File, error) {
	fd, err := unix.MemfdCreate("guest-memory", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), "guest-memory")
	if err := file.Truncate(int64(mib) << 20); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// copyMemory copies the template's memory, holes left out. A QEMU that waits for its state does not look at its memory,
// so it can start meanwhile.
func (t *Template) copyMemory(to *os.File) error {
	from := int(t.memory.Fd())
	for end := int64(0); ; {
		start, err := unix.Seek(from, end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no more (lseek(2))
			return nil
		}
		if err == nil {
			end, err = unix.Seek(from, start, unix.SEEK_HOLE)
		}
		if err == nil {
			_, err = io.Copy(io.NewOffsetWriter(to, start), io.NewSectionReader(t.memory, start, end-start))
		}
		if err != nil {
			return fmt.Errorf("copy memory of template: %w", err)
		}
	}
}
